"""The matrix: both protocols are fair, cells are kept, the summary is plain arithmetic."""

import json

import pytest

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine import ablate as engine
from dualtask_lite.engine.ablate import ARMS, PROTOCOLS, Cell, ablate, split_of, stage_settings, summarise_cells
from dualtask_lite.engine.evaluate import Evaluation
from dualtask_lite.engine.run import load_model, read_rows
from dualtask_lite.errors import DualTaskError


@pytest.mark.parametrize("centre", ["A", "B", "C"])
def test_protocols_test_on_the_same_cases_and_train_on_equally_many(phantom_folder, centre):
    cases = find_cases(phantom_folder)
    inside, outside = (split_of(Cell("segmentation", protocol, centre, 1), cases) for protocol in PROTOCOLS)
    assert [c.id for c in inside.test] == [c.id for c in outside.test]
    assert len(inside.train) == len(outside.train) > 0
    assert {c.centre for c in inside.train} == {centre}
    assert centre not in {c.centre for c in outside.train}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_differs_in_its_weights_alone(arm):
    overrides = {"optimiser.steps": 7, "network.width": 16, "objective.tau": 4.5, "sample.patch": [16, 24, 8]}
    for stage in ("pancreas-coarse", "tumour-coarse"):
        settings = stage_settings(Cell(arm, "unseen", "A", 5), "laptop", overrides, stage)
        plain = stage_settings(Cell("segmentation", "unseen", "A", 5), "laptop", overrides, stage)
        assert settings.optimiser.steps == 7
        assert settings.network.width == 16
        assert settings.objective.tau == 4.5
        assert settings.sample.patch == (16, 24, 8)
        assert settings.seed == 5
        assert settings.stage == stage
        assert settings.model_dump(exclude={"objective"}) == plain.model_dump(exclude={"objective"})
        assert {name for name, weight in settings.objective.weights.items() if weight} == {
            "segmentation": {"seg"},
            "distance": {"seg", "dist"},
            "conversion": {"seg", "dist", "conv_mask", "conv_distance"},
        }[arm]


def test_a_matrix_runs_goes_on_where_it_was_cut_and_says_how_it_was_made(phantom_folder, tmp_path, tiny_run):
    cases = [case for case in find_cases(phantom_folder) if case.centre != "C"]
    plan = {"stages": ["tumour-coarse"], "arms": ["segmentation"], "seeds": [0], "progress": False}
    summary = ablate("laptop", tiny_run, cases, tmp_path, **plan)
    assert set(summary["tumour"]["segmentation"]["dice"]) == {"in-domain", "unseen", "gap"}
    rows = read_rows(tmp_path / "cases.csv")
    assert {(row["protocol"], row["centre"]) for row in rows} == {(p, c) for p in PROTOCOLS for c in "AB"}
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["seeds"] == [0]
    assert written["versions"]["torch"]
    assert (written["profile"], written["overrides"]) == ("laptop", tiny_run)
    one = tmp_path / "cells" / "segmentation" / "unseen-A-0"
    assert {seen.centre for seen in load_model(one / "tumour-coarse").seen} == {"B"}
    kept = (one / "cases.csv").stat().st_mtime_ns
    (tmp_path / "cells" / "segmentation" / "unseen-B-0" / "cases.csv").unlink()  # as if it had been cut here
    assert ablate("laptop", tiny_run, cases, tmp_path, **plan) == summary
    assert (one / "cases.csv").stat().st_mtime_ns == kept


def test_the_summary_is_the_mean_over_seeds_of_means_over_cases():
    def rows(protocol, seed, *dice):
        return [
            {"target": "tumour", "arm": "x", "protocol": protocol, "seed": seed, "dice": d, "nsd_2mm": "0.5"}
            for d in dice
        ]

    table = (
        rows("in-domain", 0, 0.8, 0.6, "nan")
        + rows("in-domain", 1, 0.9)
        + rows("unseen", 0, 0.4)
        + rows("unseen", 1, 0.6)
    )
    dice = summarise_cells(table)["tumour"]["x"]["dice"]
    assert dice["in-domain"] == {"mean": 0.8, "sd_over_seeds": 0.1414, "seeds": 2}
    assert dice["gap"]["mean"] == pytest.approx(0.3)
    assert dice["gap"]["sd_over_seeds"] == pytest.approx(0.0, abs=1e-9)


def test_a_case_that_cannot_be_evaluated_stops_the_cell(phantom_folder, tmp_path, tiny_run, monkeypatch):
    """One case fewer in one cell would make the arms differ in what they were tested on."""
    monkeypatch.setattr(engine, "evaluate", lambda *_, **__: Evaluation([], {}, {"C_001": "is damaged"}))
    cell = Cell("segmentation", "unseen", "C", 0)
    cases = find_cases(phantom_folder)
    with pytest.raises(DualTaskError, match="C_001"):
        engine.run_cell(cell, "laptop", tiny_run, cases, tmp_path, ["pancreas-coarse"], threads=1)
    assert not (cell.folder(tmp_path) / "cases.csv").exists()
