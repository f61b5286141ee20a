"""Data augmentation of a training sample: first draw the parameters, then apply them, so that they can be repeated.

Scale, rotation, flips and elastic deformation are combined into one map from the patch into the region, so that image
and mask are interpolated only once. MONAI's transforms build the grid in float64 and smooth the deformation with a
Gaussian filter of full size; a patch with deformation takes ten times longer with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from dualtask_lite.engine.config import Augment

GAMMA = (0.7, 1.5)  # range of the exponent
NOISE = 0.05  # largest standard deviation, on the scale [0, 1]
KNOTS = 16  # voxels between the control points of the deformation
DISPLACEMENT = (1.0, 5.0)  # voxels; range of the standard deviation of a control point. A voxel moves by a third of it.


@dataclass(frozen=True)
class Change:
    """Parameters of the augmentation of one sample; :data:`IDENTITY` changes nothing."""

    matrix: np.ndarray  # (3, 3): zoom, rotation and flips; offset from the centre in the patch -> in the region, mm
    displacement: np.ndarray | None = None  # (3, kx, ky, kz): control points of a cubic B-spline, voxels of the region
    gamma: float = 1.0
    noise: float = 0.0  # standard deviation
    seed: int = 0  # of the noise


IDENTITY = Change(np.eye(3))


def draw_change(settings: Augment, patch: Sequence[int], rng: np.random.Generator) -> Change:
    """Draw zoom, rotation and flip for each axis, and with their probabilities deformation, gamma and noise."""
    zoom = 1 + rng.uniform(-settings.scale, settings.scale, 3)
    angles = rng.uniform(-settings.rotation, settings.rotation, 3)
    signs = np.where(rng.random(3) < settings.flip, -1, 1)
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * (signs / zoom)
    has_elastic, has_gamma, has_noise = rng.random(3) < (settings.elastic, settings.gamma, settings.noise)
    points = [-(-side // KNOTS) + 3 for side in patch]
    return Change(
        matrix,
        rng.normal(0, rng.uniform(*DISPLACEMENT), (3, *points)).astype(np.float32) if has_elastic else None,
        rng.uniform(*GAMMA) if has_gamma else 1.0,
        rng.uniform(0, NOISE) if has_noise else 0.0,
        int(rng.integers(2**31)),
    )


def move(
    image: torch.Tensor,
    mask: torch.Tensor,
    centre: Sequence[int],
    patch: Sequence[int],
    spacing: Sequence[float],
    change: Change,
    halo: Sequence[int] = (0, 0, 0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a patch around a voxel of a region, and apply zoom, rotation, flips and deformation.

    Args:
        image: (1, X, Y, Z) on the grid of the region, interpolated linearly.
        mask: (1, X, Y, Z) on the same grid, interpolated by nearest neighbour.
        centre: voxel of the region that becomes voxel ``side // 2`` of the patch.
        patch: voxels along each axis.
        spacing: of the region, mm.
        change: parameters; a deformation must be drawn for the size of the patch with its halo.
        halo: voxels that are added to the mask on each side of the patch.

    Returns:
        Patch of the image, and patch of the mask with its halo, (1, ...) float32; outside the region both are 0.
    """
    patch = [side + 2 * extra for side, extra in zip(patch, halo, strict=True)]
    matrix = change.matrix * np.asarray(spacing) / np.asarray(spacing)[:, None]  # (3, 3) voxels -> voxels
    lines = [matrix[:, [axis]] * (np.arange(side) - side // 2) for axis, side in enumerate(patch)]  # (3, side) each
    # A B-spline displaces no voxel farther than the largest control point.
    reach = 0.0 if change.displacement is None else np.abs(change.displacement).max((1, 2, 3))
    low = np.floor(np.add(centre, sum(line.min(1) for line in lines)) - reach).astype(int)
    high = np.ceil(np.add(centre, sum(line.max(1) for line in lines)) + reach).astype(int)
    shape = mask.shape[1:]
    start = np.clip(low - 1, 0, np.asarray(shape) - 1)
    stop = np.clip(high + 2, start + 1, shape)
    box = (slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
    grid = _grid(lines, np.subtract(centre, start), stop - start, change.displacement)
    inner = (slice(None), *(slice(extra, side - extra) for extra, side in zip(halo, patch, strict=True)))
    return _sampled(image[box], grid[inner], "bilinear"), _sampled(mask[box], grid, "nearest")


def _grid(
    lines: Sequence[np.ndarray], centre: np.ndarray, shape: np.ndarray, displacement: np.ndarray | None
) -> torch.Tensor:
    """(1, X, Y, Z, 3): source position of each voxel of the patch, in the convention of ``grid_sample``: z first."""
    to_unit = 2 / shape[:, None]  # scales voxels to coordinates that are -1 and 1 at the faces of the box
    first = lines[0] + centre[:, None] + 0.5
    x, y, z = (torch.from_numpy((line * to_unit)[::-1].astype(np.float32)) for line in (first, *lines[1:]))
    grid = (x - 1)[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]  # (3, X, Y, Z)
    if displacement is not None:
        offsets = torch.from_numpy(np.ascontiguousarray((displacement * to_unit[:, :, None, None])[::-1], np.float32))
        for line in (x, y, z):  # a B-spline in 3D is separable
            offsets = torch.einsum("cijk,xi->cjkx", offsets, _splines(line.shape[1]))
        grid += offsets
    return grid.movedim(0, -1)[None]


def _splines(side: int) -> torch.Tensor:
    """(side, points): weight of each control point at each voxel; not negative, with sum 1."""
    points = -(-side // KNOTS) + 3
    distance = (torch.arange(side)[:, None] / KNOTS - (torch.arange(points) - 1)).abs()
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _sampled(volume: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Interpolate a volume at the positions of a grid; returns (1, X, Y, Z)."""
    if not volume.any():  # often true of the mask, which then needs no interpolation
        return torch.zeros(1, *grid.shape[1:4])
    return F.grid_sample(volume[None].float(), grid, mode, padding_mode="zeros", align_corners=False)[0]


def recolour(image: torch.Tensor, change: Change) -> torch.Tensor:
    """Apply gamma and noise to an image in [0, 1], in place."""
    image.clamp_(0, 1)
    if change.gamma != 1:
        image.pow_(change.gamma)
    if change.noise:
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(change.seed))
        image.add_(noise, alpha=change.noise).clamp_(0, 1)
    return image
