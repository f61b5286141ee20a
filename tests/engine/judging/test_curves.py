"""Learning curves of a run: the same scores as in its other files."""

from __future__ import annotations

import math

import pytest

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging import curves
from dualtask_lite.engine.judging.curves import CURVE, LearningCurve, read_curve
from dualtask_lite.engine.records import read_rows, write_rows
from dualtask_lite.engine.run import METRICS
from dualtask_lite.engine.training import train as engine_train


def test_a_curve_has_the_validation_dice_of_the_metrics(phantom_folder, tmp_path, tiny_run, monkeypatch):
    """Also when the model predicts with flips: neither uses them."""
    flips, predict_region = set(), engine_train.predict_region

    def note(net, image, settings):
        flips.add(settings.prediction.flips)
        return predict_region(net, image, settings)

    monkeypatch.setattr(engine_train, "predict_region", note)
    changes = {"augment.flip": 0.5, "prediction.flips": 8, "machine.validate_every": 1, "stage": "pancreas-coarse"}
    settings = Settings.of("laptop", {**tiny_run, **changes})
    cases = find_cases(phantom_folder)
    split = Split(train=tuple(cases[:3]), validation=tuple(cases[3:5]), test=tuple(cases[5:6]))
    curve = LearningCurve(tmp_path, split.train, split.test, settings)
    hooks = {"on_validation": curve.measure, "callback": curve.record}
    engine_train.train(settings, tmp_path, split=split, progress=False, **hooks)
    by_curve = [float(row["validation_dice"]) for row in read_rows(tmp_path / CURVE)]
    assert by_curve == pytest.approx([float(row["val_dice"]) for row in read_rows(tmp_path / METRICS)], abs=1e-4)
    assert flips == {1}


def test_a_row_has_the_mean_dice_of_each_group_of_cases(tmp_path, monkeypatch):
    """A training that resumes at an earlier step replaces the later rows; without a new measurement there is no row."""
    monkeypatch.setattr(curves, "region_scores", lambda net, regions, settings: list(regions))
    curve = LearningCurve(tmp_path, (), (), Settings.of("laptop"))
    curve.regions = {"train": [0.5, 0.7], "unseen": []}
    for step in (2, 4, 6, 4):
        curve.measure(None, [step / 10], None)
        curve.record({"step": step})
        curve.record({"step": step + 1})
    rows = [{name: float(value) for name, value in row.items()} for row in read_rows(tmp_path / CURVE)]
    assert [row["step"] for row in rows] == [2, 4]
    assert [row["train_dice"] for row in rows] == [0.6, 0.6]
    assert [row["validation_dice"] for row in rows] == [0.2, 0.4]
    assert all(math.isnan(row["unseen_dice"]) for row in rows)


def test_a_curve_has_the_mean_terms_since_the_previous_row(tmp_path):
    other = {"lr": 1e-3, "grad_seg": 7.0, "val_dice": "", "seconds": 1.0}
    write_rows(tmp_path / METRICS, [{"step": n, "total": n, "seg": 10 * n, **other} for n in range(1, 7)])
    write_rows(tmp_path / CURVE, [{"step": n, "train_dice": n / 10} for n in (2, 5)])
    assert read_curve(tmp_path) == [
        {"step": 2, "train_dice": 0.2, "seg": 15.0, "loss": 1.5},
        {"step": 5, "train_dice": 0.5, "seg": 40.0, "loss": 4.0},
    ]
