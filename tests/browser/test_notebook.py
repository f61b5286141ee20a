from __future__ import annotations

from typing import Any

import pytest
from looking import changed, coloured, drawn, pixels_of, require

from dualtask_lite.show import palette

require("ipyniivue")
pytestmark = pytest.mark.browser

CASE = """
import numpy as np
from dualtask_lite import show
from dualtask_lite.cases.phantom import make_case
scan = make_case("B", 5, size=(48, 48, 24)).load()
prediction = np.roll(scan.label, (2, 1), (0, 1))
"""


@pytest.mark.parametrize("lab", ["/user/ada/"], indirect=True)
def test_slices_follow_the_slider_with_colours_on_the_labels(lab: Any, page: Any):
    lab.run(page, [CASE, "show.slices(scan, prediction, plane='axial')"])
    stage = page.locator(".dualtask-slices .stage")
    stage.scroll_into_view_if_needed()
    for layer in ("pancreas", "prediction"):
        page.locator(f"input[data-layer={layer}]").uncheck()
    before = pixels_of(stage)
    assert coloured(before, palette.TUMOUR) > 100
    page.locator("input[data-layer=tumour]").uncheck()
    assert coloured(pixels_of(stage), palette.TUMOUR) == 0
    page.locator("input[data-layer=difference]").check()
    errors = pixels_of(stage)
    assert coloured(errors, palette.FALSE_POSITIVE) > 100
    assert coloured(errors, palette.FALSE_NEGATIVE) > 100
    slider = page.locator(".dualtask-slices input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert changed(errors, pixels_of(stage)) > 0.05
    assert page.locator(".jp-Cell.jp-mod-selected .dualtask-slices").count() <= 1, "the key stayed in the slider"


@pytest.mark.parametrize("lab", ["/user/ada/"], indirect=True)
def test_two_niivue_widgets_in_one_notebook(lab: Any, page: Any):
    page.set_viewport_size({"width": 760, "height": 760})  # a picture this small is drawn quickly, also without a card
    lab.run(page, [CASE, "first = show.volume3d(scan, prediction)\nfirst", "show.volume3d(scan)"])
    one, other = (page.locator(".jp-OutputArea-output canvas").nth(number) for number in (0, 1))
    first, second = drawn(one, palette.TUMOUR), drawn(other, palette.TUMOUR)
    assert coloured(first, palette.PREDICTION) > 50
    for shown in (first, second):
        assert coloured(shown, palette.TUMOUR) > 50
        assert shown.std() > 0.05
    assert coloured(second, palette.PREDICTION) == 0
    page.locator(".jp-OutputArea-output").get_by_label("prediction: ").uncheck()
    without = pixels_of(one)
    assert coloured(without, palette.PREDICTION) == 0
    # The 3D view is on the left; there the organ shines through the tissue around it.
    assert coloured(without[:, : int(0.4 * without.shape[1])], palette.PANCREAS) > 50
    box = one.bounding_box()
    x, y = box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 20, steps=4)
    page.mouse.up()
    assert changed(without, pixels_of(one)) > 0.02
    assert changed(second, pixels_of(other)) == 0


def test_slow_viewer_still_draws_and_answers(lab: Any, page: Any):
    page.set_viewport_size({"width": 760, "height": 760})
    # anywidget gives a viewer 2 s to load; here none.
    page.add_init_script(
        "const timeout = AbortSignal.timeout.bind(AbortSignal);"
        "AbortSignal.timeout = (ms) => timeout(ms === 2000 ? 0 : ms);"
    )
    control = (
        "from dualtask_lite.show.controls import metric_explorer\nmetric_explorer(lambda p, t, s: {'dice': p.mean()})"
    )
    lab.run(page, [CASE, "show.volume3d(scan, prediction)", control])
    canvas = page.locator(".jp-OutputArea-output canvas").first  # the control has canvases too
    shown = drawn(canvas, palette.TUMOUR)
    assert coloured(shown, palette.TUMOUR) > 50
    assert coloured(shown, palette.PREDICTION) > 50
    page.locator(".jp-OutputArea-output").get_by_label("prediction: ").uncheck()
    assert coloured(drawn(canvas, palette.TUMOUR), palette.PREDICTION) == 0
    # JupyterLab hides the notebook for a moment, as when one scrolls past: NiiVue alone would stay black.
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    assert coloured(drawn(canvas, palette.TUMOUR), palette.TUMOUR) > 50
    figure = page.locator(".dualtask-explorer")
    for key in ("End", "Home"):
        before = figure.locator(".words").inner_text()
        figure.get_by_role("slider", name="Grow").press(key)
        page.wait_for_function(
            "([words, before]) => words.textContent !== before",
            arg=[figure.locator(".words").element_handle(), before],
        )
