"""Evaluation: the right cases, no case that was seen, nothing failed in an average."""

import csv
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dualtask_lite.cases import case as cases
from dualtask_lite.cases.case import Case, Scan, examine
from dualtask_lite.cases.masks import Box, dice
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging import evaluation as engine
from dualtask_lite.engine.judging.evaluation_folder import check_evaluation_folder, write_evaluation
from dualtask_lite.engine.predict import Prediction, TargetPrediction, predict_box
from dualtask_lite.engine.run import Model, TrainingCase
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.network import DualTaskNet


def case(name, centre="C", *, seed=0, tumour=True, label=True):
    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 12, 10), np.uint8)
    mask[2:10, 3:9, 2:8] = 1
    if tumour:
        mask[4:8, 4:8, 3:6] = 2
    volume = rng.normal(0, 200, mask.shape).astype(np.float32)
    return Case(name, centre, volume, mask if label else None, np.diag([2.0, 2.0, 2.0, 1.0]))


def model(stage="tumour-coarse", held_out="C", seen=(), source="phantom"):
    changes = {"stage": stage, "data.held_out": held_out, "data.source": source}
    return Model(None, Settings.of("laptop", changes), tuple(seen), "run")


def known(**masks):
    """A prediction of these masks."""
    values = {name: mask.astype(np.float32) for name, mask in masks.items()}
    return Prediction({n: TargetPrediction(m, values[n], -values[n], {}) for n, m in masks.items()}, [])


@pytest.fixture
def oracle(monkeypatch):
    """A cascade that knows the answer, shifted by one voxel (2 mm)."""

    def predict_scan(models, scan, earlier=None):
        shifted = np.roll(scan.label, 1, axis=0)
        return known(pancreas=shifted >= 1, tumour=shifted == 2)

    monkeypatch.setattr(engine, "predict_scan", predict_scan)


def test_default_test_centre_is_the_held_out_one():
    cases = [case("a", "A"), case("b", "B", seed=1), case("c", "C", seed=2)]
    assert [c.id for c in engine.unseen_cases([model()], cases)] == ["c"]
    assert [c.id for c in engine.unseen_cases([model()], cases, "B")] == ["b"]
    assert len(engine.unseen_cases([model(held_out=None)], cases)) == 3
    assert len(engine.unseen_cases([model(held_out="A"), model("pancreas-coarse", "B")], cases)) == 3
    with pytest.raises(DualTaskError, match="choose one of: A, B, C"):
        engine.unseen_cases([model()], cases, "D")


def test_held_out_centre_applies_to_the_training_source_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    trained = model(source=str(tmp_path / "own"))
    cases = [case("a", "A"), case("c", "C", seed=2)]
    for source in (None, "own", "./own", tmp_path / "own"):
        assert [c.id for c in engine.unseen_cases([trained], cases, source=source and str(source))] == ["c"]
    assert engine.unseen_cases([trained], cases, source="other") == cases
    assert engine.unseen_cases([trained], cases[:1], source="other") == cases[:1]  # no case of centre C is needed there
    assert engine.unseen_cases([trained], cases, "A", source="other") == cases[:1]


@pytest.mark.parametrize("role", ["train", "validation", "threshold"])
@pytest.mark.parametrize("name", ["c", "renamed"])
def test_case_with_a_training_image_is_refused_under_any_name(role, name):
    tested = case("c")
    used = TrainingCase(name, "A", tested.digest(), role)
    with pytest.raises(DualTaskError, match="case c was used in training" + (" as renamed" if name != "c" else ",")):
        engine.evaluate([model(), model("pancreas-coarse", seen=[used])], [tested], progress=False)


def test_another_image_is_not_refused_for_its_name(oracle):
    """Hospitals name their cases alike."""
    used = TrainingCase("case_001", "A", case("case_001", "A", seed=1).digest(), "train")
    result = engine.evaluate([model(seen=[used])], [case("case_001", "B")], progress=False)
    assert [row["case"] for row in result.rows] == ["case_001"]


