"""Binary masks: a stage's target from a label, boxes around masks, Dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: mm; larger than the rounding error of a spacing from an oblique affine (4.99999989 instead of 5 mm).
SPACING_NOISE = 5e-5


@dataclass(frozen=True)
class Box:
    """A box of voxels that never leaves its volume (METHOD, trap 6): start inclusive, stop exclusive."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """To cut the box out of an (X, Y, Z) array."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The whole volume."""
        return cls((0, 0, 0), (shape[0], shape[1], shape[2]))

    @classmethod
    def around(cls, mask: np.ndarray, margin: float = 0.0, spacing: Sequence[float] = (1, 1, 1)) -> Box | None:
        """The box of a mask (X, Y, Z) with a margin in mm, clipped to the volume; ``None`` when the mask is empty.

        Raises:
            ValueError: when the mask has other axes, such as a channel.
        """
        if mask.ndim != 3:
            raise ValueError(f"the mask has the shape {mask.shape}; give (X, Y, Z)")
        start, stop = [], []
        for axis in range(3):
            used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            if not used.size:
                return None
            extra = math.ceil(margin / (spacing[axis] + SPACING_NOISE))
            start.append(max(0, int(used[0]) - extra))
            stop.append(min(mask.shape[axis], int(used[-1]) + 1 + extra))
        return cls((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def target_mask(label: np.ndarray, target: str) -> np.ndarray:
    """The binary target of a stage: a tumour voxel counts as pancreas when the target is the pancreas."""
    return label == 2 if target == "tumour" else label >= 1


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two boolean masks of one shape; two empty masks agree (1.0)."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0
