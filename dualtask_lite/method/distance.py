"""From a mask to its signed distance in mm: negative inside, positive outside (METHOD, traps 2 and 3).

The distance of a voxel runs from its centre to the centre of the nearest voxel of the other side. So it
changes sign exactly where the surface lies, between two voxels, and is 0 nowhere: even a lesion one voxel
thin has an inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import edt
import numpy as np
import torch
from scipy import ndimage

BAND = 20.0  # mm; the default beyond which a distance says no more than "far"

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Spacing = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | torch.Tensor


def signed_distance(mask: Array, spacing: Spacing) -> Array:
    """Measure how far each voxel is from the surface of a mask, exactly.

    Args:
        mask: (X, Y, Z) or (B, 1, X, Y, Z); what is not 0 is inside.
        spacing: (sx, sy, sz) in mm, or (B, 3) when the samples of a batch differ.

    Returns:
        Distance in mm, float32, of the mask's shape; an array for an array, a tensor on the same device for a
        tensor. Where a mask has no surface (empty, or full) each voxel is one diagonal of the volume outside,
        or inside: farther than from any surface in it. The border of the array is no surface.

    Raises:
        ValueError: when the shape or the spacing is not as told.

    Source: the library edt, the exact transform of Felzenszwalb and Huttenlocher for anisotropic voxels.
    """
    if isinstance(mask, torch.Tensor):
        inside = (mask.detach() != 0).cpu().numpy()
        return torch.from_numpy(signed_distance(inside, spacing)).to(mask.device)
    if mask.ndim == 3:
        samples = mask[None]  # (1, X, Y, Z)
    elif mask.ndim == 5 and mask.shape[1] == 1:
        samples = mask[:, 0]  # (B, X, Y, Z)
    else:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; give (X, Y, Z) or (B, 1, X, Y, Z)")
    spacings = _one_a_sample(spacing, len(samples))  # (B, 3)
    distances = [_signed_distance(sample != 0, mm) for sample, mm in zip(samples, spacings, strict=True)]
    return np.stack(distances).reshape(mask.shape)


def _one_a_sample(spacing: Spacing, samples: int) -> np.ndarray:
    mm = torch.as_tensor(spacing, dtype=torch.float64).cpu().numpy()
    if mm.shape not in {(3,), (samples, 3)} or not (np.isfinite(mm) & (mm > 0)).all():
        raise ValueError(f"spacing is {mm.tolist()}; give (sx, sy, sz) in mm, positive, or one such row a sample")
    return np.broadcast_to(mm, (samples, 3))


def _signed_distance(inside: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(X, Y, Z) bool -> (X, Y, Z) float32 mm."""
    if inside.all() or not inside.any():
        diagonal = np.linalg.norm(inside.shape * spacing)
        return np.full(inside.shape, -diagonal if inside.all() else diagonal, np.float32)
    labels = np.ascontiguousarray(inside, np.uint8) + 1  # 1 outside, 2 inside: one pass measures both sides
    to_other_side = edt.edt(labels, anisotropy=tuple(spacing), black_border=False, parallel=1)
    return np.where(inside, -to_other_side, to_other_side)


def to_band(distance_mm: Array, band: float = BAND) -> Array:
    """Scale a distance to what the network regresses: divided by the band, clipped to [-1, 1].

    One mm is worth ``1 / band`` in every crop, at every spacing and for every lesion. Differentiable.
    """
    return (distance_mm / band).clip(-1, 1)


def from_band(normalised: Array, band: float = BAND) -> Array:
    """Turn a regressed value in [-1, 1] back into mm."""
    return normalised * band


def published_distance(mask: np.ndarray) -> np.ndarray:
    """Normalise a distance as published code does: to teach against, the kit never trains on it (traps 2, 3).

    Each side is divided by its own maximum, in voxels, and the inner boundary layer (voxels of the mask with
    a face on the background) is set to 0. So a voxel is worth a different amount for every crop and lesion,
    and a lesion one or two voxels thin has no inside left.

    Args:
        mask: (X, Y, Z); what is not 0 is inside.

    Returns:
        float64 (X, Y, Z) in [-1, 1]; all 0 when the mask is empty or full.
    """
    inside = np.asarray(mask) != 0
    if inside.all() or not inside.any():
        return np.zeros(inside.shape)
    depth = ndimage.distance_transform_edt(inside)  # voxels to the background, 0 outside
    height = ndimage.distance_transform_edt(~inside)  # voxels to the mask, 0 inside
    distance = height / height.max() - depth / depth.max()
    distance[depth == 1] = 0  # the background is one voxel away: a face touches it
    return distance
