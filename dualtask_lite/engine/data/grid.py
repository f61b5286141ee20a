"""From the scanner's grid to the one that the network works on, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from dualtask_lite.cases.case import CT_WINDOW


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
    def around(cls, mask: np.ndarray, margin: float, spacing: Sequence[float]) -> Box | None:
        """The box of a mask (X, Y, Z) with a margin in mm, clipped to the volume; ``None`` when the mask is empty."""
        start, stop = [], []
        for axis in range(3):
            used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            if not used.size:
                return None
            extra = int(np.ceil(margin / spacing[axis]))
            start.append(max(0, int(used[0]) - extra))
            stop.append(min(mask.shape[axis], int(used[-1]) + 1 + extra))
        return cls((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def window(volume: torch.Tensor) -> torch.Tensor:
    """HU -> [0, 1] over the CT window of the method."""
    low, high = CT_WINDOW
    return ((volume - low) / (high - low)).clamp_(0, 1)


def working_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, int, int]:
    """Voxels of the working grid that covers the same box as ``shape`` at about the ``wanted`` spacing (mm)."""
    x, y, z = (max(1, round(n * have / want)) for n, have, want in zip(shape, spacing, wanted, strict=True))
    return x, y, z


def resample(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resample (C, X, Y, Z) to a grid over the same box.

    Axes that shrink are averaged, so that noise does not alias; axes that grow are interpolated linearly. Both
    grids share their outer faces, which makes the way back exact in position.
    """
    shrunk = [min(have, want) for have, want in zip(volume.shape[1:], shape, strict=True)]
    batch = volume[None].float()
    if list(batch.shape[2:]) != shrunk:
        batch = F.interpolate(batch, size=shrunk, mode="area")
    if shrunk != list(shape):
        batch = F.interpolate(batch, size=list(shape), mode="trilinear", align_corners=False)
    return batch[0]
