"""Exercises and predictions of lesson 00, start here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dualtask_lite.cases.case import Scan
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise


def _thick_slices(answer: str, examples: Sequence[Scan]) -> str:
    thickness = max(scan.spacing[2] for scan in examples)
    return f"Centre {answer}: {thickness:.1f} mm from slice to slice, so a lesion of that size may lie in one slice."


@exercise(
    "00.1",
    hint="print scan.centre and scan.spacing of every scan in examples; compare the last numbers.",
    solution="max(examples, key=lambda scan: scan.spacing[2]) is the scan with the thickest slices; take its centre.",
    meaning=_thick_slices,
)
def thickest(answer: str, examples: Sequence[Scan]) -> bool:
    most = max(scan.spacing[2] for scan in examples)
    return answer in [scan.centre for scan in examples if scan.spacing[2] == most]


def _as_ball(answer: float) -> str:
    diameter = (6000 * answer / math.pi) ** (1 / 3)
    return f"{answer:.1f} ml, as much as a ball of {diameter:.0f} mm diameter."


@exercise(
    "00.2",
    hint="count the voxels with label 2, then multiply by the volume of one voxel in mm³.",
    solution="(scan.label == 2).sum() counts the voxels; times the three spacings is mm³; divided by 1000 is ml.",
    meaning=_as_ball,
    rounding=0.05,
)
def tumour_ml(scan: Any) -> float:
    return float((scan.label == 2).sum() * math.prod(scan.spacing) / 1000)


def _against_spread(answer: float, scan: Any) -> str:
    spread = scan.volume[scan.label == 1].std()
    return (
        f"{answer:.0f} HU. Within the pancreas alone the voxels spread by {spread:.0f} HU (standard deviation), "
        "so a single voxel does not show its tissue."
    )


@exercise(
    "00.3",
    hint="scan.volume[scan.label == 1] are the HU of the pancreas without the tumour; label >= 1 holds both.",
    solution="scan.volume[scan.label == 1].mean() - scan.volume[scan.label == 2].mean()",
    meaning=_against_spread,
    rounding=0.5,
)
def contrast(scan: Any) -> Any:
    return scan.volume[scan.label == 1].mean() - scan.volume[scan.label == 2].mean()


@result("00.A")
def rare_voxels(scan: Any) -> tuple[str, str]:
    share = float((scan.label == 2).mean())
    return ("a" if share > 0.03 else "b" if share > 0.003 else "c"), f"1 voxel in {1 / share:,.0f} is tumour."


@result("00.B")
def threshold_elsewhere(right: Mapping[tuple[str, str], float]) -> tuple[str, str]:
    lost = {(own, at): right[at, at] - share for (own, at), share in right.items() if own != at}
    own, at = max(lost, key=lambda pair: lost[pair])
    most = lost[own, at]
    return (
        "a" if most < 2 else "b" if most <= 20 else "c",
        f"{most:.0f} points: in {at} its own threshold classifies {right[at, at]:.0f} % correctly, that of {own} "
        f"{right[own, at]:.0f} %.",
    )