def test_renamed_and_reoriented_copy_of_training_case_is_refused(tmp_path):
    tested = case("c")
    seen = TrainingCase("c", "C", tested.digest(), "train")
    flipped = nib.Nifti1Image(tested.image[::-1].astype(np.float64), tested.affine @ np.diag([-1.0, 1, 1, 1]))
    flipped.affine[0, 3] = 2.0 * (tested.image.shape[0] - 1)
    nib.save(flipped, tmp_path / "other.nii.gz")
    copy = Case("other", "D", tmp_path / "other.nii.gz", tested.label)
    with pytest.raises(DualTaskError, match="case other was used in training as c"):
        engine.refuse_training_cases([model(seen=[seen])], [copy])


def test_scores_use_the_mask_of_each_target(oracle):
    cases = [case("one"), case("two", seed=1, tumour=False), case("unlabelled", seed=2, label=False)]
    with pytest.warns(UserWarning, match="1 of 3 cases have no label and are left out: unlabelled"):
        result = engine.evaluate([model(), model("pancreas-coarse")], cases, progress=False)
    rows = {(row["case"], row["target"]): row for row in result.rows}
    assert set(rows) == {(name, target) for name in ("one", "two") for target in ("pancreas", "tumour")}
    assert rows["one", "pancreas"]["dice"] == pytest.approx(7 / 8)  # 8 voxels wide, shifted by 1
    assert rows["one", "tumour"]["dice"] == pytest.approx(3 / 4)
    assert rows["one", "tumour"]["hd95_mm"] == pytest.approx(2)
    assert math.isnan(rows["two", "tumour"]["dice"])
    tumour = result.summary["tumour"]["all"]
    assert tumour["n_cases"] == 2
    assert tumour["dice"]["n"] == 1
    assert tumour["dice"]["mean"] == pytest.approx(3 / 4)  # the case without a tumour is in no average
    assert set(result.summary["tumour"]) == {"all", "C"}


def test_cascades_share_a_first_stage_and_score_as_they_do_apart(monkeypatch):
    torch.manual_seed(0)
    small = {"sample.patch": [16, 16, 8], "sample.spacing": [4, 4, 4]}
    nets = [DualTaskNet(width=8), DualTaskNet(width=8), DualTaskNet(width=8)]
    stages = ("pancreas-coarse", "tumour-coarse", "tumour-coarse")
    pancreas, first, second = (
        Model(net, Settings.of("laptop", {"stage": stage, **small}), (), "run")
        for net, stage in zip(nets, stages, strict=True)
    )
    cases = [case("one"), case("two", seed=1)]
    apart = [engine.evaluate([pancreas, one], cases, progress=False).rows for one in (first, second)]
    calls = []
    predict = engine.predict_scan
    monkeypatch.setattr(
        engine, "predict_scan", lambda models, *rest: calls.append(list(models)) or predict(models, *rest)
    )
    together = engine.evaluate_cascades([[pancreas, first], [second, pancreas]], cases, progress=False)
    assert [str(one.rows) for one in together] == [str(rows) for rows in apart]
    assert calls == [[pancreas], [first], [second]] * 2
    assert str(apart[0]) != str(apart[1])


@pytest.mark.parametrize(
    ("stage", "box"),
    [
        ("pancreas-coarse", Box((0, 0, 0), (12, 12, 10))),  # the whole volume
        ("tumour-coarse", Box((0, 1, 0), (12, 11, 10))),
        ("tumour-fine", Box((2, 2, 1), (10, 10, 8))),  # 20 mm are two voxels, its 30 mm in training three
    ],
)
def test_the_label_s_own_box_scores_as_a_prediction_in_that_box_does(stage, box):
    torch.manual_seed(1)
    settings = Settings.of("laptop", {"stage": stage, "sample.patch": [16, 16, 8], "prediction.heads": "segmentation"})
    large = replace(case("one"), affine=np.diag([10.0, 10.0, 10.0, 1.0]))
    one, scan = Model(DualTaskNet(width=8), settings, (), "run"), large.load()
    (row,) = engine.evaluate([one], [large], heads=True, progress=False).rows
    maps = predict_box(one, scan, box)
    mask = maps.mask_of("segmentation", settings.prediction.threshold)
    truth = scan.label >= 1 if stage == "pancreas-coarse" else scan.label == 2
    assert row["dice_own_box"] == dice(mask, truth)
    assert 0 < row["dice_own_box"] < 1


