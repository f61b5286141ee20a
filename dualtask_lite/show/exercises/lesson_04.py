"""Exercises and predictions of lesson 04, the framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dualtask_lite.rows import mean_of
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise

_SAME = 0.05  # Dice; a smaller difference of two means over few cases counts as none


@exercise(
    "04.1",
    hint="the intersection of two sets is a & b; a | b is everything that is in one of them.",
    solution="len({case.id for case in split.train} & {case.id for case in split.test})",
    meaning="{answer}: no test case was used in training; otherwise the test would prove nothing.",
)
def shared(split: Any) -> int:
    return len({case.id for case in split.train} & {case.id for case in split.test})


def _median_and_mean(answer: float, pancreas: Sequence[Mapping[str, Any]]) -> str:
    dice = [row["dice"] for row in pancreas]
    return f"{answer:.2f}, where the mean is {np.nanmean(dice):.2f} and the worst case {np.nanmin(dice):.2f}."


@exercise(
    "04.2",
    hint="half of the cases lie below the median; see statistics.median.",
    solution='statistics.median(row["dice"] for row in pancreas if not math.isnan(row["dice"]))',
    meaning=_median_and_mean,
    rounding=0.005,
)
def median_dice(pancreas: Sequence[Mapping[str, Any]]) -> float:
    return float(np.nanmedian([row["dice"] for row in pancreas]))


@exercise(
    "04.3",
    hint="the deepest voxel has the smallest (most negative) distance; a depth is positive.",
    solution="-prediction.distance_mm.min()",
    meaning="{answer:.1f} mm: the depth of the tumour according to the distance head.",
    rounding=0.05,
)
def deepest(prediction: Any) -> float:
    return float(-prediction.distance_mm.min())


@result("04.A")
def which_terms_fall(rows: Sequence[Any], tenth: int, mean: Any, settings: Mapping[str, Any]) -> tuple[str, str]:
    objective = settings["tumour-coarse"].objective
    terms = [term for term in objective.weights if objective.on(term)]
    fell = [term for term in terms if mean(rows[-tenth:], term) < mean(rows[:tenth], term)]
    letter = "a" if len(fell) == len(terms) else "b" if "seg" in fell else "c"
    return letter, f"{len(fell)} of {len(terms)} terms fell: {', '.join(fell) or 'none'}."


@result("04.B")
def how_well(pancreas: Sequence[Mapping[str, Any]], tumour: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    organ, lesion = (float(np.nanmean([row["dice"] for row in part])) for part in (pancreas, tumour))
    letter = "c" if organ < 0.5 else "b" if lesion < 0.5 else "a"
    return letter, f"Mean Dice of the pancreas {organ:.2f}, of the tumour {lesion:.2f}."


@result("04.C")
def at_home_or_away(compared: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    model = compared[-1]["model"].rpartition(",")[0]  # the reference, or with other data the lesson's own model
    tumours = [row for row in compared if row["target"] == "tumour"]
    home, away = (
        mean_of(row["dice"] for row in tumours if row["model"] == f"{model}, {where}") for where in ("at home", "away")
    )
    letter = "c" if abs(home - away) < _SAME else "a" if home > away else "b"
    return letter, f"{home:.2f} at home, {away:.2f} away. With so few patients either may be luck."
