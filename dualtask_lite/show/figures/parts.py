"""Helpers that all figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dualtask_lite.rows import Row, number
from dualtask_lite.show import palette

METRICS = {  # column: (axis label, upper limit)
    "dice": ("Dice (1 is perfect)", 1.0),
    "hd95_mm": ("95th percentile of the surface distance (mm)", None),
    "assd_mm": ("mean surface distance (mm)", None),
}


def series(rows: Sequence[Row], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Collect steps and values of one column, without the rows that do not have it."""
    points = [(float(row["step"]), value) for row in rows if math.isfinite(value := number(row.get(name)))]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def join_sides(sides: Sequence[float]) -> str:
    """Write the sides of a grid or of a voxel: ``96 × 96 × 60``."""
    return " × ".join(f"{side:.3g}" for side in sides)


def shorten(name: str, most: int = 24) -> str:
    """Leave out the middle of a long name, such as a UID, to fit it above a panel; UIDs differ at their ends."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Average the last ``width`` values, or as many as there are at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - width)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def tidy(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Remove the spines without ticks, and draw a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=palette.ink(), alpha=0.15, lw=0.6)
    axes.set_axisbelow(True)
