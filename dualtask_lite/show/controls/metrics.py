"""The response of the usual metrics to different errors of a mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtask_lite.method.distance import signed_distance
from dualtask_lite.show import palette
from dualtask_lite.show.controls.explorer import Explorer, Frame, Knob, LineStyle, Panel
from dualtask_lite.show.controls.lesion import lesion

Measure = Callable[[NDArray[np.bool_], NDArray[np.bool_], Sequence[float]], Mapping[str, float]]

_NAMES = {  # column -> its name and unit
    "dice": ("Dice", ""),
    "nsd_1mm": ("NSD at 1 mm", ""),
    "nsd_2mm": ("NSD at 2 mm", ""),
    "hd95_mm": ("HD95", " mm"),
    "assd_mm": ("ASSD", " mm"),
    "volume_error_ml": ("volume error", " ml"),
}
_KINDS = np.array(
    [
        [int(c[i : i + 2], 16) for i in (1, 3, 5)]
        for c in (  # nothing, both, only predicted, only true
            "#1A1A1A",
            "#BBBBBB",
            palette.FALSE_POSITIVE,
            palette.FALSE_NEGATIVE,
        )
    ],
    np.uint8,
)
_STYLES = {
    "truth": LineStyle("truth (blue: false negative)", palette.YELLOW),
    "prediction": LineStyle("prediction (orange: false positive)", palette.MAGENTA, "5 4"),
}


def metric_explorer(
    measure: Measure, mask: NDArray[np.bool_] | None = None, *, spacing: Sequence[float] = (1.0, 1.0, 2.0)
) -> Explorer:
    """Move, grow, pierce and split a mask, and show its metrics.

    Args:
        measure: ``engine.judging.metrics.case_metrics``, or another function of (prediction, truth, spacing) that
            returns metrics by name.
        mask: (X, Y, Z) the truth; by default a synthetic lesion.
        spacing: of the mask, mm.
    """
    truth = lesion(spacing) if mask is None else np.asarray(mask) > 0
    distance = signed_distance(truth, spacing)
    steps = range(-10, 11)
    lengths = {f"{mm:g} mm": float(mm) for mm in range(13)}
    return Explorer(
        title="A wrong mask and its metrics (axial plane)",
        knobs=(
            Knob("move", "Move", {f"{n * spacing[0]:g} mm": n for n in steps}, "0 mm"),
            Knob("grow", "Grow", {f"{mm:g} mm": float(mm) for mm in range(-6, 7)}, "2 mm"),
            Knob("hole", "Hole, radius", lengths, "0 mm"),
            Knob("split", "Split, gap", lengths, "0 mm"),
        ),
        draw=lambda **change: _frame(truth, deform(distance, spacing, **change), spacing, measure),
        styles=_STYLES,
        aspect=truth.shape[0] * spacing[0] / (truth.shape[1] * spacing[1]),
    )


def deform(
    distance: NDArray[np.float32],
    spacing: Sequence[float],
    *,
    move: int = 0,
    grow: float = 0.0,
    hole: float = 0.0,
    split: float = 0.0,
) -> NDArray[np.bool_]:
    """Make a wrong mask from the signed distance of the right one.

    Args:
        distance: (X, Y, Z) mm, negative inside.
        spacing: mm.
        move: voxels towards the end of the first axis; voxels beyond the volume are lost.
        grow: mm that the surface moves outwards.
        hole: radius in mm of a hole around the deepest voxel.
        split: width in mm of a gap across the first axis through the same voxel.
    """
    deepest = np.unravel_index(int(distance.argmin()), distance.shape)
    axes = [(np.arange(n) - at) * mm for n, at, mm in zip(distance.shape, deepest, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    # A distance is measured between centres of voxels: the surface is half a voxel closer.
    mask = distance - np.sign(distance) * min(spacing) / 2 < grow
    mask &= ~(x**2 + y**2 + z**2 < hole**2)
    mask &= ~(np.abs(x) < split / 2)
    moved = np.zeros_like(mask)
    n = len(mask)
    moved[max(0, move) : n + min(0, move)] = mask[max(0, -move) : n - max(0, move)]
    return moved


def _frame(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: Sequence[float], measure: Measure
) -> Frame:
    metrics = measure(prediction, truth, spacing)
    numbers = {text: _format(metrics[name], unit) for name, (text, unit) in _NAMES.items() if name in metrics}
    level = int(truth.sum(axis=(0, 1)).argmax())
    predicted, true = (mask[:, :, level].T[::-1, ::-1] for mask in (prediction, truth))
    kinds = np.select([predicted & true, predicted, true], [1, 2, 3], 0).astype(np.uint8)
    lines: dict[str, Any] = {"truth": (true, 0.5), "prediction": (predicted, 0.5)}
    both, too_much, missed = (
        int((mask).sum()) for mask in (prediction & truth, prediction & ~truth, truth & ~prediction)
    )
    voxel = math.prod(spacing) / 1000
    words = (
        f"Of the truth {both * voxel:.1f} ml are found and {missed * voxel:.1f} ml missed; {too_much * voxel:.1f} ml "
        "are too much."
    )
    return Frame((Panel("truth and prediction", kinds, _KINDS, None, lines),), numbers, words)


def _format(value: float, unit: str) -> str:
    return "not defined" if math.isnan(value) else f"{value:.2f}{unit}"
