from __future__ import annotations

from typing import Any

import pytest
from looking import changed, coloured, pixels_of

from dualtask_lite.show import palette

pytest.importorskip("ipyniivue")
pytestmark = pytest.mark.browser

CASE = """
import numpy as np
from dualtask_lite import show
from dualtask_lite.cases.phantom import make_case
scan = make_case("B", 5, size=(48, 48, 24)).load()
prediction = np.roll(scan.label, (2, 1), (0, 1))
"""


@pytest.mark.parametrize("lab", ["/user/ada/"], indirect=True)
def test_slices_move_with_the_slider_and_colours_are_where_the_labels_are(lab: Any, page: Any):
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
