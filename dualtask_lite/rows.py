"""Rows of a table of results, as measured or as read from CSV, and the pairs that two arms make in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


def number(value: Any) -> float:
    """Read a value of a row, as measured or as text of a CSV; an empty field is NaN, a detection 0 or 1."""
    if value is None or value == "":
        return math.nan
    return float({"True": 1, "False": 0}.get(value, value))


class Pair(NamedTuple):
    """One case that two arms were tested on after the same training: same held-out part, same seed."""

    training: tuple[str, str]  # the part that was held out (a centre, or a fold) and the seed
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
            box. ``part`` is what a training held out; without it, the centre.
        arm: the one that is asked about.
        baseline: the one to compare with.
        metric: a column; a pair in which either value is not defined is left out.

    Returns:
        The pairs, sorted by training, centre and case.

    Raises:
        ValueError: when an arm has two rows for the same training and case.
    """
    values: dict[str, dict[tuple[tuple[str, str], str, str], float]] = {arm: {}, baseline: {}}
    for row in rows:
        if row["arm"] not in values:
            continue
        training = (str(row.get("part", row["centre"])), str(row["seed"]))
        key = (training, str(row["centre"]), str(row["case"]))
        if key in values[row["arm"]]:
            raise ValueError(
                f"arm {row['arm']}, seed {row['seed']}: case {row['case']} has two rows; "
                "give the rows of one target, protocol, head and box"
            )
        values[row["arm"]][key] = number(row[metric])
    both = sorted(values[arm].keys() & values[baseline].keys())
    found = [Pair(*key, values[baseline][key], values[arm][key]) for key in both]
    return [pair for pair in found if math.isfinite(pair.difference)]
