"""The page of a run in a browser: it opens from a file, runs nothing that came from data, fits, and prints."""

from __future__ import annotations

from typing import Any

import pytest
from looking import PATIENCE, require

from dualtask_lite.show.report.page import to_html

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def file(run_report, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(to_html(run_report), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (1024, "light"), (360, "light")])
def test_page_opens_from_a_file_and_fits(page: Any, file, width, scheme):
    page.on("dialog", lambda dialog: pytest.fail(f"a name of the data ran: {dialog.message}"))
    page.set_viewport_size({"width": width, "height": 768})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    assert page.title() == 'Run <script>alert("x")</script>&'
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(page.evaluate("[...document.images].filter(i => i.complete).map(i => i.naturalWidth > 0)"))
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    dark = [sum(map(int, colour[4:-1].split(","))) < 3 * 128 for colour in (ink, paper)]
    assert dark == ([False, True] if scheme == "dark" else [True, False])


def test_slices_of_an_example_can_be_browsed(page: Any, file):
    page.goto(file.as_uri())
    page.get_by_role("slider").first.press("End")
    assert page.locator(".words").first.inner_text().startswith("Slice 20 of 20")


def test_worst_case_is_drawn_in_3d(page: Any, file):
    require("ipyniivue")
    page.set_viewport_size({"width": 640, "height": 560})  # a small view is drawn quickly, also without a GPU
    page.goto(file.as_uri())
    inside = page.frame_locator("iframe")
    inside.locator("body[data-ready]").wait_for(timeout=1000 * PATIENCE)
    assert inside.locator("body").get_attribute("data-ready") == "3d", inside.locator("#status").inner_text()


def test_contents_and_tables_work_by_keyboard(page: Any, file):
    page.goto(file.as_uri())
    page.get_by_role("link", name="Settings").press("Enter")
    assert page.url.endswith("#settings")
    page.get_by_role("region", name="Every setting of the run").focus()
    assert page.evaluate("document.activeElement.className") == "scroll"


def test_print_is_black_on_white_without_interactive_parts(page: Any, file, tmp_path):
    page.goto(file.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator(".dualtask-slices").first.is_visible()
    assert not page.locator("nav").is_visible()
    assert page.get_by_role("img", name="Three CT planes").first.is_visible()
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
