"""``dualtask board`` as an instructor meets it."""

import json

import pytest

from dualtask_lite.engine.judging.exam import add_to_board


@pytest.fixture
def folder(tmp_path):
    about = {
        "exam": "1",
        "target": "tumour",
        "cases": 28,
        "baseline_dice": 0.4,
        "low": -0.1,
        "high": 0.2,
        "error": 0.02,
    }
    for team, dice in (("ada", 0.5), ("ada", 0.6), ("löwe", 0.55)):
        row = {"team": team, "time": f"2026-01-01T00:00:{dice}", "dice": dice, "difference": dice - 0.4, **about}
        add_to_board(tmp_path / "board", row)
    return tmp_path / "board"


def test_board_command_writes_and_describes_a_page(typed, folder, tmp_path):
    code, output, _ = typed("board", folder, "-o", tmp_path / "new" / "board.html", "--json")
    assert code == 0
    written = json.loads(output)
    assert [(team["team"], team["hand_ins"]) for team in written["teams"]] == [("ada", 2), ("löwe", 1)]
    assert (written["hand_ins"], written["spread"]) == (3, 0.02)
    page = (tmp_path / "new" / "board.html").read_text(encoding="utf-8")
    assert page.index("ada") < page.index("löwe")
    assert "Luck alone gives +0.017 as the best of 3 hand-ins." in page


def test_a_board_without_folder_is_one_line(typed, tmp_path):
    code, _, output = typed("board", tmp_path / "nowhere", "-o", tmp_path / "board.html")
    assert code == 1
    assert output.splitlines()[-1].startswith("error: ")
    assert "name the folder to which the teams hand in" in output
    assert not (tmp_path / "board.html").exists()
