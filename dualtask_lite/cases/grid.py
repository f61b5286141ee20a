"""Resampling from the scanner's grid to the working grid of the network, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dualtask_lite.cases.case import CT_WINDOW
from dualtask_lite.cases.masks import SPACING_NOISE


def window(volume: torch.Tensor) -> torch.Tensor:
    """HU -> [0, 1] over the CT window of the method."""
    low, high = CT_WINDOW
    return ((volume - low) / (high - low)).clamp_(0, 1)


def working_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, int, int]:
    """Voxels of the working grid that covers the same box as ``shape`` at about the ``wanted`` spacing (mm).

    A half is rounded up, even when float noise makes it slightly less, so that the same voxels get the same grid under
    any rotation of their affine.
    """
    x, y, z = (
        max(1, math.floor(n * (have + SPACING_NOISE) / want + 0.5))
        for n, have, want in zip(shape, spacing, wanted, strict=True)
    )
    return x, y, z


def resample(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resample (C, X, Y, Z) to a grid over the same box, one axis after the other.

    Axes that shrink are averaged over exactly the part that each new voxel covers, so that noise does not alias; axes
    that grow are interpolated linearly. Both grids share their outer faces, so positions in mm do not change.
    """
    result = volume.float()
    order = sorted(range(3), key=lambda axis: shape[axis] / result.shape[axis + 1])  # the one that shrinks most first
    for axis in order:
        have, want = result.shape[axis + 1], shape[axis]
        if have != want:
            weights = axis_weights(have, want).to(result.device)
            result = torch.tensordot(weights, result, ([1], [axis + 1])).movedim(0, axis + 1)
    return result.contiguous()


def axis_weights(have: int, want: int) -> torch.Tensor:
    """(want, have): share of each old voxel in each new one along an axis; each row adds up to 1.

    Covered lengths where the axis shrinks, linear interpolation between the centres where it grows.
    """
    step = have / want  # length of a new voxel, in old ones
    if step >= 1:
        low = torch.arange(want, dtype=torch.float64)[:, None] * step
        left = torch.arange(have, dtype=torch.float64)
        covered = (torch.minimum(low + step, left + 1) - torch.maximum(low, left)).clamp_min(0)
        return (covered / step).float()
    centre = ((torch.arange(want, dtype=torch.float64) + 0.5) * step - 0.5).clamp(0, have - 1)[:, None]
    return (1 - (centre - torch.arange(have, dtype=torch.float64)).abs()).clamp_min(0).float()


def resample_mask(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resample a binary mask (1, X, Y, Z) to a grid over the same box, (1, ...) uint8, and keep its volume.

    The new voxels with the largest covered share become foreground, as many as have the volume of the mask together;
    among voxels of the same share those nearest to the mask's centre, so that no side is favoured. A threshold of one
    half would make small balls up to 4 % too large (ties count as inside) and lose structures thinner than a voxel.
    """
    share = resample(mask, shape).round(decimals=4)  # equal shares stay equal in spite of rounding
    result = torch.zeros(share.shape, dtype=torch.uint8)
    touched = share.nonzero()
    if len(touched):
        covered = share[tuple(touched.T)]
        volume = int((mask != 0).sum()) * math.prod(shape) / mask.numel()  # in new voxels
        count = max(1, math.floor(volume + 0.5))
        centre = (touched * covered[:, None]).sum(0) / covered.sum()
        away = (touched - centre).square().sum(1)
        order = (covered.double() - 1e-5 * away / away.max().clamp_min(1)).sort(descending=True, stable=True).indices
        result[tuple(touched[order[:count]].T)] = 1
    return result
