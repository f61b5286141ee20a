"""Exercises and predictions of lesson 01, distance regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dualtask_lite.method.distance import BAND, signed_distance, to_band
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]


def _in_margin(distance: Field, spacing: Sequence[float]) -> float:
    return float(((distance > 0) & (distance <= 10)).sum() * np.prod(spacing) / 1000)


def _margin_in_voxels(answer: float, in_voxels: Field, spacing: Sequence[float]) -> str:
    counted = _in_margin(in_voxels, spacing)
    return f"{answer:.1f} ml. With the distance in voxels times 0.8 mm it would be {counted:.1f} ml."


@exercise(
    "01.1",
    hint="outside is ~ball; the volume of a voxel is the product of spacing.",
    solution="(~ball & (in_mm <= 10)).sum() voxels, times np.prod(spacing) mm³, divided by 1000.",
    meaning=_margin_in_voxels,
    rounding=0.05,
)
def margin_ml(in_mm: Field, spacing: Sequence[float]) -> float:
    return _in_margin(in_mm, spacing)


@exercise(
    "01.2",
    hint="read both lines at way == 10 and divide the tight crop's value by the wide crop's.",
    solution='take profiles["published, tight crop"] and profiles["published, wide crop"] where way == 10, and divide.',
    meaning="{answer:.1f}: same lesion, same voxel, but {answer:.1f} times the target, because of the crop alone.",
    rounding=0.05,
)
def factor(profiles: Mapping[str, Field], way: Field) -> float:
    tight, wide = (profiles[f"published, {crop} crop"][way == 10][0] for crop in ("tight", "wide"))
    return float(tight / wide)


@exercise(
    "01.3",
    hint="first the distance in mm, then the band; compare repaired < 0 with thin.",
    solution="to_band(signed_distance(thin, (1.0, 1.0, 1.0)), 20.0)",
    meaning="All voxels of the lesion are negative now, and 1 mm corresponds to 1/20, as everywhere else.",
)
def repaired(answer: Field, thin: Mask) -> bool:
    bands = to_band(signed_distance(thin, (1.0, 1.0, 1.0)), BAND)
    return bool(np.allclose(np.asarray(answer), bands, rtol=0, atol=1e-3))


@exercise(
    "01.4",
    hint="subtract the entry for 18 mm from the one for 28 mm; 1 cm is 10 mm.",
    solution="10 * (error[i] - error[j]), where moves[i] is 28 and moves[j] is 18.",
    meaning="{answer:.1f} mm. Dice is 0 for both predictions, so it cannot distinguish them.",
    rounding=0.05,
)
def worse_by_mm(error: Sequence[float], moves: NDArray[np.integer]) -> float:
    at = dict(zip(moves.tolist(), error, strict=True))
    return float(10 * (at[28] - at[18]))


@result("01.A")
def error_of_counting(in_voxels: Field, in_mm: Field) -> tuple[str, str]:
    most = float(np.abs(in_voxels - in_mm).max())
    return ("a" if most < 1 else "b" if most < 10 else "c"), f"Up to {most:.1f} mm: each slice counts as 0.8 mm, not 5."


@result("01.B")
def metric_that_separates(dice: Sequence[float], error: Sequence[float], moves: NDArray[np.integer]) -> tuple[str, str]:
    near, far = (list(moves).index(mm) for mm in (18, 28))
    by_dice, by_distance = dice[near] != dice[far], error[near] != error[far]
    letter = {(True, False): "a", (False, True): "b", (True, True): "c"}.get((by_dice, by_distance), "d")
    return (
        letter,
        f"Dice {dice[near]:.2f} and {dice[far]:.2f}; the mean errors of the distance are "
        f"{'different' if by_distance else 'equal'}.",
    )


@result("01.C")
def network_against_constant(errors: Sequence[float], constant_mm: float) -> tuple[str, str]:
    share = errors[-1] / constant_mm
    letter = "a" if share >= 1 else "b" if share > 0.5 else "c"
    return letter, f"{errors[-1]:.1f} mm, and the best constant {constant_mm:.1f} mm."
