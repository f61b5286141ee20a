"""Exercises and predictions of lesson 05, cross-dataset evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise
from dualtask_lite.words import interval_in_words, signed


def _paired(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    dice = {(row["arm"], row["case"]): float(row["dice"]) for row in rows}
    return [dice["conversion", case] - dice["segmentation", case] for arm, case in dice if arm == "conversion"]


def _how_many_gain(answer: float, rows: Sequence[Mapping[str, Any]]) -> str:
    differences = _paired(rows)
    gained = sum(one > 0 for one in differences)
    return f"{signed(answer)} on average; {gained} of {len(differences)} cases gained."


@exercise(
    "05.1",
    hint="pair by case: the same case with both arms; then conversion minus segmentation.",
    solution='dice = {(row["arm"], row["case"]): float(row["dice"]) for row in rows}; subtract by case; the mean.',
    meaning=_how_many_gain,
    tolerance=0,
    rounding=0.0005,
)
def mean_difference(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean(_paired(rows)))


@exercise(
    "05.2",
    hint="the smallest of three is multiplied by 3, the next by 2, the last by 1.",
    solution="0.02 * 3, 0.04 * 2 and 0.30 * 1: count those below 0.05.",
    meaning="{answer}: 0.02 * 3 is 0.06 already. Without the correction there would have been two findings.",
    tolerance=0,
)
def still_significant() -> int:
    return 0


@exercise(
    "05.3",
    hint="np.roll(ball, 1, axis=0) moves a ball by one voxel; the error is 1 mm for both.",
    solution='case_metrics(np.roll(ball, 1, axis=0), ball, (1, 1, 1))["dice"] of both balls; the smaller one.',
    meaning="The {answer} one: the same error of 1 mm weighs more where there is less volume.",
)
def lower_dice() -> str:
    return "small"


@exercise(
    "05.4",
    hint="the others are those of which neither neighbour trains: a chance of 0.2 for each of the two.",
    solution="1 - 0.2**2",
    meaning="{answer:.2f}: nearly every test slice has a neighbour that the network has seen.",
    rounding=0.005,
)
def with_neighbour() -> float:
    return 0.96


@result("05.A")
def cases_that_gain(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    differences = _paired(rows)
    gained = sum(one > 0 for one in differences)
    share = gained / len(differences)
    return ("a" if share > 0.75 else "b" if share > 0.25 else "c"), f"{gained} of {len(differences)} cases gained."


@result("05.B")
def on_other_patients(comparisons: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    (one,) = comparisons
    alone, together = one["interval"], one["hierarchical"]
    letter = "a" if alone[0] > 0 or alone[1] < 0 else "b"
    return (
        letter,
        f"Over cases alone {interval_in_words(alone)}. With models that are trained anew: over training runs "
        f"and cases {interval_in_words(together)}, from {one['trainings']} of them: {one['conclusion']}.",
    )


@result("05.C")
def size_of_slice_leak(by_slice: Any) -> tuple[str, str]:
    leak = by_slice.reported - by_slice.honest
    letter = "a" if leak < 0.02 else "b" if leak < 0.1 else "c"
    return letter, f"{by_slice.reported:.2f} instead of {by_slice.honest:.2f}: {leak:+.2f}."
