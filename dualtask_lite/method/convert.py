"""Converting each task's output into the other's, differentiable in both directions (METHOD, section Objective).

The temperature ``tau`` is in mm: over that distance the odds of being inside change by a factor of e. So it has
the same meaning for every crop, spacing and lesion. With a hard threshold, or a temperature far below one voxel,
the conversion has almost no gradient and trains nothing (trap 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F


def distance_to_probability(distance_mm: torch.Tensor, tau: float) -> torch.Tensor:
    """Convert a distance (mm, negative inside) to the probability of being inside, 0.5 on the surface.

    Args:
        distance_mm: any shape.
        tau: temperature in mm; about one voxel.
    """
    return torch.sigmoid(-distance_mm / tau)


def logit_to_distance(logit: torch.Tensor, tau: float, band: float) -> torch.Tensor:
    """Convert a segmentation logit to a distance in mm: the inverse of the other conversion, clipped to the band.

    Args:
        logit: any shape.
        tau: temperature in mm, the same as for the other conversion.
        band: in mm; a distance beyond it is clipped and gets no gradient.
    """
    return (-tau * logit).clamp(-band, band)


def threshold_conversion(distance: torch.Tensor) -> torch.Tensor:
    """Convert a distance to a mask by a hard threshold at 0: a counter-example, its gradient is exactly 0.

    Args:
        distance: any shape and unit, negative inside.

    Returns:
        0 or 1, in the graph of ``distance``: a loss on it runs backward without an error and trains nothing.
    """
    return (distance <= 0).to(distance.dtype) + 0 * distance


def gradient_alive(
    convert: Callable[[torch.Tensor], torch.Tensor], distance: torch.Tensor, above: float = 1e-6
) -> float:
    """Measure the share of voxels to which a conversion passes a gradient (trap 1).

    Args:
        convert: distance -> probability, voxel by voxel.
        distance: any shape, in the unit that ``convert`` takes.
        above: a gradient counts when its magnitude exceeds this.

    Returns:
        Share in [0, 1].
    """
    leaf = distance.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(convert(leaf).sum(), leaf)
    return (gradient.abs() > above).double().mean().item()


def soft_distance(probability: torch.Tensor, spacing: Sequence[float], lam: float, reach: float = 8.0) -> torch.Tensor:
    """Estimate the distance to the surface of a probability map: the second conversion from mask to distance.

    The probability is averaged around each voxel with weights ``exp(-|x| / lam)``. On a flat surface of any
    orientation the average is one half, and its log-odds fall by about 1 for each ``lam`` of distance: within
    5 % near the surface, 10 % far from it. Unlike ``logit_to_distance`` this uses the neighbours: the logit of
    a voxel need not already be a distance. Inside a curved surface the distance is underestimated, because the
    surface surrounds the voxel: 4 ``lam`` deep in a ball of radius 9 ``lam`` by about 1 ``lam``.

    Args:
        probability: (B, 1, X, Y, Z) in [0, 1], float32 or float64.
        spacing: (sx, sy, sz) in mm, of the whole batch.
        lam: decay length in mm, about one voxel of the coarsest axis.
        reach: radius of the average, in ``lam``; the distance is clipped at ``-+ reach * lam``.

    Returns:
        (B, 1, X, Y, Z) in mm, negative inside; the surface is half-way between two voxels. The border of the
        array is no surface: a structure that touches it is assumed to continue.
    """
    kernel = _exponential_kernel(spacing, lam, reach).to(probability)
    return -lam * torch.logit(_convolve(probability, kernel), eps=math.exp(-reach))


def _exponential_kernel(spacing: Sequence[float], lam: float, reach: float) -> torch.Tensor:
    """Weights ``exp(-|x| / lam)`` with sum 1 and odd sides, cut off at ``reach * lam`` along each axis."""
    radii = [math.ceil(reach * lam / mm) for mm in spacing]
    axes = [torch.arange(-r, r + 1, dtype=torch.float64) * mm for r, mm in zip(radii, spacing, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    weights = torch.exp(-torch.sqrt(x**2 + y**2 + z**2) / lam)
    return weights / weights.sum()


def _convolve(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Convolve (B, 1, X, Y, Z) with a symmetric kernel; by FFT, because the kernel is large."""
    radii = [side // 2 for side in kernel.shape]
    padded = F.pad(image, [r for r in reversed(radii) for _ in range(2)], mode="replicate")  # r more at each end
    sides = padded.shape[2:]
    spectrum = torch.fft.rfftn(padded, dim=(2, 3, 4)) * torch.fft.rfftn(kernel, s=sides)
    convolved = torch.fft.irfftn(spectrum, s=sides, dim=(2, 3, 4))
    return convolved[..., 2 * radii[0] :, 2 * radii[1] :, 2 * radii[2] :]  # (B, 1, X, Y, Z), without the wrapped part
