"""Random changes of a training sample: drawn in one place and applied in another, so that they can be replayed.

Scale, rotation, flips and elastic deformation are one map from the patch into the region, so that image and mask are
interpolated once, straight from the region. MONAI's transforms, which did this before, build their grid in float64 and
bend it by a Gaussian filter of the full size: seconds for a patch of a deformed sample where this takes a tenth.
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
BEND = (1.0, 5.0)  # voxels; range of a control point's standard deviation. A voxel moves by a third of that.


@dataclass(frozen=True)
class Change:
    """What happens to one sample; :data:`NOTHING` leaves it as it is."""

    turn: np.ndarray  # (3, 3): offset from the centre in the patch, mm -> in the region, mm
    bend: np.ndarray | None = None  # (3, kx, ky, kz): control points of a cubic B-spline, voxels of the region
    gamma: float = 1.0
    noise: float = 0.0  # standard deviation
    seed: int = 0  # of the noise


NOTHING = Change(np.eye(3))


def draw_change(settings: Augment, patch: Sequence[int], rng: np.random.Generator) -> Change:
    """Draw a change: zoom, rotation and flip for each axis, and with their probabilities bend, gamma and noise."""
    zoom = 1 + rng.uniform(-settings.scale, settings.scale, 3)
    angles = rng.uniform(-settings.rotation, settings.rotation, 3)
    sides = np.where(rng.random(3) < settings.flip, -1, 1)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * (sides / zoom)
    bends, recolours, disturbs = rng.random(3) < (settings.elastic, settings.gamma, settings.noise)
    points = [-(-side // KNOTS) + 3 for side in patch]
    return Change(
        turn,
        rng.normal(0, rng.uniform(*BEND), (3, *points)).astype(np.float32) if bends else None,
        rng.uniform(*GAMMA) if recolours else 1.0,
        rng.uniform(0, NOISE) if disturbs else 0.0,
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
    """Cut a patch about a voxel of a region, zoomed, turned, flipped and bent.

    Args:
        image: (1, X, Y, Z) on the grid of the region, interpolated linearly.
        mask: (1, X, Y, Z) on the same grid, of which the nearest voxel is taken.
        centre: voxel of the region that becomes voxel ``side // 2`` of the patch.
        patch: voxels along each axis.
        spacing: of the region, mm.
        change: what to do; one that bends is drawn for the patch with its halo.
        halo: voxels of surroundings that the mask gets on each side of the patch.

    Returns:
        Patch of the image, and patch of the mask with its halo, (1, ...) float32; outside the region both are 0.
    """
    patch = [side + 2 * more for side, more in zip(patch, halo, strict=True)]
    matrix = change.turn * np.asarray(spacing) / np.asarray(spacing)[:, None]  # (3, 3) voxels -> voxels
    lines = [matrix[:, [axis]] * (np.arange(side) - side // 2) for axis, side in enumerate(patch)]  # (3, side) each
    reach = 0.0 if change.bend is None else np.abs(change.bend).max((1, 2, 3))  # no voxel moves farther
    low = np.floor(np.add(centre, sum(line.min(1) for line in lines)) - reach).astype(int)
    high = np.ceil(np.add(centre, sum(line.max(1) for line in lines)) + reach).astype(int)
    shape = mask.shape[1:]
    start = np.clip(low - 1, 0, np.asarray(shape) - 1)
    stop = np.clip(high + 2, start + 1, shape)
    box = (slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
    grid = _grid(lines, np.subtract(centre, start), stop - start, change.bend)
    inner = (slice(None), *(slice(more, side - more) for more, side in zip(halo, patch, strict=True)))
    return _sampled(image[box], grid[inner], "bilinear"), _sampled(mask[box], grid, "nearest")


def _grid(lines: Sequence[np.ndarray], centre: np.ndarray, shape: np.ndarray, bend: np.ndarray | None) -> torch.Tensor:
    """(1, X, Y, Z, 3): where each voxel of the patch comes from, as ``grid_sample`` wants it: -1 to 1, z first."""
    to_unit = 2 / shape[:, None]  # voxels -> the scale on which the faces of the box lie at -1 and 1
    first = lines[0] + centre[:, None] + 0.5
    x, y, z = (torch.from_numpy((line * to_unit)[::-1].astype(np.float32)) for line in (first, *lines[1:]))
    grid = (x - 1)[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]  # (3, X, Y, Z)
    if bend is not None:
        moved = torch.from_numpy(np.ascontiguousarray((bend * to_unit[:, :, None, None])[::-1], np.float32))
        for line in (x, y, z):  # a B-spline is the product of three lines
            moved = torch.einsum("cijk,xi->cjkx", moved, _splines(line.shape[1]))
        grid += moved
    return grid.movedim(0, -1)[None]


def _splines(side: int) -> torch.Tensor:
    """(side, points): weight of each control point at each voxel; not negative, and 1 together."""
    points = -(-side // KNOTS) + 3
    away = (torch.arange(side)[:, None] / KNOTS - (torch.arange(points) - 1)).abs()
    near, far = 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp_min(0) ** 3 / 6
    return torch.where(away < 1, near, far)


def _sampled(volume: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """(1, X, Y, Z) at the places of the grid."""
    if not volume.any():  # no lesion near: nothing to look for
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
