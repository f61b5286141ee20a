from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from looking import PATIENCE, changed, coloured, pixels_of, require

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.show import palette
from dualtask_lite.show.volume.volume3d import page as write_page

require("ipyniivue")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    scan = make_case("B", 5, size=(48, 48, 24)).load()
    prediction = np.roll(scan.label, (2, 1, 1), (0, 1, 2))
    return write_page(scan, prediction, tmp_path_factory.mktemp("page") / "case.html")


@pytest.fixture
def viewer(page: Any, file):
    """The page with its 3D view drawn."""
    page.set_viewport_size({"width": 640, "height": 560})  # a small view is drawn quickly, also without a card
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=1000 * PATIENCE)
    assert page.evaluate("document.body.dataset.ready") == "3d", page.inner_text("#status")
    return page


def pixels(page: Any) -> np.ndarray:
    return pixels_of(page.locator("#canvas"))


def view_3d(page: Any) -> tuple[float, float]:
    """A place in the 3D view, which fills the left of the canvas."""
    box = page.locator("#canvas").bounding_box()
    return box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"]


def left(image: np.ndarray) -> np.ndarray:
    return image[:, : int(0.4 * image.shape[1])]


def right(image: np.ndarray) -> np.ndarray:
    return image[:, int(0.45 * image.shape[1]) :]


def test_canvas_shows_ct_and_all_label_colours(viewer):
    shown = pixels(viewer)
    for part in (left(shown), right(shown)):
        assert part.max() > 0.5
        assert part.std() > 0.05
    assert coloured(shown, palette.TUMOUR) > 100
    assert coloured(shown, palette.PANCREAS) > 50
    viewer.uncheck("[name=truth]")
    assert coloured(pixels(viewer), palette.PREDICTION) > 100


@pytest.mark.parametrize("name", ["truth", "prediction"])
def test_check_box_hides_and_shows_its_label(viewer, name):
    before = pixels(viewer)
    viewer.uncheck(f"[name={name}]")
    without = pixels(viewer)
    assert changed(before, without) > 0.005
    viewer.check(f"[name={name}]")
    assert changed(before, pixels(viewer)) == 0


def test_canvas_is_grey_without_labels(viewer):
    viewer.uncheck("[name=truth]")
    viewer.uncheck("[name=prediction]")
    assert all(coloured(pixels(viewer), colour) == 0 for colour in (palette.TUMOUR, palette.PREDICTION))


def test_dragging_rotates_only_the_3d_view(viewer):
    before, (x, y) = pixels(viewer), view_3d(viewer)
    viewer.mouse.move(x, y)
    viewer.mouse.down()
    viewer.mouse.move(x + 90, y + 20, steps=4)
    viewer.mouse.up()
    after = pixels(viewer)
    assert changed(left(before), left(after)) > 0.05
    assert changed(right(before), right(after)) < 0.001


def test_wheel_zooms_the_3d_view_and_changes_slices(viewer):
    before, (x, y) = pixels(viewer), view_3d(viewer)
    viewer.mouse.move(x, y)
    viewer.mouse.wheel(0, -300)
    zoomed = pixels(viewer)
    assert changed(left(before), left(zoomed)) > 0.02
    assert changed(right(before), right(zoomed)) < 0.001
    box = viewer.locator("#canvas").bounding_box()
    viewer.mouse.move(box["x"] + 0.55 * box["width"], y + 40)
    viewer.mouse.wheel(0, 300)
    assert changed(right(zoomed), right(pixels(viewer))) > 0.01


def test_keys_rotate_the_3d_view_and_home_resets_it(viewer):
    viewer.focus("#canvas")
    before = pixels(viewer)
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "+", "-"):
        viewer.keyboard.press(key)
        after = pixels(viewer)
        assert changed(left(before), left(after)) > 0.02, key
        assert changed(right(before), right(after)) < 0.001, key
        viewer.keyboard.press("Home")
        assert changed(before, pixels(viewer)) == 0, key


def test_keys_change_axial_slices(viewer):
    viewer.focus("#canvas")
    before = pixels(viewer)
    viewer.keyboard.press("PageUp")
    above = pixels(viewer)
    assert changed(right(before), right(above)) > 0.01
    viewer.keyboard.press("PageDown")
    viewer.keyboard.press("PageDown")
    below = pixels(viewer)
    assert changed(right(before), right(below)) > 0.01
    assert changed(right(above), right(below)) > 0.01


def test_keyboard_reaches_check_boxes_and_canvas(viewer):
    reached = []
    for _ in range(5):
        viewer.keyboard.press("Tab")
        reached.append(viewer.evaluate("document.activeElement.name || document.activeElement.id"))
    assert reached == ["truth", "prediction", "difference", "surface", "canvas"]


def test_picture_replaces_the_view_without_webgl2(page, file):
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext ="
        " function (kind, ...more) { return kind === 'webgl2' ? null : get.call(this, kind, ...more); };"
    )
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready=picture]")
    assert "no WebGL2" in page.inner_text("#status")
    assert page.is_visible("#picture img")
    assert not page.is_visible("#stage")


def test_picture_replaces_the_view_without_javascript(chromium, file):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.is_visible("#picture img")
    assert not page.is_visible("#switches")
    context.close()


def test_a_long_name_is_wrapped_on_a_narrow_page(chromium, tmp_path):
    scan = replace(make_case("B", 5, size=(48, 48, 24)).load(), id="1.2.840." + 56 * "9")
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 320, "height": 600})
    page = context.new_page()
    page.goto(write_page(scan, scan.label, tmp_path / "case.html").as_uri())
    assert page.locator("h1").evaluate("element => element.scrollWidth") <= 320
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()
