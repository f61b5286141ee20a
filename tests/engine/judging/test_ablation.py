"""The matrix: protocols are fair, arms do equal work, cells are kept."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dualtask_lite import machine
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.judging import ablation as engine
from dualtask_lite.engine.judging.ablation import ablate
from dualtask_lite.engine.judging.evaluation import Evaluation
from dualtask_lite.engine.judging.plan import ARMS, SAMPLES, Cell, Plan, cells_of, split_of, stage_settings
from dualtask_lite.engine.judging.table import ResultTable
from dualtask_lite.engine.records import plain, read_rows, write_rows
from dualtask_lite.engine.run import load_model
from dualtask_lite.errors import DualTaskError

CASCADE = ("pancreas-coarse", "tumour-coarse")
TERMS = {
    "segmentation": {"seg"},
    "distance": {"seg", "dist"},
    "to-mask": {"seg", "dist", "conv_mask"},
    "to-distance": {"seg", "dist", "conv_distance"},
    "conversion": {"seg", "dist", "conv_mask", "conv_distance"},
    "views": {"seg"},
    "consistency": {"seg", "dist", "conv_mask", "conv_distance", "out"},
    "contrast": {"seg", "dist", "conv_mask", "conv_distance", "feat"},
    "full": {"seg", "dist", "conv_mask", "conv_distance", "out", "feat", "slice"},
}
TWO_VIEWS = {"views", "consistency", "contrast", "full"}
SAME_IMAGES = [arm for arm in ARMS if not arm.endswith(SAMPLES)]


def plan(profile="laptop", overrides=None, stages=CASCADE, folds=5):
    return Plan(profile, overrides or {}, stages, folds)


@pytest.mark.parametrize("centre", ["A", "B", "C"])
def test_in_domain_and_unseen_share_test_cases_and_training_size(phantom_folder, centre):
    cases = find_cases(phantom_folder)
    inside, outside = (split_of(Cell("segmentation", p, centre, 1), cases) for p in ("in-domain", "unseen"))
    assert [c.id for c in inside.test] == [c.id for c in outside.test]
    assert len(inside.train) == len(outside.train) > 0
    assert {c.centre for c in inside.train} == {centre}
    assert centre not in {c.centre for c in outside.train}


def test_leave_one_centre_out_trains_on_all_other_centres(phantom_folder):
    split = split_of(Cell("full", "leave-one-centre-out", "B", 0), find_cases(phantom_folder))
    assert (len(split.train), len(split.validation), len(split.test)) == (8, 0, 4)
    assert {c.centre for c in split.test} == {"B"}
    assert {c.centre for c in split.train} == {"A", "C"}


def test_cross_validation_tests_each_case_once_a_seed(phantom_folder):
    cases = find_cases(phantom_folder)
    cells = cells_of(cases, ["full"], ["cross-validation"], folds=3, seed=2)
    assert [cell.part for cell in cells] == ["0", "1", "2"]
    splits = [split_of(cell, cases, 3) for cell in cells]
    assert sorted(c.id for split in splits for c in split.test) == sorted(c.id for c in cases)


@pytest.mark.parametrize("arm", SAME_IMAGES)
@pytest.mark.parametrize("profile", ["laptop", "gpu", "paper"])
def test_arms_differ_in_terms_and_views_with_equal_images(arm, profile):
    overrides = {"optimiser.steps": 7, "network.width": 16, "objective.tau": 4.5, "sample.patch": [16, 24, 8]}
    settings = stage_settings(Cell(arm, "unseen", "A", 5), plan(profile, overrides), "tumour-coarse")
    base = stage_settings(Cell("segmentation", "unseen", "A", 5), plan(profile, overrides), "tumour-coarse")
    assert settings.optimiser.steps == 7
    assert settings.network.width == 16
    assert settings.objective.tau == 4.5
    assert settings.sample.patch == (16, 24, 8)
    assert settings.seed == 5
    assert {name for name, weight in settings.objective.weights.items() if weight} == TERMS[arm]
    assert settings.views.count == (2 if arm in TWO_VIEWS else 1)
    assert settings.optimiser.batch * settings.views.count == base.optimiser.batch * base.views.count
    assert settings.prediction.heads == base.prediction.heads == "segmentation"
    apart = {"objective": {"weights"}, "views": {"count"}, "optimiser": {"batch"}}
    assert settings.model_dump(exclude=apart) == base.model_dump(exclude=apart)


@pytest.mark.parametrize("arm", sorted(TWO_VIEWS))
def test_an_arm_of_equal_samples_shows_each_of_them_twice(arm):
    of = {
        name: stage_settings(Cell(name, "unseen", "A", 0), plan(), "tumour-coarse")
        for name in ("segmentation", arm, arm + SAMPLES)
    }
    assert of[arm + SAMPLES].optimiser.batch == of["segmentation"].optimiser.batch == 2 * of[arm].optimiser.batch
    assert of[arm + SAMPLES].objective == of[arm].objective
    assert of[arm + SAMPLES].views == of[arm].views


def test_an_arm_may_bring_settings_of_its_own():
    cell = Cell("full+objective.tau=6+objective.weights.out=0.5+views.keep_first=true", "unseen", "A", 0)
    settings = stage_settings(cell, plan(), "tumour-coarse")
    assert (settings.objective.tau, settings.views.keep_first) == (6, True)
    assert settings.objective.weights["out"] == 0.5
    assert settings.objective.weights["slice"] == 1


@pytest.mark.parametrize(
    ("arm", "message"),
    [("everything", "choose from: segmentation"), ("full+objective.tua=6", "did you mean 'objective.tau'")],
)
def test_unknown_arm_or_setting_is_reported(arm, message):
    with pytest.raises(DualTaskError, match=message):
        stage_settings(Cell(arm, "unseen", "A", 0), plan(), "tumour-coarse")


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ({"seed": 7}, "--seeds"),
        ({"stage": "tumour-fine"}, "--stage"),
        ({"data": {"held_out": "A"}}, "--part"),
        ({"views.count": 1}, r"--arm NAME\+views.count"),
        ({"objective": {"weights": {"feat": 0.5}}}, r"--arm NAME\+objective"),
        ({"objective.weights.feat": 0.5}, r"--arm NAME\+objective"),
        ({"prediction.heads": "mean"}, r"--arm NAME\+prediction"),
    ],
)
def test_a_setting_that_each_cell_replaces_is_refused(phantom_folder, tmp_path, overrides, option):
    how = {"stages": CASCADE, "arms": ["full"], "seeds": [0], "progress": False}
    with pytest.raises(DualTaskError, match=f"each cell has its own.*{option}"):
        ablate("laptop", overrides, find_cases(phantom_folder), tmp_path / "table", **how)
    assert not (tmp_path / "table").exists()


def test_an_odd_number_of_images_cannot_be_two_views():
    with pytest.raises(DualTaskError, match="an even number"):
        stage_settings(Cell("full", "unseen", "A", 0), plan(overrides={"optimiser.batch": 3}), "tumour-coarse")


def test_what_is_named_twice_is_one_cell(phantom_folder):
    twice = cells_of(find_cases(phantom_folder), ["full", "views", "full"], ["unseen", "in-domain", "unseen"], 5, 0)
    assert len(twice) == len(set(twice)) == 2 * 2 * 3


def test_unknown_protocol_is_reported(phantom_folder):
    with pytest.raises(DualTaskError, match="choose from: in-domain"):
        cells_of(find_cases(phantom_folder), ["full"], ["seen"], 5, 0)


def test_interrupted_ablation_resumes_and_records_its_command(phantom_folder, tmp_path, tiny_run):
    cases = [case for case in find_cases(phantom_folder) if case.centre != "C"]
    how = {"stages": ["tumour-coarse"], "arms": ["segmentation"], "seeds": [0], "progress": False}
    summary = ablate("laptop", tiny_run, cases, tmp_path, **how)
    assert set(summary["results"]["tumour"]["segmentation"]["dice"]) == {"in-domain", "unseen", "gap"}
    rows = read_rows(tmp_path / "cases.csv")
    assert {(row["protocol"], row["centre"]) for row in rows} == {(p, c) for p in ("in-domain", "unseen") for c in "AB"}
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["seeds"] == [0]
    assert written["versions"]["torch"]
    assert machine.processor() in written["device"]
    assert (written["profile"], written["overrides"]) == ("laptop", tiny_run)
    one = tmp_path / "cells" / "segmentation" / "unseen-A-0"
    assert {seen.centre for seen in load_model(one / "tumour-coarse").training_cases} == {"B"}
    kept = (one / "tumour-coarse" / "model.safetensors").stat().st_mtime_ns
    cells = read_rows(tmp_path / "cells.csv")
    write_rows(tmp_path / "cells.csv", cells[:-1])  # as if it had been cut here
    again = ablate("laptop", tiny_run, cases, tmp_path, **how)
    assert plain(again["results"]) == plain(summary["results"])
    assert read_rows(tmp_path / "cases.csv") == rows
    assert (one / "tumour-coarse" / "model.safetensors").stat().st_mtime_ns == kept
    shutil.rmtree(tmp_path / "cells")  # a committed table has no weights: its rows are enough to go on
    assert plain(ablate("laptop", tiny_run, cases, tmp_path, **how)["results"]) == plain(summary["results"])
    assert not (tmp_path / "cells").exists()
    with pytest.raises(DualTaskError, match="a table with other overrides"):  # nothing of it would be comparable
        ablate("laptop", {**tiny_run, "optimiser.steps": 4}, cases, tmp_path, **how)
    with pytest.raises(DualTaskError, match="a table with other cases"):
        ablate("laptop", tiny_run, cases[1:], tmp_path, **how)
    scan = cases[0].load()
    scan.save(np.roll(scan.label, 1, axis=0), tmp_path / "repaired.nii.gz")
    repaired = replace(cases[0], label=tmp_path / "repaired.nii.gz")
    mapped = replace(cases[0], label_map={1: 1, 2: 2, 3: 2})
    for changed in (repaired, mapped):
        with pytest.raises(DualTaskError, match="a table with other labels"):
            ablate("laptop", tiny_run, [changed, *cases[1:]], tmp_path, **how)


def test_all_arms_share_the_earlier_stages(phantom_folder, tmp_path, tiny_run):
    overrides = {**tiny_run, "optimiser.batch": 2}
    cases = [case for case in find_cases(phantom_folder) if case.centre == "A"]
    how = {"stages": CASCADE, "arms": ["segmentation", "full"], "protocols": ["cross-validation"], "folds": 2}
    summary = ablate("laptop", overrides, cases, tmp_path, **how, seeds=[0], jobs=2, progress=False)
    common = tmp_path / "common" / "cross-validation-1-0" / "pancreas-coarse"
    assert not load_model(common).settings.has_distance
    assert load_model(tmp_path / "cells" / "full" / "cross-validation-1-0" / "tumour-coarse").settings.has_distance
    assert not list(tmp_path.glob("cells/*/*/pancreas-coarse"))
    (dice, _) = summary["comparisons"]
    assert (dice["arm"], dice["target"], dice["metric"], dice["baseline"]) == ("full", "tumour", "dice", "segmentation")
    tumours = {r["case"] for r in read_rows(tmp_path / "cases.csv") if r["target"] == "tumour" and r["dice"] != "nan"}
    assert dice["cases"] == len(tumours) > 0


def test_a_case_that_cannot_be_evaluated_stops_the_cell(phantom_folder, tmp_path, tiny_run, monkeypatch):
    """One case fewer in one cell would make the arms differ in what they were tested on."""
    monkeypatch.setattr(engine, "evaluate", lambda *_, **__: Evaluation([], {}, {"C_001": "is damaged"}))
    cell = Cell("segmentation", "unseen", "C", 0)
    cases = find_cases(phantom_folder)
    with pytest.raises(DualTaskError, match="C_001"):
        engine.run_cell(cell, plan(overrides=tiny_run, stages=["pancreas-coarse"]), cases, tmp_path, threads=1)
    assert not (cell.folder(tmp_path) / "cases.csv").exists()


def test_rows_that_another_command_has_added_since_are_kept(tmp_path):
    """Neither drops the rows of the other, and no cell is in the table twice."""
    tables = [ResultTable(tmp_path, {"profile": "laptop"}) for _ in range(2)]
    cells = [Cell("full", "unseen", part, 0) for part in "AB"]
    for table, cell in zip([*tables, tables[0]], [*cells, cells[1]], strict=True):
        table.add(vars(cell), cases=[{"dice": 0.5}], curves=[{"step": 1}], cell={"steps": 1})
    for name in ("cases", "curves", "cells"):
        assert [row["part"] for row in read_rows(tmp_path / f"{name}.csv")] == ["A", "B"]
    assert tables[0].has(vars(cells[1]))
    write_rows(tmp_path / "cases.csv", read_rows(tmp_path / "cases.csv")[:1])  # as if its writing had been cut
    assert not ResultTable(tmp_path, {"profile": "laptop"}).has(vars(cells[1]))


def test_a_folder_with_other_results_is_left_as_it_is(tmp_path):
    write_rows(tmp_path / "cases.csv", [{"case": "one", "target": "tumour", "dice": 0.5}])
    with pytest.raises(DualTaskError, match=r"holds other results, in cases\.csv"):
        ResultTable(tmp_path, {"profile": "laptop"})
    assert [file.name for file in tmp_path.iterdir()] == ["cases.csv"]


def test_missing_labels_are_reported(tmp_path):
    with pytest.raises(DualTaskError, match="no labelled case"):
        ablate("laptop", {}, [], tmp_path, stages=CASCADE, arms=["full"], seeds=[0])


def test_table_reports_cells_of_another_processor(phantom_folder, tmp_path, tiny_run):
    cases = [case for case in find_cases(phantom_folder) if case.centre != "C"]
    how = {"stages": ["pancreas-coarse"], "arms": ["segmentation"], "seeds": [0], "progress": False}
    how |= {"protocols": ["leave-one-centre-out"]}
    assert ablate("laptop", tiny_run, cases, tmp_path, parts=["A"], **how)["mixed"] == []
    cells = read_rows(tmp_path / "cells.csv")
    assert machine.processor() in cells[0]["device"]
    write_rows(tmp_path / "cells.csv", [{**cells[0], "device": "cpu, another one, 1 threads"}])
    (note,) = ablate("laptop", tiny_run, cases, tmp_path, **how)["mixed"]
    assert "several processors" in note
    assert [row["part"] for row in read_rows(tmp_path / "cells.csv") if "another" in row["device"]] == ["A"]
    with pytest.raises(DualTaskError, match="no part 'D'; choose from: A, B"):
        ablate("laptop", tiny_run, cases, tmp_path, parts=["D"], **how)


def test_learning_curve_continues_after_an_interruption(phantom_folder, tmp_path, tiny_run):
    cases = find_cases(phantom_folder)
    overrides = {**tiny_run, "machine.validate_every": 1, "data.validation": 0.3}
    how = {"stages": ["pancreas-coarse"], "arms": ["segmentation"], "seeds": [0], "parts": ["C"], "progress": False}
    ablate("laptop", overrides, cases, tmp_path, protocols=["leave-one-centre-out"], **how)
    rows = read_rows(tmp_path / "curves.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, tiny_run["optimiser.steps"] + 1))
    assert {"train_dice", "validation_dice", "unseen_dice", "loss", "seg"} <= set(rows[0])
    metrics = read_rows(tmp_path / "cells/segmentation/leave-one-centre-out-C-0/pancreas-coarse/metrics.csv")
    assert float(rows[0]["loss"]) == pytest.approx(float(metrics[0]["total"]), abs=1e-3)
    assert float(rows[0]["validation_dice"]) == pytest.approx(float(metrics[0]["val_dice"]), abs=1e-3)


def test_a_plan_that_cannot_be_split_leaves_the_folder_free(phantom_folder, tmp_path):
    how = {"stages": ["tumour-coarse"], "arms": ["segmentation"], "seeds": [0], "progress": False}
    with pytest.raises(DualTaskError):
        ablate("laptop", {}, find_cases(phantom_folder / "A"), tmp_path / "table", **how, protocols=["unseen"])
    assert not (tmp_path / "table").exists()


def test_a_cell_without_a_target_to_learn_is_refused_before_any_training(phantom_folder, tmp_path):
    """With A held out only the healthy hospital B trains; with B held out A does, which has tumours."""
    cases = [case for case in find_cases(phantom_folder) if case.centre != "C"]
    healthy = [replace(case, label_map={1: 1, 2: 1}) if case.centre == "B" else case for case in cases]
    how = {"stages": CASCADE, "arms": ["segmentation"], "seeds": [0], "progress": False}
    with pytest.raises(DualTaskError, match="tumour-coarse: none of the 3 labels to train on holds the target"):
        ablate("laptop", {}, healthy, tmp_path / "table", **how, protocols=["leave-one-centre-out"])
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    "stages", [["tumour-coarse", "pancreas-coarse"], ["tumour-coarse"] * 2, ["lung", "tumour-coarse"]]
)
def test_stages_that_are_no_cascade_are_refused(phantom_folder, tmp_path, stages):
    with pytest.raises(DualTaskError, match="are not the stages of a cascade"):
        ablate("laptop", {}, find_cases(phantom_folder), tmp_path, stages=stages, arms=["segmentation"], seeds=[0])
    assert not list(tmp_path.iterdir())


def test_pancreas_stage_of_an_arm_has_no_term_of_the_tumour():
    chosen = stage_settings(Cell("full", "unseen", "A", 0), plan(), "pancreas-coarse").objective
    assert [term for term, weight in chosen.weights.items() if weight] == [
        "seg",
        "dist",
        "conv_mask",
        "conv_distance",
        "out",
    ]
