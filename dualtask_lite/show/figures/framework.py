"""The whole method in one picture: a patch, two views, one network, two outputs, and the terms between them.

The functions of ``method`` compute every image in it from a case: the views, the cells of the contrast, the distance,
and the mask that is converted from the distance. The text is large, so that it can be read on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle
from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.grid import window
from dualtask_lite.cases.masks import Box, target_mask
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.convert import distance_to_probability
from dualtask_lite.method.distance import BAND, signed_distance
from dualtask_lite.method.network import STRIDE
from dualtask_lite.method.views import random_view
from dualtask_lite.show import outlines, palette
from dualtask_lite.show.picture import WIDTH, Picture, new_figure

MARGIN = 30.0  # mm of the patch around the tumour
TAU = 2.0  # mm; temperature of the conversion
_HEIGHT = 860  # px
_SIDE = 200  # px of an image
_TEXT = 17  # points; at 390 px wide it is 10 px high
_STACK = 12  # px by which the output of the second view shows behind the first
_CT, _VIEWS, _CONTRAST = (26, 50), ((382, 50), (662, 50)), (26, 328)  # left and top of each image, px
_OUTPUTS = (298, 630), (662, 630)  # segmentation, distance
_MIDDLE, _TOP, _WAIST, _BOTTOM = 622, 284, 428, 550  # px; of the network


def framework(scan: Scan, *, seed: int = 7) -> Picture:
    """Draw the method around the tumour of a case.

    Args:
        scan: a labelled case with a tumour. Its label stands for what a perfect network would predict.
        seed: of the two views and of the shell.

    Raises:
        ValueError: when the case has no tumour.
    """
    image, mask = _patch(scan)
    generator = torch.Generator().manual_seed(seed)
    views = [random_view(image, generator)[0, 0].numpy() for _ in range(2)]
    distance = torch.from_numpy(signed_distance(mask[0, 0].numpy(), scan.spacing))
    core, shell = core_and_shell(mask, distance[None, None], generator=generator)
    level = int(mask[0, 0].sum((0, 1)).argmax())
    figure = new_figure(height=_HEIGHT)
    figure.set_layout_engine("none")
    page = _page(figure)
    _draw_network(page)
    _draw_arrows(page)
    step = scan.spacing[:2]
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
    ct = image[0, 0, :, :, level].numpy()
    _outline(_show(figure, ct, step, _CT, "CT patch", **grey), mask[0, 0, :, :, level].numpy(), step)
    for number, (view, corner) in enumerate(zip(views, _VIEWS, strict=True), start=1):
        _show(figure, view[:, :, level], step, corner, f"view {number}", **grey)
    cells = _show(figure, ct, step, _CONTRAST, "contrast", **grey)
    _draw_cells(cells, core[0, :, :, level // STRIDE], shell[0, :, :, level // STRIDE], step)
    within = distance[:, :, level].clamp(-BAND, BAND)
    for corner in _OUTPUTS:
        _frame(page, (corner[0] + _STACK, corner[1] + _STACK))
    _show(figure, distance_to_probability(within, TAU).numpy(), step, _OUTPUTS[0], "segmentation", **grey)
    signed = {"cmap": palette.DISTANCE_MAP, "vmin": -BAND, "vmax": BAND}
    _show(figure, within.numpy(), step, _OUTPUTS[1], "distance (mm)", **signed)
    volume = float(mask.sum()) * float(np.prod(scan.spacing)) / 1000
    return Picture.of(
        figure,
        f"The method on case {scan.id}, a tumour of {volume:.1f} ml. Random convolution makes two views of a CT patch. "
        "One network reads both views and has two heads: segmentation, and signed distance in mm (here down to "
        f"{float(distance.min()):.1f} mm inside, clipped to {BAND:g} mm). Each output is converted into the other. "
        "Both views must give the same outputs (consistency). In the bottleneck, contrast separates "
        f"{int(core.sum())} cells in the core of the tumour from {int(shell.sum())} in a shell around it.",
    )


def _patch(scan: Scan) -> tuple[torch.Tensor, torch.Tensor]:
    """CT in [0, 1] and tumour mask of a box around the tumour, each (1, 1, X, Y, Z), square in mm in the plane."""
    tumour = None if scan.label is None else target_mask(scan.label, "tumour")
    box = None if tumour is None else Box.around(tumour, MARGIN, scan.spacing)
    if tumour is None or box is None:
        raise ValueError(f"{scan.id}: has no tumour; choose a case with one")
    half_width = max(n * mm for n, mm in zip(box.shape[:2], scan.spacing[:2], strict=True)) / 2
    start, stop = list(box.start), list(box.stop)
    for axis in (0, 1):
        middle, half = (box.start[axis] + box.stop[axis]) / 2, half_width / scan.spacing[axis]
        start[axis], stop[axis] = max(0, round(middle - half)), min(scan.shape[axis], round(middle + half))
    slices = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    image = window(torch.from_numpy(scan.volume[slices].copy()))
    return image[None, None], torch.from_numpy(tumour[slices].astype(np.float32))[None, None]


def _page(figure: Figure) -> Axes:
    """Axes over the whole figure, in px from its upper left corner."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(_HEIGHT, 0))
    axes.set_axis_off()
    return axes


