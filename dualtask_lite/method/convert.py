"""Turning each task's output into the other's, differentiable both ways (METHOD, section Objective).

The temperature ``tau`` is in mm: moving by it changes the odds of being inside by a factor of e. So it means
the same for every crop, spacing and lesion. With a hard threshold, or a temperature far below a voxel, the
conversion has next to no gradient and trains nothing (trap 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F


def distance_to_probability(distance_mm: torch.Tensor, tau: float) -> torch.Tensor:
    """Turn a distance (mm, negative inside) into the probability of being inside, 0.5 on the surface.

    Args:
        distance_mm: any shape.
        tau: temperature in mm; about one voxel.
    """
    return torch.sigmoid(-distance_mm / tau)


def logit_to_distance(logit: torch.Tensor, tau: float, band: float) -> torch.Tensor:
    """Turn a segmentation logit into a distance in mm: the inverse of the other way, clipped to the band.

    Args:
        logit: any shape.
        tau: temperature in mm, the same as for the other way.
        band: in mm; beyond it a distance says no more than "far", and gets no gradient.
    """
    return (-tau * logit).clamp(-band, band)


def threshold_conversion(distance: torch.Tensor) -> torch.Tensor:
    """Turn a distance into a mask by a hard threshold at 0: to teach against, its gradient is exactly 0.

    Args:
        distance: any shape and unit, negative inside.

    Returns:
        0 or 1, in the graph of ``distance``: a loss on it runs backward without complaint and trains nothing.
    """
    return (distance <= 0).to(distance.dtype) + 0 * distance


def gradient_alive(
    convert: Callable[[torch.Tensor], torch.Tensor], distance: torch.Tensor, above: float = 1e-6
) -> float:
    """Measure how alive a conversion is: the share of voxels that it gives a gradient (trap 1).

    Args:
        convert: distance -> probability, voxel by voxel.
        distance: any shape, in whatever unit ``convert`` takes.
        above: a gradient counts when its size exceeds this.

    Returns:
        Share in [0, 1].
    """
    leaf = distance.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(convert(leaf).sum(), leaf)
    return (gradient.abs() > above).double().mean().item()


def soft_distance(probability: torch.Tensor, spacing: Sequence[float], lam: float, reach: float = 8.0) -> torch.Tensor:
    """Measure the distance to the surface of a probability map: the second way from a mask to a distance.

    A voxel looks around, weighing what it sees by ``exp(-|x| / lam)``, and notes which share of it is inside.
    On a flat surface, in whatever direction it lies, that share is a half, and its log-odds fall by about 1
    for each ``lam`` of distance: within 5 % near the surface, 10 % far from it. Unlike ``logit_to_distance``
    this takes the neighbours into account: the logit of a voxel need not already be a distance. A curved
    surface is seen from its hollow side on all sides and seems nearer: 4 ``lam`` deep in a ball of radius
    9 ``lam`` by about 1 ``lam``.

    Args:
        probability: (B, 1, X, Y, Z) in [0, 1], float32 or float64.
        spacing: (sx, sy, sz) in mm, of the whole batch.
        lam: decay length in mm, about one voxel of the coarsest axis.
        reach: how many ``lam`` a voxel sees; the distance ends at ``-+ reach * lam``.

    Returns:
        (B, 1, X, Y, Z) in mm, negative inside; the surface is half-way between two voxels. The border of the
        array is no surface: what touches it goes on beyond.
    """
    kernel = _exponential_kernel(spacing, lam, reach).to(probability)
    return -lam * torch.logit(_weigh(probability, kernel), eps=math.exp(-reach))


def _exponential_kernel(spacing: Sequence[float], lam: float, reach: float) -> torch.Tensor:
    """Weights ``exp(-|x| / lam)`` of sum 1, odd sides, cut at ``reach * lam`` along each axis."""
    radii = [math.ceil(reach * lam / mm) for mm in spacing]
    axes = [torch.arange(-r, r + 1, dtype=torch.float64) * mm for r, mm in zip(radii, spacing, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    weights = torch.exp(-torch.sqrt(x**2 + y**2 + z**2) / lam)
    return weights / weights.sum()


def _weigh(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Convolve (B, 1, X, Y, Z) with a symmetric kernel; by FFT, for the kernel is wide."""
    radii = [side // 2 for side in kernel.shape]
    around = F.pad(image, [r for r in reversed(radii) for _ in range(2)], mode="replicate")  # r more at each end
    sides = around.shape[2:]
    spectrum = torch.fft.rfftn(around, dim=(2, 3, 4)) * torch.fft.rfftn(kernel, s=sides)
    mixed = torch.fft.irfftn(spectrum, s=sides, dim=(2, 3, 4))
    return mixed[..., 2 * radii[0] :, 2 * radii[1] :, 2 * radii[2] :]  # (B, 1, X, Y, Z); the rest wrapped around
