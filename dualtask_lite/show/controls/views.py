"""The effect of random convolution on an image, and the similarity of two views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualtask_lite.method.views import KERNEL_SIZES, MOST_SATURATED, View, apply_view, draw_view, saturation
from dualtask_lite.show import palette
from dualtask_lite.show.controls.explorer import Explorer, Frame, Knob, LineStyle, Panel, colours_of, levels_of

_MOST = (128, 128, max(KERNEL_SIZES))  # voxels that are used: the visible plane depends on no other planes
_SEEDS = 20
_BLENDS = tuple(round(0.05 * i, 2) for i in range(21))


def view_explorer(image: torch.Tensor | NDArray[Any], tumour: torch.Tensor | NDArray[Any] | None = None) -> Explorer:
    """Draw two imaging views of an image, as in training, and compare them.

    Both views are drawn from the seed, one after the other; only kernel size and blend are chosen.

    Args:
        image: (X, Y, Z) or (1, X, Y, Z) in [0, 1]; at most 128 x 128 x 7 voxels are used.
        tumour: a mask of the same shape, to outline; the plane with most of it is shown, else the middle one.
    """
    volume = _with_channel(image)
    mask = None if tumour is None else _with_channel(tumour)
    level = volume.shape[3] // 2 if mask is None else int(mask.sum(dim=(0, 1, 2)).argmax())
    cropped, plane = _crop(volume, level)
    lines = {} if mask is None else {"tumour": (_slice(_crop(mask, level)[0], plane) > 0.5, 0.5)}

    def draw(kernel: int, blend: float, seed: int) -> Frame:
        generator = torch.Generator().manual_seed(seed)
        views = [draw_view(generator, kernel_sizes=(kernel,))._replace(blend=blend) for _ in range(2)]
        return _frame(cropped, plane, views, lines)

    return Explorer(
        title="Two imaging views by random convolution (axial plane)",
        knobs=(
            Knob("kernel", "Kernel", {f"{k} × {k} × {k}": k for k in KERNEL_SIZES}, "3 × 3 × 3", slides=False),
            Knob("blend", "Blend", {f"{blend:.2f}": blend for blend in _BLENDS}, "0.50"),
            Knob("seed", "Seed", {str(seed): seed for seed in range(_SEEDS)}, "3"),
        ),
        draw=draw,
        styles={"tumour": LineStyle("tumour", palette.TUMOUR)} if lines else {},
        aspect=cropped.shape[1] / cropped.shape[2],
    )


def _with_channel(volume: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    volume = torch.as_tensor(volume, dtype=torch.float32)
    return volume if volume.ndim == 4 else volume[None]


def _crop(volume: torch.Tensor, level: int) -> tuple[torch.Tensor, int]:
    """Cut out the middle of the planes around ``level``; returns also the number of that plane in it."""
    middle = (volume.shape[1] // 2, volume.shape[2] // 2, level)
    for axis, (most, centre) in enumerate(zip(_MOST, middle, strict=True), start=1):
        side = min(most, volume.shape[axis])
        start = min(max(centre - side // 2, 0), volume.shape[axis] - side)
        volume = volume.narrow(axis, start, side)
    return volume.contiguous(), level - start


def _frame(
    image: torch.Tensor, plane: int, views: list[View], lines: dict[str, tuple[NDArray[np.bool_], float]]
) -> Frame:
    shown = [apply_view(image, view) for view in views]
    difference = (shown[0] - shown[1]).abs()
    lost = [saturation(image, view) for view in views]
    numbers = {f"view {n}: saturated": f"{share:.0%}" for n, share in enumerate(lost, start=1)}
    numbers["mean difference"] = f"{difference.mean():.2f}"
    numbers["correlation of the views"] = f"{_correlation(*shown):.2f}"
    grey = colours_of("gray")
    titles = ("the image", "view 1", "view 2")
    panels = [
        Panel(title, levels_of(_slice(volume, plane), 0, 1), grey, ("0", "1"), lines)
        for title, volume in zip(titles, (image, *shown), strict=True)
    ]
    apart = levels_of(_slice(difference, plane), 0, 1)
    panels.append(Panel("difference", apart, colours_of("cividis"), ("0", "1"), lines))
    again = " and ".join(f"view {n}" for n, share in enumerate(lost, start=1) if share > MOST_SATURATED)
    words = (
        "Bright and dark may be swapped; edges move by at most half a kernel. Training draws a view again when the "
        f"clip saturates more than {MOST_SATURATED:.0%} of it: here {again or 'neither'}."
    )
    return Frame(panels, numbers, words)


def _slice(volume: torch.Tensor, plane: int) -> NDArray[np.float32]:
    shown: NDArray[np.float32] = volume[0, :, :, plane].numpy().T[::-1, ::-1]
    return shown


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Pearson correlation; NaN when one volume is constant."""
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
