"""What a report collects: the choice of the examples, the stages of a run, and what is missing."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.judging.evaluation import Evaluation, summary_of
from dualtask_lite.engine.judging.evaluation_folder import write_evaluation
from dualtask_lite.engine.judging.report import choose_examples, collect, evaluated_cases, read_stages
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.run import load_model
from dualtask_lite.errors import DualTaskError


def row(case, dice, target="tumour"):
    return {"case": case, "centre": "C", "target": target, "dice": dice}


def test_examples_are_best_median_and_worst():
    rows = [row("c", "0.3"), row("a", "0.9"), row("e", "0.1"), row("b", "0.7"), row("d", "0.2")]
    chosen = choose_examples(rows)
    assert {case: role for case, (role, _) in chosen.items()} == {"a": "best", "c": "median", "e": "worst"}
    assert chosen["c"][1]["dice"] == "0.3"


def test_undefined_dice_and_other_target_are_not_chosen():
    rows = [row("a", "nan"), row("b", ""), row("c", "0.5"), row("d", "0.9", "pancreas")]
    assert list(choose_examples(rows)) == ["c"]
    assert list(choose_examples(rows[-1:])) == ["d"]  # the pancreas, where there is no tumour
    assert choose_examples(rows[:2]) == {}
    assert list(choose_examples([*rows[:2], rows[-1]])) == ["d"]  # no label has a tumour


def test_single_case_is_shown_once():
    assert {case: role for case, (role, _) in choose_examples([row("a", "0.5")]).items()} == {"a": "best"}


def test_stages_are_read_in_cascade_order(cascade):
    stages = read_stages(cascade)
    assert [stage["name"] for stage in stages] == ["pancreas-coarse", "tumour-coarse"]
    assert [len(stage["curves"]) for stage in stages] == [3, 3]
    assert stages[1]["settings"]["optimiser"]["steps"] == 3
    manifest = json.loads((Path(cascade) / "tumour-coarse" / "manifest.json").read_text())
    assert stages[1]["manifest"] == manifest
    with pytest.raises(DualTaskError, match="holds no run"):
        read_stages(Path(cascade) / "nowhere")


def test_evaluated_cases_follow_the_rows(phantom_folder):
    first, second, *_ = [case.id for case in find_cases(str(phantom_folder))]
    rows = [row(second, "0.5"), row(second, "0.6", "pancreas"), row(first, "0.5")]
    assert [case.id for case in evaluated_cases(rows, str(phantom_folder))] == [second, first]
    with pytest.raises(DualTaskError, match="has no case Z"):
        evaluated_cases([row("Z", "0.5")], str(phantom_folder))


@pytest.mark.parametrize("first", ["pancreas-coarse", "tumour-coarse"])
def test_stages_that_were_evaluated_together_are_shown_together(cascade, tmp_path, typed, first):
    """Each by itself would give another tumour, or none; and both may be moved."""
    runs = tmp_path / "runs"
    shutil.copytree(cascade, runs, ignore=shutil.ignore_patterns("evaluation"))
    order = sorted(["pancreas-coarse", "tumour-coarse"], key=lambda name: name != first)
    code, _, errors = typed("evaluate", *(runs / name for name in order))
    assert code == 0, errors
    moved = runs.rename(tmp_path / "moved")
    contents = collect(moved / first)
    assert contents["missing"] == {}
    assert {example["row"]["target"] for example in contents["examples"]} <= {"tumour"}


def evaluated(cascade, folder, rows, failed=()):
    """A copy of a cascade with the evaluation that would have these rows."""
    run = shutil.copytree(cascade, folder / "run", ignore=shutil.ignore_patterns("evaluation"))
    write_evaluation(Evaluation(rows, summary_of(rows), dict(failed)), run / "evaluation")
    return run


def test_cases_without_a_tumour_label_are_shown_by_their_pancreas(cascade, phantom_folder, tmp_path):
    case = next(case for case in find_cases(str(phantom_folder)) if case.centre == "C")
    run = evaluated(cascade, tmp_path, [row(case.id, "0.5", "pancreas"), row(case.id, "")])
    (example,) = collect(run)["examples"]
    assert example["row"]["target"] == "pancreas"
    models = [load_model(run / stage) for stage in ("pancreas-coarse", "tumour-coarse")]
    pancreas = predict_scan(models, case.load()).targets["pancreas"]
    np.testing.assert_array_equal(example["distance_mm"], pancreas.distance_mm)
    assert example["doubt_mm"] is None  # it is known of the tumour alone


def test_evaluation_without_a_defined_dice_says_why_there_is_no_example(cascade, phantom_folder, tmp_path):
    case = next(case for case in find_cases(str(phantom_folder)) if case.centre == "C")
    contents = collect(evaluated(cascade, tmp_path, [row(case.id, "")]))
    assert contents["examples"] == []
    assert set(contents["missing"]) == {"examples"}
    assert contents["doubts"] is not None, "the label has a tumour, whatever the table says"
    assert "no label has a target" in contents["missing"]["examples"]


@pytest.mark.parametrize("without", [1, 4], ids=["one", "all"])
def test_warnings_are_measured_only_where_the_label_has_the_target(cascade, phantom_folder, tmp_path, without):
    """An empty label is no truth about tumours: any prediction would count as an error of 1."""
    source = shutil.copytree(phantom_folder, tmp_path / "source")
    cases = [case for case in find_cases(str(source)) if case.centre == "C"]
    assert len(cases) == 4
    for case in cases[:without]:
        label = nib.load(case.label)
        organ = np.minimum(np.asarray(label.dataobj), 1)
        nib.save(nib.Nifti1Image(organ, label.affine, label.header), case.label)
    run = evaluated(cascade, tmp_path, [row(case.id, "0.5", "pancreas") for case in cases])
    contents = collect(run, str(source))
    if without == 4:
        assert contents["doubts"] is None
        assert "No label has the target, tumour" in contents["missing"]["doubts"]
    else:
        assert [one["case"] for one in contents["doubts"]["rows"]] == [case.id for case in cases[without:]]
        assert "doubts" not in contents["missing"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evaluation/summary.json", "[]"),
        ("evaluation/summary.json", "null"),
        ("evaluation/summary.json", '{"models": 3}'),
        ("evaluation/summary.json", '{"summary": {"tumour": {"all": {"dice": 3}, "C": 3}}}'),
        ("evaluation/cases.csv", "case;target;dice\nC_000;tumour;0,5\n"),
        ("evaluation/cases.csv", 'case,target,dice\nC_000,tumour,"0,5"\n'),
        ("tumour-coarse/manifest.json", "[]"),
        ("tumour-coarse/manifest.json", "null"),
        ("tumour-coarse/manifest.json", "{}"),
        ("tumour-coarse/manifest.json", '{"steps": 3, "cases": [{"id": "A_000"}]}'),
        ("tumour-coarse/metrics.csv", "step;total\n1;0,5\n"),
        ("tumour-coarse/metrics.csv", 'step,total\n1,"0,5"\n'),
    ],
)
def test_a_file_of_another_shape_is_named(cascade, tmp_path, file, content):
    run = evaluated(cascade, tmp_path, [row("C_000", "0.5")])
    (run / file).write_text(content)
    with pytest.raises(DualTaskError, match=Path(file).name):
        collect(run)


def test_evaluation_in_which_every_case_failed_is_not_called_missing(cascade, tmp_path):
    failed = {"C_1": "not a readable NIfTI", "C_2": "has no voxels"}
    contents = collect(evaluated(cascade, tmp_path, [], failed))
    assert contents["failed"] == failed
    assert set(contents["missing"]) == {"evaluation", "examples", "doubts"}
    assert "All cases failed in the evaluation (2 of 2)" in contents["missing"]["evaluation"]
    assert "all of them failed" in contents["missing"]["examples"]
    assert contents["missing"]["doubts"] == contents["missing"]["examples"]


def test_run_without_evaluation_lists_what_is_missing(cascade, tmp_path):
    run = shutil.copytree(cascade, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation", "manifest.json"))
    contents = collect(run)
    assert set(contents["missing"]) == {"manifest", "evaluation", "examples", "doubts"}
    assert "not evaluated yet" in contents["missing"]["evaluation"]
    assert contents["rows"] == []
    assert contents["doubts"] is None
