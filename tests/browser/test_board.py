"""The board in a browser: it opens from a file, fits a projector and a phone, and is read on light and on dark."""

from __future__ import annotations

from typing import Any

import pytest

from dualtask_lite.show.board import Board

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    about = {"baseline_dice": 0.4, "target": "tumour", "cases": 28, "trained_seconds": 170.0}
    names = (
        '<img src=x onerror=alert("x")>',
        "a name of sixty characters that goes on and on, to the very end",
        "löwe",
    )
    teams = [
        {"team": name, "dice": 0.4 + d, "difference": d, "low": d - 0.05, "high": d + 0.06, "hand_ins": n, "luck": 0.01}
        for name, d, n in zip(names, (0.06, 0.02, -0.03), (1, 12, 4), strict=True)
    ]
    path = tmp_path_factory.mktemp("board") / "board.html"
    page = Board([team | about for team in teams], 17, 0.02, [0.005 * n for n in range(17)]).to_html()
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (1280, "light"), (390, "dark"), (390, "light")])
def test_board_opens_from_a_file_and_fits(page: Any, file, width, scheme):
    page.on("dialog", lambda dialog: pytest.fail(f"a team's name ran: {dialog.message}"))
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    dark = [sum(map(int, colour[4:-1].split(","))) < 3 * 128 for colour in (ink, paper)]
    assert dark == ([False, True] if scheme == "dark" else [True, False])
    cut_off = "[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().left < 0).length"
    assert page.evaluate(cut_off) == 0
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    )
    assert smallest >= 12  # px; the figure shrinks with the page


@pytest.mark.parametrize("width", [1280, 390])
def test_every_value_of_a_row_is_shown_with_its_head(page: Any, file, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(file.as_uri())
    row = page.locator("tbody tr").nth(1)
    for message in ("2", "0.420", "+0.020", "(-0.030 to +0.080)", "12", "+0.010", "2.8 min"):
        assert row.get_by_text(message, exact=message != "+0.020").first.is_visible()
    assert row.get_by_text("0.420").bounding_box()["height"] < 40, "a number stays on one line"
    assert page.get_by_role("columnheader").count() == 7
    assert page.get_by_role("img", name="hand-ins").is_visible()
