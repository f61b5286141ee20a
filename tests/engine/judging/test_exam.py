"""The exam: the same cases for learner and baseline, no row lost, and luck that is counted."""

import json
import multiprocessing
import os

import numpy as np
import pytest

from dualtask_lite.cases.phantom import centres, make_phantom
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.judging import exam
from dualtask_lite.engine.judging.evaluation import Evaluation, evaluate
from dualtask_lite.engine.run import load_models
from dualtask_lite.errors import DualTaskError

CPU = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Four small cases of D."""
    folder = tmp_path_factory.mktemp("exam")
    return make_phantom(folder, cases=4, size=(40, 40, 20), centres_to_write=centres(exam=True))


def result(case, dice, ml=10.0, found=10.0, target="tumour"):
    return {
        "case": case,
        "centre": "D",
        "target": target,
        "dice": dice,
        "volume_ml_truth": ml,
        "volume_ml_prediction": found,
        "detected": dice > 0,
    }


def row(team="ada", dice=0.5, time="2026-01-01T00:00:00+00:00", **other):
    about = {"exam": "1", "target": "tumour", "cases": 4, "baseline_dice": 0.4, "difference": dice - 0.4}
    return {"team": team, "time": time, "dice": dice, **about, "low": -0.1, "high": 0.2, "error": 0.1, **other}


def test_lone_tumour_stage_uses_the_baseline_pancreas_region(cascade, hospital, tmp_path):
    found = exam.hand_in(cascade / "tumour-coarse", board=tmp_path, baseline=cascade, cases=hospital, **CPU)
    rows = evaluate(load_models(cascade), find_cases(hospital), progress=False).rows
    dice = [r["dice"] for r in rows if r["target"] == "tumour"]
    assert found.row["dice"] == pytest.approx(np.nanmean(dice))
    assert found.row["baseline_dice"] == found.row["dice"]
    assert (found.row["difference"], found.row["low"], found.row["high"]) == (0, 0, 0)
    assert found.prediction.mask.shape == found.worst.shape
    assert "no verdict, which needs 10 cases" in str(found)
    assert exam.read_board(tmp_path)[0] == json.loads(found.board.read_text())
    assert exam.read_board(tmp_path)[0]["trained_seconds"] > 0


@pytest.fixture
def scored(cascade, hospital, monkeypatch):
    """Hand in with given rows of the learner and of the baseline."""

    def run(own, baseline, **options):
        evaluations = [Evaluation(own, {}, {}), Evaluation(baseline, {}, {})]
        monkeypatch.setattr(exam, "evaluate_cascades", lambda *_, **__: evaluations)
        return exam.hand_in(cascade, baseline=cascade, cases=hospital, **CPU, **options)

    return run


def test_exam_compares_cases_and_names_the_largest_miss(scored):
    own = [result("D_000", 0.9), result("D_001", 0.0, ml=5), result("D_002", 0.0, ml=50), result("D_003", np.nan, 0, 3)]
    base = [result(f"D_00{n}", dice) for n, dice in enumerate((0.6, 0.0, 0.1, np.nan))]
    other = [result(f"D_00{n}", 0.7, target="pancreas") for n in range(4)]
    found = scored(own + other, other + base[::-1])
    differences = np.array([0.3, 0.0, -0.1])
    assert found.row["dice"] == pytest.approx(0.3)
    assert found.row["difference"] == pytest.approx(differences.mean())
    assert found.row["error"] == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert found.row["low"] < 0 < found.row["high"]
    assert found.row["cases"] == 3
    assert (found.row["found"], found.row["false_alarms"], found.row["without_target"]) == (1, 1, 1)
    assert found.worst.id == "D_002"
    shown = found._repr_mimebundle_()
    assert "<td>0.300</td>" in shown["text/html"]
    assert "Worst case: D_002, Dice 0.00, 50.0 ml." in shown["text/plain"]


def test_a_clear_gain_is_called_one(scored):
    own, base = ([result(f"D_00{n}", dice + 0.01 * n) for n in range(exam.FEWEST_CASES)] for dice in (0.8, 0.3))
    assert "above the baseline" in str(scored(own, base))
    assert "below the baseline" in str(scored(base, own))
    assert "not distinguishable from it" in str(scored(own, own))
    assert "no verdict" in str(scored(own[:-1], base[:-1]))


def test_a_centre_with_one_case_is_refused(scored, tmp_path):
    """It has no interval, so no board could draw the row."""
    own = [{**result(f"{centre}_00{n}", 0.5), "centre": centre} for centre, n in (("D", 0), ("D", 1), ("E", 0))]
    with pytest.raises(DualTaskError, match="centre E of the exam has one case"):
        scored(own, own, board=tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_case_is_refused(cascade, phantom_folder, tmp_path):
    with pytest.raises(DualTaskError, match="was used in training"):
        exam.hand_in(cascade, board=tmp_path, baseline=cascade, cases=phantom_folder, **CPU)
    assert not list(tmp_path.iterdir())


def test_a_failed_case_puts_no_row_on_the_board(scored, cascade, hospital, monkeypatch, tmp_path):
    failed = Evaluation([], {}, {"D_001": "damaged"})
    monkeypatch.setattr(exam, "evaluate_cascades", lambda *_, **__: [failed, failed])
    with pytest.raises(DualTaskError, match=r"D_001.*repair"):
        exam.hand_in(cascade, board=tmp_path, baseline=cascade, cases=hospital, **CPU)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "  ", "x" * 61])
def test_a_name_that_no_line_can_hold_is_refused(cascade, hospital, name):
    with pytest.raises(DualTaskError, match="characters"):
        exam.hand_in(cascade, name, baseline=cascade, cases=hospital, **CPU)


def test_a_baseline_of_another_target_is_refused(cascade, hospital):
    with pytest.raises(DualTaskError, match="predicts the pancreas, the baseline the tumour"):
        exam.hand_in(cascade / "pancreas-coarse", baseline=cascade, cases=hospital, **CPU)


def test_a_board_of_another_exam_is_refused_before_any_evaluation(cascade, hospital, monkeypatch, tmp_path):
    """It names the file: one team that forgot the cases of this exam would lock out all others."""
    file = exam.add_to_board(tmp_path, row("Ada", exam="another"))
    monkeypatch.setattr(exam, "evaluate_cascades", None)
    with pytest.raises(DualTaskError, match=f"{file.name}: is the hand-in of team Ada to another exam"):
        exam.hand_in(cascade, board=tmp_path, baseline=cascade, cases=hospital, **CPU)


def test_a_board_that_cannot_be_written_is_found_before_any_evaluation(cascade, hospital, monkeypatch, tmp_path):
    (tmp_path / "taken").touch()
    monkeypatch.setattr(exam, "evaluate_cascades", None)
    with pytest.raises(DualTaskError, match="cannot be written"):
        exam.hand_in(cascade, board=tmp_path / "taken" / "board", baseline=cascade, cases=hospital, **CPU)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_every_team_can_read_the_hand_ins_of_the_others(tmp_path):
    before = os.umask(0o077)
    try:
        file = exam.add_to_board(tmp_path, row())
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644


def hand_in_often(folder, team):
    for _ in range(5):
        exam.add_to_board(folder, row(team))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
def test_forty_hand_ins_at_once_lose_no_row(tmp_path):
    context = multiprocessing.get_context("fork")
    (tmp_path / "board").mkdir()
    teams = [context.Process(target=hand_in_often, args=(tmp_path / "board", "same name")) for _ in range(8)]
    for team in teams:
        team.start()
    while any(team.is_alive() for team in teams):
        exam.read_board(tmp_path / "board")  # never meets half a file
    assert [team.exitcode for team in teams] == [0] * 8
    assert len(exam.read_board(tmp_path / "board")) == 40


def test_team_is_ranked_by_its_best_of_counted_hand_ins():
    rows = [row("ada", 0.5), row("ada", 0.6), row("ada", 0.4), row("<b>", 0.7)]
    first, second = exam.standings(rows)
    assert (first["team"], first["hand_ins"], first["luck"]) == ("<b>", 1, pytest.approx(0, abs=1e-9))
    assert (second["dice"], second["hand_ins"]) == (0.6, 3)
    assert second["luck"] == pytest.approx(0.1 * 0.84628, abs=1e-4)


def test_another_spelling_of_a_name_is_the_same_team():
    rows = [row("Ada L", 0.5), row("ada  l", 0.6), row("ADA L", 0.4), row("GROẞ", 0.3), row("groß", 0.2)]
    teams = [(team["team"], team["dice"], team["hand_ins"]) for team in exam.standings(rows)]
    assert teams == [("ada  l", 0.6, 3), ("GROẞ", 0.3, 2)]


@pytest.mark.parametrize(("draws", "expected"), [(1, 0.0), (2, 0.56419), (3, 0.84628), (10, 1.53875), (100, 2.50759)])
def test_expected_best_of_n_draws_equals_the_textbook_value(draws, expected):
    assert exam.expected_best(draws) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not a hand-in"),
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_file_that_is_no_hand_in_is_named(tmp_path, content, message):
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(DualTaskError, match=rf"notes.json.*{message}"):
        exam.read_board(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"dice": float("nan")},
        {"difference": float("inf")},
        {"dice": None},
        {"dice": "0.9"},
        {"dice": 99},
        {"low": 10**400},
        {"cases": "many"},
        {"exam": ["1"]},
        {"team": None},
        {"trained_seconds": "3"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_hand_in_with_a_value_that_the_board_cannot_compare_is_named(tmp_path, other):
    exam.add_to_board(tmp_path, row())
    (tmp_path / "edited.json").write_text(json.dumps(row() | other))
    with pytest.raises(DualTaskError, match=r"edited\.json: is not a hand-in"):
        exam.read_board(tmp_path)


def test_a_board_of_two_exams_or_none_is_refused(tmp_path):
    with pytest.raises(DualTaskError, match="no such folder"):
        exam.read_board(tmp_path / "nowhere")
    files = [exam.add_to_board(tmp_path, row(exam=name)) for name in "121"]
    with pytest.raises(DualTaskError, match=f"more than one exam; of the rarest {files[1].name};"):
        exam.read_board(tmp_path)
