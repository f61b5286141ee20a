"""Learning curves of a run: the same scores as in its other files."""

from __future__ import annotations

import pytest

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging.curves import CURVE, LearningCurve
from dualtask_lite.engine.run import METRICS, read_rows
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
