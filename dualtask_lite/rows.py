"""Rows of a results table, as measured or as read from CSV, and the paired results of two arms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

Row = Mapping[str, Any]


def number(value: Any) -> float:
    """Convert a value of a row, as measured or as text from CSV; an empty field is NaN, True 1 and False 0."""
    if value is None or value == "":
        return math.nan
    return float({"True": 1, "False": 0}.get(value, value))


def mean_of(values: Iterable[Any]) -> float:
    """Mean of the defined values of a column; NaN when none is defined."""
    known = [value for value in map(number, values) if math.isfinite(value)]
    return fmean(known) if known else math.nan


class Pair(NamedTuple):
    """Results of two arms for one case after corresponding training runs: same held-out part, same seed."""

    training: tuple[str, str]  # held-out part (a centre or a fold) and seed
    centre: str
    case: str
    baseline: float
    arm: float

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.arm - self.baseline


def pairs(rows: Sequence[Row], arm: str, baseline: str, metric: str) -> list[Pair]:
    """Pair two arms by training and case.

    Args:
        rows: results with ``arm``, ``centre``, ``case``, ``seed`` and the metric, of one target, protocol, head and
            box. ``part`` is the held-out part of a training; rows without it are of one training for each seed.
        arm: to compare.
        baseline: the arm to compare it with.
        metric: a column; pairs with an undefined value are skipped.

    Returns:
        The pairs, sorted by training, centre and case.

    Raises:
        ValueError: when an arm has two rows for the same training and case.
    """
    values: dict[str, dict[tuple[tuple[str, str], str, str], float]] = {arm: {}, baseline: {}}
    for row in rows:
        if row["arm"] not in values:
            continue
        training = (str(row.get("part", "")), str(row["seed"]))
        key = (training, str(row["centre"]), str(row["case"]))
        if key in values[row["arm"]]:
            raise ValueError(
                f"arm {row['arm']}, seed {row['seed']}: case {row['case']} has two rows; "
                "give the rows of one target, protocol, head and box"
            )
        values[row["arm"]][key] = number(row[metric])
    shared = sorted(values[arm].keys() & values[baseline].keys())
    matched = [Pair(*key, values[baseline][key], values[arm][key]) for key in shared]
    return [pair for pair in matched if math.isfinite(pair.difference)]