def _show(
    figure: Figure,
    plane: NDArray[Any],
    spacing: Sequence[float],
    corner: tuple[float, float],
    title: str,
    **style: Any,
) -> Axes:
    """Draw an axial plane (X, Y) with its title above, as radiologists see it: the patient's right is on the left."""
    left, top = corner
    axes = figure.add_axes((left / WIDTH, 1 - (top + _SIDE) / _HEIGHT, _SIDE / WIDTH, _SIDE / _HEIGHT))
    wide, deep = (n * mm for n, mm in zip(plane.shape, spacing, strict=True))
    axes.imshow(plane.T, extent=(0, wide, 0, deep), origin="lower", interpolation="nearest", aspect="auto", **style)
    axes.set(xticks=[], yticks=[], xlim=(wide, 0), ylim=(0, deep))
    axes.set_title(title, fontsize=_TEXT, pad=6)
    return axes


def _frame(page: Axes, corner: tuple[float, float]) -> None:
    """Draw an empty frame behind an image: the same output for the other view."""
    page.add_patch(Rectangle(corner, _SIDE, _SIDE, facecolor=palette.GREY, edgecolor=palette.ink(), lw=1))


def _draw_network(page: Axes) -> None:
    """Draw the network: the encoder narrows to the bottleneck, the decoder widens to two heads."""
    wide, narrow = 240, 84
    for first, last, start, end in ((_TOP, _WAIST - 22, wide, narrow), (_WAIST + 22, _BOTTOM, narrow, wide)):
        x = (-start, start, end, -end)
        corners = [(_MIDDLE + dx, y) for dx, y in zip(x, (first, first, last, last), strict=True)]
        page.add_patch(Polygon(corners, facecolor=palette.SKY, alpha=0.35, edgecolor="none"))
        page.add_patch(Polygon(corners, fill=False, edgecolor=palette.SKY, lw=2))
    _write(page, _MIDDLE, (_TOP + _WAIST) / 2 - 16, "encoder")
    _write(page, _MIDDLE, _WAIST, "bottleneck")
    _write(page, _MIDDLE, (_WAIST + _BOTTOM) / 2 + 18, "decoder")


def _outline(axes: Axes, mask: NDArray[Any], spacing: Sequence[float]) -> None:
    """Outline a mask (X, Y) on an image that :func:`_show` drew."""
    wide, deep = (n * mm for n, mm in zip(mask.shape, spacing, strict=True))
    outlines.draw(axes, mask.T, (0, wide, deep, 0), palette.TUMOUR, width=2)


def _draw_cells(axes: Axes, core: torch.Tensor, shell: torch.Tensor, spacing: Sequence[float]) -> None:
    """Mark the cells of the core by discs and those of the shell by crosses."""
    size = np.asarray(spacing) * STRIDE
    for cells, colour, marker in ((core, palette.ORANGE, "o"), (shell, palette.SKY, "x")):
        middles = (cells.nonzero().numpy() + 0.5) * size
        axes.plot(*middles.T, marker, color=colour, ms=9, mew=3, ls="")


def _draw_arrows(page: Axes) -> None:
    """Connect the parts by arrows with labels."""
    half = _SIDE / 2
    ct, (first, second), contrast, (mask, distance) = _CT, _VIEWS, _CONTRAST, _OUTPUTS
    _arrow(page, (ct[0] + _SIDE + 8, ct[1] + half), (first[0] - 8, first[1] + half))
    _write(page, (ct[0] + _SIDE + first[0]) / 2, ct[1] + half - 44, "random\nconvolution")
    for view in (first, second):
        _arrow(page, (view[0] + half, view[1] + _SIDE + 2), (view[0] + half, _TOP + 2))
    _arrow(page, (_MIDDLE - 84, _WAIST), (contrast[0] + _SIDE + 8, _WAIST))
    for name, x, colour, marker in (("core", 44, palette.ORANGE, "o"), ("shell", 142, palette.SKY, "x")):
        page.scatter(contrast[0] + x - 32, contrast[1] + _SIDE + 24, s=81, color=colour, marker=marker, linewidths=3)
        _write(page, contrast[0] + x + 10, contrast[1] + _SIDE + 24, name)
    for output in (mask, distance):
        _arrow(page, (output[0] + half, _BOTTOM + 4), (output[0] + half, output[1] - 40))
    _write(page, _MIDDLE, _BOTTOM + 22, "two heads")
    left, right, middle = mask[0] + _SIDE + _STACK + 8, distance[0] - 8, mask[1] + half
    _arrow(page, (left, middle - 22), (right, middle - 22))
    _arrow(page, (right, middle + 22), (left, middle + 22))
    _write(page, (left + right) / 2, middle - 56, "convert")
    _write(page, (left + right) / 2, middle + 56, "both ways")
    _write(page, mask[0] / 2, middle, "both views\nmust agree:\nconsistency")


def _arrow(page: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=22, color=palette.ink(), lw=2)
    page.add_patch(arrow)


def _write(page: Axes, x: float, y: float, text: str) -> None:
    page.text(x, y, text, ha="center", va="center", fontsize=_TEXT)
