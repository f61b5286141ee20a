"""Exercises and predictions of lesson 08, the exam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dualtask_lite.show.exercises.choices import result as outcome_of
from dualtask_lite.show.exercises.judge import exercise
from dualtask_lite.words import interval_in_words, signed

BUDGET = 180  # seconds
_SAME = 0.05  # Dice; a smaller change of a difference counts as no change


@exercise(
    "08.1",
    hint="steps divided by seconds is the number of steps in a second; the budget is 180 seconds.",
    solution='int(180 * manifest["steps"] / manifest["seconds"])',
    meaning="{answer:.0f} steps, if the machine stays as busy as it was. Stay a little below: the clock counts.",
)
def steps_in_budget(answer: float, manifest: Mapping[str, Any]) -> bool:
    expected = BUDGET * manifest["steps"] / manifest["seconds"]
    return abs(answer - expected) <= max(1.0, 0.05 * expected)


def _missed(answer: int, result: Any) -> str:
    return f"{answer} of {len(result.results)} tumours. A mean Dice does not distinguish a miss from a poor outline."


@exercise(
    "08.2",
    hint="a tumour that was missed has a Dice of 0; count these in result.results, where only tumours are.",
    solution='sum(row["dice"] == 0 for row in result.results)',
    meaning=_missed,
    tolerance=0,
)
def missed(result: Any) -> int:
    return sum(row["dice"] == 0 for row in result.results)


@exercise(
    "08.3",
    hint="chance does not add up: multiply the spread by the expected best of ten draws with a spread of 1.",
    solution="0.02 * exam.expected_best(10)",
    meaning="{answer:.3f} by chance alone: about a third of the 9.5 points of the claim.",
    rounding=0.0005,
)
def best_of_ten(exam: Any) -> float:
    return float(0.02 * exam.expected_best(10))


@outcome_of("08.A")
def share_of_the_baseline(mean_dice: Mapping[str, float]) -> tuple[str, str]:
    attempt, baseline = mean_dice["attempt"], mean_dice["baseline"]
    letter = "a" if 3 * attempt < baseline else "b" if 3 * attempt <= 2 * baseline else "c"
    return letter, f"{attempt:.2f} with the attempt, {baseline:.2f} with the baseline."


@outcome_of("08.B")
def difference_on_the_exam(result: Any, mean_dice: Mapping[str, float]) -> tuple[str, str]:
    known, new = mean_dice["attempt"] - mean_dice["baseline"], result.row["difference"]
    letter = "a" if new > known + _SAME else "c" if new < known - _SAME else "b"
    return letter, (
        f"{signed(known)} there, {signed(new)} on D, with an interval from "
        f"{interval_in_words((result.row['low'], result.row['high']))} over {result.row['cases']} tumours."
    )
