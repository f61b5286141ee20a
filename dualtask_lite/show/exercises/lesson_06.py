"""Exercises and predictions of lesson 06, predictions in 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.masks import Box
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise


def _share_outside(prediction: Any, scan: Any) -> float:
    """Share of the tumour outside the region of the last stage; 0 without a tumour."""
    last, tumour = prediction.report[-1], scan.label == 2
    return (
        float(1 - tumour[Box(last["box_start"], last["box_stop"]).slices].sum() / max(1, tumour.sum())) * tumour.any()
    )


def _worst_loss(answer: int, predictions: Mapping[str, Any], scans: Mapping[str, Scan]) -> str:
    worst = max(_share_outside(predictions[name], scan) for name, scan in scans.items())
    tumours = sum(scan.has_tumour for scan in scans.values())
    return f"{answer} of {tumours} tumours; of the worst of them {worst:.0%} was outside."


@exercise(
    "06.1",
    hint="cut the box out of label == 2 and compare its sum with the sum over the whole volume; count tumours.",
    solution="tumour[x0:x1, y0:y1, z0:z1].sum() < tumour.sum() for each one, with the corners from report[-1].",
    meaning=_worst_loss,
    tolerance=0,
)
def lost_before(predictions: Mapping[str, Any], scans: Mapping[str, Scan]) -> int:
    return sum(_share_outside(predictions[name], scan) > 0 for name, scan in scans.items())


@exercise(
    "06.2",
    hint="most voxels are NaN, because they are not on the surface: skip them before you take the mean.",
    solution="(error[np.isfinite(error)] <= 2).mean()",
    meaning="{answer:.0%}: a surface that runs along the move keeps its place, although every voxel was moved.",
    rounding=0.005,
)
def share_within_2mm(error: NDArray[np.floating]) -> float:
    return float(np.mean(error[~np.isnan(error)] <= 2))


def _against_all(answer: float, second_opinions: Sequence[Mapping[str, float]]) -> str:
    mean = np.mean([row["risk"] for row in second_opinions])
    verdict = "The warning found the worse cases." if answer < mean else "The warning did not find the worse cases."
    return f"{answer:.2f}, against {mean:.2f} over all cases. {verdict}"


@exercise(
    "06.3",
    hint="sort by the warning, drop the last quarter, and take the mean risk of the others.",
    solution='sorted(second_opinions, key=lambda row: row["unsure"]) without its last quarter; mean of row["risk"].',
    meaning=_against_all,
    rounding=0.005,
)
def risk_left(second_opinions: Sequence[Mapping[str, float]]) -> float:
    kept = sorted(second_opinions, key=lambda row: row["unsure"])
    return float(np.mean([row["risk"] for row in kept[: len(kept) - len(kept) // 4]]))


@result("06.A")
def false_alarms(healthy: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    marked = sum(row["volume_ml_prediction"] > 0 for row in healthy)
    letter = "a" if not marked else "c" if marked == len(healthy) else "b"
    return letter, f"In {marked} of {len(healthy)} patients without a tumour; so few are no rate of false alarms."


@result("06.B")
def better_head(by_head: Mapping[str, float]) -> tuple[str, str]:
    segmentation, distance = by_head["segmentation"], by_head["distance"]
    letter = "c" if abs(segmentation - distance) < 0.02 else "a" if segmentation > distance else "b"
    return letter, f"Mean Dice {segmentation:.2f} by the segmentation head, {distance:.2f} by the distance head."


@result("06.C")
def effect_of_true_box(by_box: Any) -> tuple[str, str]:
    change = by_box.reported - by_box.honest
    letter = "a" if change > 0.02 else "c" if change < -0.02 else "b"
    return letter, f"From {by_box.honest:.2f} to {by_box.reported:.2f}: the true box needs the label."


@result("06.D")
def use_of_warnings(assessment: Any) -> tuple[str, str]:
    correlations = [one["spearman"] for one in assessment.summary.values() if not np.isnan(one["spearman"])]
    best = max(correlations, default=0.0)
    letter = "a" if best > 0.7 else "b" if best > 0.3 else "c"
    return (
        letter,
        f"The best of {len(assessment.summary)} warnings has a Spearman correlation of {best:.2f} with the error.",
    )


@result("06.E")
def scanner_or_patients(swapped: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    def dice(patients: str, scanner: str) -> list[float]:
        group = [r for r in swapped if (r["target"], r["patients"], r["scanner"]) == ("tumour", patients, scanner)]
        return [row["dice"] for row in group if np.isfinite(row["dice"])]

    at_home, others = dice("A", "A"), dice("C", "A")
    home = float(np.mean(at_home))
    scanner, patients = float(np.mean(dice("A", "C"))) - home, float(np.mean(others)) - home
    larger = max(abs(scanner), abs(patients))
    letter = "c" if larger <= 0.05 else "a" if abs(scanner) == larger else "b"
    return (
        letter,
        f"From {home:.2f} in A, the scanner of C changes it by {scanner:+.2f} (the same {len(at_home)} patients), the "
        f"patients of C by {patients:+.2f} ({len(others)} others). So few patients show neither for the hospitals.",
    )
