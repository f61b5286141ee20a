"""The synthetic lesion that the explorers show by default, with its shape defined in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIDES = (64.0, 48.0, 64.0)  # mm; size of the volume
_BODY = ((-4.0, 0.0, 0.0), (13.0, 10.0, 15.0))  # mm; centre and half axes of an ellipsoid
_LOBE = ((11.0, 0.0, 6.0), (9.0, 7.0, 6.0))
_PLATE = ((13.0, 0.0, -13.0), (9.0, 7.0, 2.0))  # thinner than the slices of most CTs


def lesion(spacing: Sequence[float]) -> NDArray[np.bool_]:
    """Make a mask, (X, Y, Z): a body with a lobe, and a plate 4 mm thick beside it.

    Args:
        spacing: of its voxels, mm.
    """
    counts = [round(side / mm) for side, mm in zip(SIDES, spacing, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(counts, spacing, strict=True)]
    at = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.logical_or.reduce([_ellipsoid(at, *part) for part in (_BODY, _LOBE, _PLATE)])


def _ellipsoid(at: Sequence[NDArray[np.float64]], centre: Sequence[float], half: Sequence[float]) -> NDArray[np.bool_]:
    squares = [((x - c) / h) ** 2 for x, c, h in zip(at, centre, half, strict=True)]
    inside: NDArray[np.bool_] = squares[0] + squares[1] + squares[2] <= 1
    return inside
