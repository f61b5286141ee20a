"""Imaging views by random convolution: other textures and contrasts of the same anatomy (METHOD, Objective).

Drawing a view (:func:`draw_view`) is separate from applying it (:func:`apply_view`), so that a notebook can show
it and replay it. :func:`random_view` does both for a batch, and checks each view: without a check, a
fifth to a quarter of the views are more than half saturated by the clip (trap 11).

Source: Xu et al. 2021, Robust and generalizable visual representation learning via random convolutions
(arXiv 2007.13003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

KERNEL_SIZES = (3, 5, 7)
TRIES = 10  # draws for a sample before it is used unchanged
MOST_SATURATED = 0.5  # largest share of the voxels between 0 and 1 that the clip may move to 0 or 1
FLATTEST = 0.02  # an image with a smaller standard deviation, on the scale [0, 1], has no visible structure


class View(NamedTuple):
    """One random convolution of a volume with one channel."""

    kernel: torch.Tensor  # (k, k, k), k odd
    bias: float
    blend: float  # 0: the original image; 1: the convolved image alone


def draw_view(
    generator: torch.Generator, *, kernel_sizes: Sequence[int] = KERNEL_SIZES, max_blend: float = 1.0
) -> View:
    """Draw a view: Kaiming-normal weights, bias uniform within +-1 / sqrt(fan-in), blend uniform.

    Args:
        generator: on the CPU; the only source of randomness.
        kernel_sizes: odd sizes, of which one is drawn.
        max_blend: the largest weight of the convolved image, in [0, 1]; less than 1 makes gentler views.

    Raises:
        ValueError: when a kernel size is even or ``max_blend`` lies outside [0, 1].
    """
    if any(size % 2 == 0 for size in kernel_sizes):
        raise ValueError(f"kernel sizes are {tuple(kernel_sizes)}; give odd ones, which do not shift the image")
    if not 0 <= max_blend <= 1:
        raise ValueError(f"max_blend is {max_blend}; give a share between 0 and 1")
    size = kernel_sizes[int(torch.randint(len(kernel_sizes), (), generator=generator))]
    fan_in = size**3
    kernel = torch.randn(size, size, size, generator=generator) * (2 / fan_in) ** 0.5
    bias, blend = torch.rand(2, generator=generator).tolist()
    return View(kernel, (2 * bias - 1) / fan_in**0.5, blend * max_blend)


def apply_view(image: torch.Tensor, view: View) -> torch.Tensor:
    """Apply a view to an image: convolve, blend, clip and rescale to [0, 1].

    Args:
        image: (1, X, Y, Z) in [0, 1].
        view: the view; with a blend of 0 the image is unchanged.

    Returns:
        (1, X, Y, Z) with minimum 0 and maximum 1, or a constant image when the clip removes all contrast.
    """
    return image if view.blend == 0 else _rescale(_convolve(image, view).clamp(0, 1))


def saturation(image: torch.Tensor, view: View) -> float:
    """Measure the share of the voxels between 0 and 1 that the clip of a view moves to 0 or 1."""
    return float(clipped_share(image, _convolve(image, view)))


def clipped_share(image: torch.Tensor, blended: torch.Tensor) -> torch.Tensor:
    """Measure the share of an image's voxels between 0 and 1 that the clip moves to 0 or 1, a scalar.

    Voxels that are 0 or 1 already, such as air and bone, lose nothing to the clip and do not count.
    """
    had_contrast = (image > 0) & (image < 1)
    lost = had_contrast & ((blended <= 0) | (blended >= 1))
    return lost.sum() / had_contrast.sum().clamp_min(1)


def shows_anatomy(image: torch.Tensor, view: View) -> bool:
    """Check that a view is fit for training: finite, not flat, and not mostly saturated (trap 11)."""
    return bool(_apply_and_check(image, view)[1])


def random_view(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    kernel_sizes: Sequence[int] = KERNEL_SIZES,
    max_blend: float = 1.0,
) -> torch.Tensor:
    """Draw and apply a view for each image of a batch; draw again while a view does not show the anatomy.

    Args:
        images: (B, 1, X, Y, Z) in [0, 1].
        generator: on the CPU, also for images on a GPU.
        kernel_sizes: see :func:`draw_view`.
        max_blend: see :func:`draw_view`.

    Returns:
        (B, 1, X, Y, Z) in [0, 1]. A sample for which every draw fails, such as a constant one, is returned
        unchanged.
    """

    def view_of(image: torch.Tensor) -> torch.Tensor:
        for _ in range(TRIES):
            view = draw_view(generator, kernel_sizes=kernel_sizes, max_blend=max_blend)
            shown, good = _apply_and_check(image, view)
            if good:  # the only value that is read from the device
                return shown
        return image

    return torch.stack([view_of(image) for image in images])


def _apply_and_check(image: torch.Tensor, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a view and check it with one convolution; returns the view and a scalar bool."""
    blended = _convolve(image, view)
    shown = image if view.blend == 0 else _rescale(blended.clamp(0, 1))
    # A flat image has no anatomy: its view would show the border, which the convolution pads with zeros.
    contrast = torch.minimum(image.std(), shown.std())  # NaN, and so never enough, when not finite
    return shown, (contrast >= FLATTEST) & (clipped_share(image, blended) <= MOST_SATURATED)


def _convolve(image: torch.Tensor, view: View) -> torch.Tensor:
    """Blend an image (1, X, Y, Z) with its convolution, before the clip."""
    kernel = view.kernel.to(image, non_blocking=True)[None, None]  # (1, 1, k, k, k)
    convolved = F.conv3d(image[None], kernel, padding="same")[0] + view.bias  # (1, X, Y, Z)
    return view.blend * convolved + (1 - view.blend) * image


def _rescale(image: torch.Tensor) -> torch.Tensor:
    """Rescale to [0, 1]; a constant image is unchanged, because its range is 0."""
    low, high = image.amin(), image.amax()
    return torch.where(high > low, (image - low) / (high - low), image)
