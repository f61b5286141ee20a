"""The signed distance of a mask in mm: negative inside, positive outside (METHOD, traps 2 and 3).

It is measured from the centre of a voxel to the centre of the nearest voxel on the other side of the surface. So
it changes sign exactly on the surface, between two voxels, and is 0 nowhere: even a lesion one voxel thick has
an inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import edt
import numpy as np
import torch
from scipy import ndimage

BAND = 20.0  # mm; the default at which a distance is clipped

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Spacing = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | torch.Tensor


def signed_distance(mask: Array, spacing: Spacing) -> Array:
    """Measure how far each voxel is from the surface of a mask, exactly.

    Args:
        mask: (X, Y, Z) or (B, 1, X, Y, Z), inside where not 0.
        spacing: (sx, sy, sz) in mm, or (B, 3) when the samples of a batch differ.

    Returns:
        Distance in mm, float32, of the mask's shape; an array for an array, a tensor on the same device for a
        tensor. A mask without a surface (empty or full) gets one diagonal of the volume everywhere, with the
        sign of its side: farther than any surface in it. The border of the array is no surface.

    Raises:
        ValueError: when the mask has another shape, or the spacing is not positive or not one row a sample.

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
    spacings = _spacing_per_sample(spacing, len(samples))  # (B, 3)
    distances = [_signed_distance(sample != 0, mm) for sample, mm in zip(samples, spacings, strict=True)]
    return np.stack(distances).reshape(mask.shape)


def _spacing_per_sample(spacing: Spacing, samples: int) -> np.ndarray:
    mm = torch.as_tensor(spacing, dtype=torch.float64).cpu().numpy()
    if mm.shape not in {(3,), (samples, 3)} or not (np.isfinite(mm) & (mm > 0)).all():
        raise ValueError(f"spacing is {mm.tolist()}; give (sx, sy, sz) in mm, all positive, or a row for each sample")
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
    """Scale a distance to the value that the network regresses: divided by the band, clipped to [-1, 1].

    One mm is ``1 / band`` in every crop, at every spacing and for every lesion. Differentiable.
    """
    return (distance_mm / band).clip(-1, 1)


def from_band(normalised: Array, band: float = BAND) -> Array:
    """Scale a regressed value in [-1, 1] back to mm."""
    return normalised * band


def published_distance(mask: np.ndarray) -> np.ndarray:
    """Normalise a distance as published code does: a counter-example, never trained on here (traps 2, 3).

    Each side is divided by its own maximum, in voxels, and the inner boundary layer (voxels of the mask with
    a face on the background) is set to 0. So the value of one voxel differs for every crop and lesion, and a
    lesion one or two voxels thick has no inside left.

    Args:
        mask: (X, Y, Z), inside where not 0.

    Returns:
        float64 (X, Y, Z) in [-1, 1]; all 0 when the mask is empty or full.
    """
    inside = np.asarray(mask) != 0
    if inside.all() or not inside.any():
        return np.zeros(inside.shape)
    depth = ndimage.distance_transform_edt(inside)  # voxels to the background, 0 outside
    height = ndimage.distance_transform_edt(~inside)  # voxels to the mask, 0 inside
    distance = height / height.max() - depth / depth.max()
    distance[depth == 1] = 0  # one voxel from the background: the two share a face
    return distance
