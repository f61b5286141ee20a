"""Rows are read the same whether measured or from CSV; pairs are of one training and case."""

import math

import pytest

from dualtask_lite.engine.judging.statistics import compare
from dualtask_lite.rows import Pair, mean_of, number, pairs


def row(arm, case, seed, dice, centre="A", **other):
    return {"arm": arm, "centre": centre, "case": case, "seed": seed, "dice": dice, "part": centre, **other}


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("True", 1.0), (False, 0.0), (3, 3.0)])
def test_a_value_is_read_as_measured_or_as_text(text, value):
    assert number(text) == value


@pytest.mark.parametrize("nothing", ["", None, "nan", math.nan])
def test_undefined_metric_is_nan(nothing):
    assert math.isnan(number(nothing))


def test_mean_leaves_out_undefined_values():
    assert mean_of(["0.2", "", "nan", 0.4, True]) == pytest.approx(1.6 / 3)
    assert math.isnan(mean_of(["", None]))


def test_pairs_are_of_one_training_and_case():
    rows = [
        *(row("segmentation", "a", 1, "0.6"), row("segmentation", "a", 0, "0.2"), row("segmentation", "b", 0, 0.5)),
        *(row("full", "a", "0", 0.3), row("full", "a", "1", "0.5"), row("full", "b", 0, 0.9)),
        row("full", "b", 1, "0.0"),  # the baseline has no such training
        *(row("segmentation", "healthy", 0, ""), row("full", "healthy", 0, "nan")),  # not defined
        row("views", "a", 0, 0.7),  # another arm
        *(row("segmentation", "a", 0, "0.1", "B"), row("full", "a", 0, "0.4", "B")),
    ]
    assert pairs(rows, "full", "segmentation", "dice") == [
        Pair(("A", "0"), "A", "a", 0.2, 0.3),
        Pair(("A", "0"), "A", "b", 0.5, 0.9),
        Pair(("A", "1"), "A", "a", 0.6, 0.5),
        Pair(("B", "0"), "B", "a", 0.1, 0.4),
    ]
    assert pairs(rows, "full", "segmentation", "dice")[0].difference == pytest.approx(0.1)


def test_a_part_that_is_not_the_centre_makes_trainings():
    rows = [
        row(arm, case, 0, 0.5, part=part) for arm in ("segmentation", "full") for case, part in (("a", 0), ("b", 1))
    ]
    assert [pair.training for pair in pairs(rows, "full", "segmentation", "dice")] == [("0", "0"), ("1", "0")]


def test_rows_without_a_part_are_of_one_training_for_each_seed():
    """Those of ``dualtask evaluate``, whose test hospitals are not training runs."""
    rows = [row(arm, "a", seed, 0.5, centre) for arm in ("segmentation", "full") for seed in (0, 1) for centre in "ABC"]
    for one in rows:
        del one["part"]
    assert {pair.training for pair in pairs(rows, "full", "segmentation", "dice")} == {("", "0"), ("", "1")}
    (found,) = compare(rows, "segmentation", "dice")
    assert (found["trainings"], found["conclusion"]) == (2, "not shown")


def test_rows_that_are_not_filtered_are_refused():
    rows = [row(arm, "a", 0, 0.5, head=head) for arm in ("segmentation", "full") for head in ("segmentation", "mean")]
    with pytest.raises(ValueError, match="case a has two rows; give the rows of one target, protocol, head and box"):
        pairs(rows, "full", "segmentation", "dice")