def test_unreadable_case_is_listed_and_in_no_average(oracle, tmp_path):
    (tmp_path / "bad.nii.gz").write_text("html")
    bad = Case("bad", "C", tmp_path / "bad.nii.gz", np.zeros((2, 2, 2), np.uint8))
    # Content that cannot be hashed is no reason to stop: the case fails by itself.
    trained = model(seen=[TrainingCase("a", "A", "0" * 64, "train")])
    result = engine.evaluate([trained], [case("good"), bad], progress=False)
    assert list(result.failed) == ["bad"]
    assert "not a readable NIfTI" in result.failed["bad"]
    assert result.summary["tumour"]["all"]["n_cases"] == 1


def test_an_unexpected_error_of_a_case_does_not_stop_the_others(oracle, monkeypatch):
    read = "dualtask_lite.cases.case.examine"
    monkeypatch.setattr(read, lambda case: examine(case) if case.id == "good" else {}[4])
    result = engine.evaluate([model()], [case("odd"), case("good")], progress=False)
    assert result.summary["tumour"]["all"]["n_cases"] == 1
    assert "KeyError: 4" in result.failed["odd"]


def shifted(affine, mm):
    moved = affine.copy()
    moved[0, 3] += mm
    return moved


def sheared(affine):
    tilted = affine.copy()
    tilted[1, 2] = 0.4
    return tilted


STRANGE = {  # what is wrong: (voxels, affine of the image by sform, by qform, of the label), and the warning
    "not HU": (lambda volume, own: (volume + 1024, own, own, own), "do not look like HU"),
    "gantry tilt": (lambda volume, own: (volume, sheared(own), None, sheared(own)), "not at right angles"),
    "two positions": (lambda volume, own: (volume, own, shifted(own, 7), own), "are 7 mm apart"),
    "label moved": (lambda volume, own: (volume, own, own, shifted(own, 0.9)), "lies 0.9 mm from its image"),
}


