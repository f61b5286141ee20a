"""The board's page: whole, escaped, sorted as given, and open about what luck gives."""

from __future__ import annotations

import re

import pytest

from dualtask_lite.show.board import Board


def team(name, difference, hand_ins=1, luck=0.0, **other):
    about = {"dice": 0.4 + difference, "baseline_dice": 0.4, "target": "tumour", "cases": 28, "trained_seconds": 90}
    interval = {"difference": difference, "low": difference - 0.05, "high": difference + 0.04}
    return {"team": name, "hand_ins": hand_ins, "luck": luck, **about, **interval, **other}


LUCK = [0.02 * n for n in range(12)]
TEAMS = [team("<script>alert(1)</script>", 0.08, 3, 0.02), team("second", -0.01, trained_seconds=None)]


@pytest.fixture(scope="module")
def page():
    return Board(TEAMS, 4, 0.02, LUCK).to_html()


def test_page_loads_nothing_from_a_network(page):
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page


def test_a_row_holds_score_interval_hand_ins_and_luck(page):
    first, second = re.findall(r"<tr>(?!<th scope=\"col\").*?</tr>", page, re.S)
    words = [re.sub(r"<[^>]+>", "|", row) for row in (first, second)]
    for text in (
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "0.480",
        "+0.080",
        "(+0.030 to +0.120)",
        "+0.020",
        "1.5 min",
    ):
        assert text in words[0]
    assert "unknown" in words[1]


def test_board_gives_the_effect_of_luck(page):
    assert "2 teams, 4 hand-ins, 28 cases. Baseline: tumour Dice 0.400." in page
    assert "The best difference from it is +0.080. Luck alone gives +0.060 as the best of 4 hand-ins." in page
    assert "standard deviation of\n0.020" in page
    assert "1 of 2 lie above the curve of luck alone, which reaches +0.180 at 10 hand-ins." in page


def test_team_markers_show_hand_ins_and_difference(page):
    (x1, y1), (x2, y2) = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="6">', page)
    assert float(x1) > float(x2)  # three hand-ins, one
    assert float(y1) < float(y2)  # up is better


def test_board_without_hand_ins_reports_it():
    page = Board([], 0, 0.0, LUCK).to_html()
    assert "There is no hand-in yet." in page
    assert "<svg" not in page
