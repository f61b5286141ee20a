"""Tables of an ablation hold the means that one computes by hand."""

from __future__ import annotations

import math

import pytest

from dualtask_lite.show import tables


def row(arm, centre, seed, case, dice, **other):
    about = {"arm": arm, "centre": centre, "seed": seed, "case": case, "dice": dice}
    return {**about, "detected": "True", "precision": "0.5", "recall": "", "volume_ml_truth": "8.0", **other}


ROWS = [
    row("segmentation", "A", "0", "a", "0.2"),
    row("segmentation", "A", "0", "b", "0.6", detected="False"),
    row("segmentation", "B", "0", "c", "nan", detected="nan"),
    row("full", "A", "0", "a", "0.1"),
    row("full", "A", "1", "a", "0.3", precision="0.1"),
]


def test_arms_have_their_means_by_hospital():
    baseline, full = tables.arms(ROWS).rows
    assert baseline["arm"] == "segmentation"
    assert (baseline["training runs"], full["training runs"]) == ({"A": 1, "B": 1}, {"A": 2})
    assert baseline["A"] == pytest.approx(0.4)
    assert math.isnan(baseline["B"])
    assert baseline["detected"] == 0.5
    assert full["A"] == pytest.approx(0.2)


def test_each_training_has_a_row():
    found = {(line["arm"], line["held out"], line["seed"]): line for line in tables.trainings(ROWS).rows}
    assert len(found) == 4
    assert found["full", "A", "1"]["precision"] == 0.1
    assert found["segmentation", "A", "0"]["dice"] == pytest.approx(0.4)
    assert math.isnan(found["full", "A", "0"]["recall"])


def test_means_of_a_training_leave_out_cases_without_the_target():
    healthy = row("full", "A", "1", "b", "nan", precision="0.0", volume_ml_truth="0.0")
    assert tables.trainings([*ROWS, healthy]).rows == tables.trainings(ROWS).rows


def test_differences_say_where_an_interval_is_missing():
    record = {
        "arm": "full",
        "difference": -0.076,
        "hierarchical": (math.nan, math.nan),
        "interval": (-0.13, -0.02),
        "p_holm": 0.03,
        "by_centre": {"C": -0.076},
        "conclusion": "not shown",
    }
    (line,) = tables.differences([record]).rows
    assert line["over training runs and cases"] == "too few training runs"
    assert line["over cases alone"] == "-0.130 to -0.020"
    assert "C: -0.076" in tables.differences([record]).to_html()


def test_failures_count_missed_lesions_and_false_alarms():
    def found(model, true, marked, detected=None):
        return {"model": model, "volume_ml_truth": true, "volume_ml_prediction": marked, "detected": detected}

    rows = [found("a", 3.0, 0.0, False), found("a", 5.0, 9.0, True), found("a", 0.0, 2.0), found("a", 0.0, 0.0)]
    first, second = tables.failures([*rows, found("b", 0.0, 0.0)], by="model").rows
    assert (first["lesions"], first["missed"], first["patients without"], first["false alarms"]) == (2, 1, 2, 1)
    assert (first["true (ml, median)"], first["marked (ml, median)"]) == (4.0, 4.5)
    assert (second["lesions"], second["false alarms"], second["marked (ml, median)"]) == (0, 0, None)
