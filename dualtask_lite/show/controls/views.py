"""The effect of random convolution on an image, and the similarity of two views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualtask_lite.method.views import KERNEL_SIZES, MOST_SATURATED, View, apply_view, draw_view, saturation
from dualtask_lite.show.controls.explorer import Explorer, Frame, Knob, Panel, colours_of, levels_of

_MOST = (128, 128, max(KERNEL_SIZES))  # voxels around the middle: the visible plane depends on no others
_SEEDS = 20
_BLENDS = tuple(round(0.05 * i, 2) for i in range(21))


def view_explorer(image: torch.Tensor | NDArray[Any]) -> Explorer:
    """Draw two imaging views of an image, as in training, and compare them.

    Both views are drawn from the seed, one after the other; only kernel size and blend are chosen.

    Args:
        image: (X, Y, Z) or (1, X, Y, Z) in [0, 1]; at most 128 x 128 x 7 voxels around its middle are used.
    """
    cropped = _middle(torch.as_tensor(image, dtype=torch.float32))

    def draw(kernel: int, blend: float, seed: int) -> Frame:
        generator = torch.Generator().manual_seed(seed)
        return _frame(cropped, [draw_view(generator, kernel_sizes=(kernel,))._replace(blend=blend) for _ in range(2)])

    return Explorer(
        title="Two imaging views by random convolution (axial plane)",
        knobs=(
            Knob("kernel", "Kernel", {f"{k} × {k} × {k}": k for k in KERNEL_SIZES}, "3 × 3 × 3", slides=False),
            Knob("blend", "Blend", {f"{blend:.2f}": blend for blend in _BLENDS}, "0.50"),
            Knob("seed", "Seed", {str(seed): seed for seed in range(_SEEDS)}, "3"),
        ),
        draw=draw,
        aspect=cropped.shape[1] / cropped.shape[2],
    )


def _middle(image: torch.Tensor) -> torch.Tensor:
    volume = image if image.ndim == 4 else image[None]
    for axis, most in enumerate(_MOST, start=1):
        side = min(most, volume.shape[axis])
        volume = volume.narrow(axis, (volume.shape[axis] - side) // 2, side)
    return volume.contiguous()


def _frame(image: torch.Tensor, views: list[View]) -> Frame:
    shown = [apply_view(image, view) for view in views]
    difference = (shown[0] - shown[1]).abs()
    lost = [saturation(image, view) for view in views]
    numbers = {f"view {n}: saturated": f"{share:.0%}" for n, share in enumerate(lost, start=1)}
    numbers["mean difference"] = f"{difference.mean():.2f}"
    numbers["correlation of the views"] = f"{_correlation(*shown):.2f}"
    grey = colours_of("gray")
    titles = ("the image", "view 1", "view 2")
    panels = [
        Panel(title, levels_of(_slice(volume), 0, 1), grey, ("0", "1"))
        for title, volume in zip(titles, (image, *shown), strict=True)
    ]
    panels.append(Panel("difference", levels_of(_slice(difference), 0, 1), colours_of("cividis"), ("0", "1")))
    again = " and ".join(f"view {n}" for n, share in enumerate(lost, start=1) if share > MOST_SATURATED)
    words = (
        "Bright and dark may be swapped; edges keep their position. Training draws a view again when the clip "
        f"saturates more than {MOST_SATURATED:.0%} of it: here {again or 'neither'}."
    )
    return Frame(panels, numbers, words)


def _slice(volume: torch.Tensor) -> NDArray[np.float32]:
    middle: NDArray[np.float32] = volume[0, :, :, volume.shape[3] // 2].numpy().T[::-1, ::-1]
    return middle


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Pearson correlation; NaN when one volume is constant."""
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
