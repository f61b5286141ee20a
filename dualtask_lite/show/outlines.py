"""Outlines of masks along the edges of their pixels.

A contour at a level between 0 and 1 cuts off the corners of pixels, which shows where pixels are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray
from skimage.measure import find_contours


def trace(mask: NDArray[Any]) -> list[NDArray[np.int_]]:
    """Trace the outlines of a mask; a pixel at the border of the image is outlined there too.

    Args:
        mask: (rows, columns).

    Returns:
        The corners of each outline, (N, 2), as (column, row) in pixels from the outer corner of the first pixel. The
        last corner equals the first.
    """
    if not mask.any():
        return []
    crossings = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return [_corners(points[:, ::-1] - 0.5) for points in crossings]


def draw(
    axes: Axes,
    mask: NDArray[Any],
    extent: Sequence[float],
    colour: str,
    style: str = "-",
    width: float = 1.5,
) -> None:
    """Draw the outlines of a mask, without a change of the limits of the axes.

    Args:
        axes: to draw on.
        mask: (rows, columns).
        extent: positions of the image's edges: before the first column, after the last, after the last row, before the
            first.
        colour: of the lines.
        style: of the lines.
        width: of the lines, points.
    """
    left, right, last, first = extent
    size = (right - left) / mask.shape[1], (last - first) / mask.shape[0]
    lines = [corners * size + (left, first) for corners in trace(mask)]
    if lines:
        pen: dict[str, Any] = {"edgecolors": [colour], "linestyles": [style], "linewidths": width}
        axes.add_collection(PolyCollection(lines, facecolors="none", **pen), autolim=False)


def _corners(points: NDArray[np.float64]) -> NDArray[np.int_]:
    """Find the corners of the pixels' edges that a closed contour crosses at their middles, without collinear ones.

    The middle of an edge has one coordinate that is an integer, and the next edge begins where this one ends: each
    coordinate of the corner between them is the integer of either, else it is half way.
    """
    first, second = points[:-1], points[1:]
    between = np.where(first % 1 == 0, first, np.where(second % 1 == 0, second, (first + second) / 2)).astype(int)
    moves = between - np.roll(between, 1, axis=0)
    turns = between[np.any(moves != np.roll(moves, -1, axis=0), axis=1)]
    return np.concatenate([turns, turns[:1]])
