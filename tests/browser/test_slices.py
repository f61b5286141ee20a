from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualtask_lite.cases.case import Case
from dualtask_lite.show.slices.browser import SliceBrowser, slices

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> SliceBrowser:
    shape = (40, 50, 20)
    volume = np.random.default_rng(0).uniform(-90, 230, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[10:26, 10:30, 5:15] = 1
    label[14:20, 14:24, 9] = 2
    scan = Case("A_001", "A", volume, label, np.diag([2.0, 1.0, 4.0, 1.0])).load()
    distance = np.where(label > 0, -5.0, 5.0)
    return slices(scan, prediction=np.roll(label, 3, axis=0), distance=distance)


def open_page(page: Any, folder: Path, *figures: str) -> None:
    file = folder / "page.html"
    title = '<!doctype html><html lang="en"><meta charset="utf-8"><title>slices</title>'
    file.write_text(title + "".join(figures), encoding="utf-8")
    page.goto(file.as_uri())


def pixels(page: Any, folder: Path, number: int = 0) -> np.ndarray:
    path = folder / "stage.png"
    page.locator(".stage").nth(number).screenshot(path=path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def words(page: Any, number: int = 0) -> str:
    return page.locator(".words").nth(number).inner_text()


def test_browser_starts_on_the_tumour_and_follows_the_keyboard(page, tmp_path, browser):
    open_page(page, tmp_path, browser.to_html())
    before = pixels(page, tmp_path)
    assert words(page).startswith("Slice 10 of 20")
    slider = page.get_by_label("Slice", exact=False).first
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert words(page).startswith("Slice 11 of 20")
    assert (pixels(page, tmp_path) != before).any(axis=-1).mean() > 0.5
    assert slider.get_attribute("aria-valuetext") == "Slice 11 of 20"
    assert page.locator(".stage img").first.get_attribute("alt") == words(page)
    page.keyboard.press("ArrowLeft")
    assert (pixels(page, tmp_path) == before).all()
    page.keyboard.press("Home")
    assert words(page).startswith("Slice 1 of 20")
    page.keyboard.press("End")
    assert words(page).startswith("Slice 20 of 20")
    page.keyboard.press("PageDown")
    assert words(page).startswith("Slice 18 of 20")


def test_mouse_wheel_changes_slices_then_scrolls_the_page(page, tmp_path, browser):
    open_page(page, tmp_path, browser.to_html(), '<div style="height: 3000px"></div>')
    page.locator(".stage").hover()
    page.mouse.wheel(0, -100)
    page.wait_for_function("document.querySelector('.words').textContent.startsWith('Slice 11 of')")
    page.mouse.wheel(0, 100)
    page.wait_for_function("document.querySelector('.words').textContent.startsWith('Slice 10 of')")
    assert page.evaluate("scrollY") == 0
    page.get_by_role("slider").press("Home")
    page.mouse.wheel(0, 100)
    page.wait_for_function("scrollY > 0")


def test_small_steps_of_a_touchpad_at_the_last_slice_all_scroll_the_page(page, tmp_path, browser):
    open_page(page, tmp_path, browser.to_html(), '<div style="height: 3000px"></div>')
    page.get_by_role("slider").press("Home")
    kept = page.locator(".stage").evaluate(
        """stage => [10, 10, 10, 10, 10, 10].map(deltaY =>
          stage.dispatchEvent(new WheelEvent("wheel", { deltaY, cancelable: true, bubbles: true })))"""
    )
    assert kept == [True] * 6
    assert words(page).startswith("Slice 1 of 20")


@pytest.mark.parametrize("event", [{"deltaX": 90}, {"deltaY": -90, "ctrlKey": True}])
def test_sideways_scroll_and_zoom_stay_with_the_page(page, tmp_path, browser, event):
    open_page(page, tmp_path, browser.to_html())
    send = "(stage, event) => stage.dispatchEvent(new WheelEvent('wheel', { ...event, cancelable: true }))"
    assert page.locator(".stage").evaluate(send, event)
    assert words(page).startswith("Slice 10 of 20")


@pytest.mark.parametrize("layer", ["pancreas", "tumour", "prediction", "distance"])
def test_check_box_hides_and_shows_its_layer(page, tmp_path, browser, layer):
    open_page(page, tmp_path, browser.to_html())
    before = pixels(page, tmp_path)
    box = page.locator(f"input[data-layer={layer}]")
    box.uncheck()
    without = pixels(page, tmp_path)
    assert (without != before).any(axis=-1).sum() > 100
    page.get_by_role("slider").press("ArrowRight")
    page.get_by_role("slider").press("ArrowLeft")
    assert (pixels(page, tmp_path) == without).all()
    box.check()
    assert (pixels(page, tmp_path) == before).all()


def test_outline_is_drawn_on_its_label(page, tmp_path, browser):
    open_page(page, tmp_path, browser.to_html())
    for layer in ("pancreas", "prediction", "distance"):
        page.locator(f"input[data-layer={layer}]").uncheck()
    image = pixels(page, tmp_path)
    orange = np.argwhere(np.abs(image - (0xE6, 0x9F, 0x00)).max(axis=-1) < 8)
    (top, left), (bottom, right) = orange.min(axis=0), orange.max(axis=0)
    rows, columns = image.shape[0] / 50, image.shape[1] / 40  # px a voxel
    np.testing.assert_allclose([left / columns, right / columns], [40 - 20, 40 - 14], atol=0.35)
    np.testing.assert_allclose([top / rows, bottom / rows], [50 - 24, 50 - 14], atol=0.35)


def test_two_on_one_page_are_independent(page, tmp_path, browser):
    open_page(page, tmp_path, browser.to_html(), browser.to_html())
    page.get_by_role("slider").nth(1).press("End")
    page.locator("input[data-layer=tumour]").nth(1).uncheck()
    assert words(page, 0).startswith("Slice 10 of 20")
    assert words(page, 1).startswith("Slice 20 of 20")
    assert page.locator("input[data-layer=tumour]").nth(0).is_checked()


def test_browser_shrinks_in_proportion_on_a_narrow_page(page, tmp_path, browser):
    page.set_viewport_size({"width": 320, "height": 600})
    open_page(page, tmp_path, '<meta name="viewport" content="width=device-width">', browser.to_html())
    stage = page.locator(".stage").bounding_box()
    assert stage["width"] < 320
    assert stage["width"] / stage["height"] == pytest.approx(browser.size[0] / browser.size[1], rel=0.01)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_long_name_is_wrapped_on_a_narrow_page(page, tmp_path):
    volume = np.random.default_rng(0).uniform(-90, 230, (10, 12, 3)).astype(np.float32)
    page.set_viewport_size({"width": 320, "height": 600})
    figure = slices(volume, spacing=(1, 1, 5), name="1.2.840." + 60 * "9").to_html()
    open_page(page, tmp_path, '<meta name="viewport" content="width=device-width">', figure)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_picture_with_description_is_shown_without_scripts(chromium, tmp_path, browser):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    open_page(page, tmp_path, browser.to_html())
    image = page.get_by_role("img", name="Axial CT slice. Slice 10 of 20")
    assert image.is_visible()
    assert pixels(page, tmp_path).std() > 20
    assert not page.get_by_role("slider").is_visible()
    context.close()
