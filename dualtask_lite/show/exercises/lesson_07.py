"""Exercises and predictions of lesson 07, real data and real GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise

A100 = "A100 (bf16)"


def _stay(answer: Sequence[str]) -> str:
    return f"{', '.join(answer)} stay usable: a bad case does not spoil the folder."


@exercise(
    "07.1",
    hint="first the set of finding['case'] where finding['level'] == 'error', then the other ids of the folder.",
    solution="sorted(case.id for case in find_cases(spoiled) if case.id is not among the cases with an error)",
    meaning=_stay,
)
def usable(answer: Sequence[str], findings: Sequence[Mapping[str, str]], spoiled: Any) -> bool:
    bad = {found["case"] for found in findings if found["level"] == "error"}
    return list(answer) == sorted(case.id for case in find_cases(spoiled) if case.id not in bad)


def _fitting(memory: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """GB of each profile that fits a card of 12 GB without recompute."""
    plain = {row["profile"]: row["GB on a card"] for row in memory if not row["recompute"]}
    return {name: gb for name, gb in plain.items() if gb <= 12}


def _room(memory: Sequence[Mapping[str, Any]]) -> str:
    fitting = _fitting(memory)
    return f"{' and '.join(sorted(fitting))}. These are estimates: {12 - max(fitting.values()):.1f} GB is little room."


@exercise(
    "07.2",
    hint="rows with recompute False, and at most 12 in the last column.",
    solution='{row["profile"] for row in memory if row["GB on a card"] <= 12 and not row["recompute"]}',
    meaning=_room,
)
def fit(answer: set[str], memory: Sequence[Mapping[str, Any]]) -> bool:
    return set(answer) == set(_fitting(memory))


@exercise(
    "07.3",
    hint="four stages, and hours(plans['gpu'], ...) for one of them.",
    solution='4 * hours(plans["gpu"], PEAKS["A100 (bf16)"])',
    meaning="{answer:.1f} hours, at an assumed speed: measure the speed of your card before you rent it.",
    rounding=0.05,
)
def cascade_hours(hours: Callable[[Any, float], float], plans: Mapping[str, Any], PEAKS: Mapping[str, float]) -> float:
    return 4 * hours(plans["gpu"], PEAKS[A100])


@exercise(
    "07.4",
    hint="count voxels with label 1, times the product of the three zooms, divided by 1000.",
    solution="(np.asarray(found.dataobj) == 1).sum() * np.prod(found.header.get_zooms()) / 1000",
    meaning="{answer:.1f} ml, as in the report that lies beside the label.",
    tolerance=0,
    rounding=0.05,
)
def pancreas_ml(found: Any) -> float:
    voxels = (np.asarray(found.dataobj) == 1).sum()
    return float(voxels * np.prod(found.header.get_zooms()[:3]) / 1000)


@result("07.A")
def on_a_case(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    dice = next(row["dice"] for row in rows if row["target"] == "pancreas")
    return "a" if dice < 0.5 else "b" if dice <= 0.8 else "c", f"Dice of the pancreas: {dice:.2f}."


@result("07.B")
def found_by_check(findings: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    cases = {one["case"] for one in findings if one["level"] == "error"}
    return "abc"[min(max(len(cases), 1), 3) - 1], f"It reports {len(cases)} cases as unusable."


@result("07.C")
def saved_by_recompute(memory: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    plain, less = (row["GB on a card"] for row in memory if row["profile"] == "gpu")
    saved = 1 - less / plain
    letter = "a" if saved < 0.1 else "b" if saved < 0.5 else "c"
    return letter, f"{less:.1f} instead of {plain:.1f} GB for the profile gpu: {saved:.0%} less."


@result("07.D")
def after_an_interruption(difference: float) -> tuple[str, str]:
    letter = "a" if difference == 0 else "b" if difference < 1e-3 else "c"
    return letter, f"The largest difference of any weight is {difference:g}."