@pytest.mark.parametrize("wrong", STRANGE)
def test_warnings_about_a_case_are_kept_and_change_no_score(oracle, tmp_path, monkeypatch, wrong):
    """As dualtask data check gives them, without reading a file twice."""
    one, (change, message) = case("odd"), STRANGE[wrong]
    volume, sform, qform, label_affine = change(one.image, one.affine)
    image = nib.Nifti1Image(volume, sform)
    image.set_sform(sform, 1)
    image.set_qform(qform, 0 if qform is None else 1)
    nib.save(image, tmp_path / "odd.nii.gz")
    nib.save(nib.Nifti1Image(one.label, label_affine), tmp_path / "label.nii.gz")
    odd = Case("odd", "C", tmp_path / "odd.nii.gz", tmp_path / "label.nii.gz")
    read, real = [], cases.open_image
    monkeypatch.setattr(cases, "open_image", lambda path, *rest: read.append(path) or real(path, *rest))
    result = engine.evaluate([model()], [odd, case("good", seed=1)], progress=False)
    assert [path for path in read if isinstance(path, Path)] == [odd.image, odd.label]
    assert list(result.warnings) == ["odd"]
    (warning,) = result.warnings["odd"]
    assert message in warning
    assert result.summary["tumour"]["all"]["n_cases"] == 2
    assert set(result.rows[0]) == set(result.rows[1])
    write_evaluation(result, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"] == {"odd": [warning]}


@pytest.mark.parametrize("step", ["predict_scan", "score"])
def test_an_interrupt_keeps_the_finished_cases_for_whoever_wants_them(monkeypatch, oracle, step):
    """And is a plain interrupt for all others, such as a notebook or the pool of an ablation."""
    real = getattr(engine, step)

    def until_the_second(*args):
        name = next(one.id for one in args if isinstance(one, Scan))
        if name == "second":
            raise KeyboardInterrupt
        return {}[4] if name == "odd" else real(*args)

    monkeypatch.setattr(engine, step, until_the_second)
    cases = [case("odd", seed=3), case("first"), case("second", seed=1), case("third", seed=2)]
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.evaluate_cascades([[model()], [model()]], cases, progress=False)
    for evaluation in pickle.loads(pickle.dumps(caught.value)).evaluations:
        assert [row["case"] for row in evaluation.rows] == ["first"]
        assert evaluation.summary["tumour"]["all"]["n_cases"] == 1
        assert list(evaluation.failed) == ["odd", "second", "third"]
        assert "KeyError: 4" in evaluation.failed["odd"]
        assert evaluation.failed["second"] == evaluation.failed["third"] == engine.INTERRUPTED
    assert str(caught.value) == ""
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.evaluate([model()], cases[2:], progress=False)
    assert type(caught.value) is KeyboardInterrupt, "no case was finished"


def test_the_table_of_an_ablation_is_not_overwritten(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DualTaskError, match="holds the table of dualtask ablate"):
        check_evaluation_folder(tmp_path, [case("one")], "phantom", [])


WRONG_SUMMARIES = [
    "[]",
    "null",
    "[" * 100_000,
    '{"source": 3}',
    '{"models": 3}',
    '{"models": [3]}',
    '{"failed": ["C_000"]}',
    '{"summary": {"tumour": 3}}',
    '{"summary": {"tumour": {"all": {"dice": {}}}}}',
]


@pytest.mark.parametrize("content", WRONG_SUMMARIES, ids=lambda content: content[:20])
def test_a_summary_of_another_shape_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(DualTaskError, match=r"summary\.json: .*remove it, or create it again"):
        check_evaluation_folder(tmp_path, [case("one")], "phantom", [])


@pytest.mark.parametrize("table", ['case;centre;dice\n"one";C;0,5\n', "name,dice\none,0.5\n", "case,dice\none,0,5\n"])
def test_a_table_that_a_spreadsheet_saved_is_named_before_the_evaluation(tmp_path, table):
    write_evaluation(engine.Evaluation([], {}, {}), tmp_path, "phantom")
    (tmp_path / "cases.csv").write_text(table)
    with pytest.raises(DualTaskError, match=r"cases\.csv: (has no column case|line 2 has more fields)"):
        check_evaluation_folder(tmp_path, [case("one")], "phantom", [])


def test_the_evaluation_of_another_model_is_not_overwritten(tmp_path):
    """One pancreas stage with each of several tumour stages has the same default folder."""
    first, second = (replace(model(), path=tmp_path / name / "model.safetensors") for name in ("t1", "t2"))
    write_evaluation(engine.Evaluation([], {}, {}), tmp_path / "p" / "evaluation", "phantom", [first])
    moved = (tmp_path / "p").rename(tmp_path / "q") / "evaluation"
    check_evaluation_folder(moved, [], "phantom", [first])
    for others in ([second], [first, second]):
        with pytest.raises(DualTaskError, match=r"the evaluation of other models \(.*t1"):
            check_evaluation_folder(moved, [], "phantom", others)


def test_missing_evaluation_cases_are_reported():
    with pytest.raises(DualTaskError, match="no labelled case"):
        engine.evaluate([model()], [case("c", label=False)], progress=False)


def test_written_files_read_back(oracle, tmp_path):
    result = engine.evaluate([model()], [case("one"), case("two", seed=1, tumour=False)], progress=False)
    write_evaluation(result, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["one", "two"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["summary"]["tumour"]["all"]["dice"]["mean"] == pytest.approx(0.75)
    assert summary["failed"] == {}


def test_recorded_models_are_found_behind_a_link(tmp_path):
    """A folder of runs often is a link to a larger disk."""
    (tmp_path / "disk" / "scratch" / "runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "scratch" / "runs")
    (tmp_path / "models").mkdir()
    file, folder = tmp_path / "models" / "model.safetensors", tmp_path / "runs" / "one" / "evaluation"
    file.touch()
    write_evaluation(engine.Evaluation([], {}, {}), folder, models=[replace(model(), path=file)])
    (recorded,) = json.loads((folder / "summary.json").read_text())["models"]
    assert (folder / recorded).samefile(file)


def test_false_tumour_does_not_count_against_the_pancreas():
    scan = case("c").load()
    pancreas = scan.label >= 1
    everywhere = known(pancreas=pancreas, tumour=np.ones_like(pancreas))
    rows = {row["target"]: row for row in engine.score(scan, everywhere, ["pancreas", "tumour"])}
    assert rows["pancreas"]["dice"] == rows["pancreas"]["precision"] == 1
    assert rows["tumour"]["dice"] < 0.2
