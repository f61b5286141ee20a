"""Figures of the method: distances across a lesion, cells of the contrast, and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from dualtask_lite.method.network import STRIDE
from dualtask_lite.show import outlines, palette
from dualtask_lite.show.figures.parts import tidy
from dualtask_lite.show.picture import Picture, new_figure

_KINDS = (("core", palette.ORANGE, "o"), ("shell", palette.BLUE, "x"))


def core_and_shell(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    core: NDArray[np.bool_],
    shell: NDArray[np.bool_],
    spacing: Sequence[float],
    *,
    stride: int = STRIDE,
) -> Picture:
    """Show the cells of the bottleneck's grid that the contrast compares, on the slice with the most lesion.

    Args:
        image: (X, Y, Z) in [0, 1].
        mask: (X, Y, Z) the lesion.
        core: (x, y, z) cells of the core; ``method.contrast.core_and_shell`` finds them.
        shell: (x, y, z) cells of the shell.
        spacing: of the image, mm.
        stride: voxels of a cell along each axis.
    """
    level = int(mask.sum(axis=(0, 1)).argmax())
    figure = new_figure(height=430)
    axes = figure.subplots()
    wide, deep = (n * mm for n, mm in zip(mask.shape[:2], spacing[:2], strict=True))
    extent = (0, wide, 0, deep)
    axes.imshow(
        image[:, :, level].T, cmap="gray", vmin=0, vmax=1, extent=extent, origin="lower", interpolation="nearest"
    )
    outlines.draw(axes, mask[:, :, level].T, (0, wide, deep, 0), palette.YELLOW)
    counts = [
        _draw_cells(axes, cells[:, :, level // stride], kind, spacing, stride)
        for cells, kind in zip((core, shell), _KINDS, strict=True)
    ]
    axes.set(xlabel="mm", ylabel="mm", xlim=(wide, 0), ylim=(0, deep))  # the patient's right is on the left
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9)
    axes.set_title("lesion outlined in yellow", fontsize=10)
    alt = (
        f"Cells of {stride} voxels on the axial slice with the most lesion: {counts[0]} of the core, {counts[1]} of "
        f"the shell; in the whole volume {int(core.sum())} and {int(shell.sum())}."
    )
    return Picture.of(figure, alt)


def _draw_cells(
    axes: Axes, cells: NDArray[np.bool_], kind: tuple[str, str, str], spacing: Sequence[float], stride: int
) -> int:
    """Draw each cell as a square with the marker of its kind; return the number of cells."""
    name, colour, marker = kind
    wide, deep = stride * spacing[0], stride * spacing[1]
    corners = np.argwhere(cells) * (wide, deep)
    for x, y in corners:
        axes.add_patch(Rectangle((x, y), wide, deep, fill=False, edgecolor=colour, lw=1.5))
    middles = corners + np.array([wide / 2, deep / 2])
    drawn = axes.plot(*middles.T, marker, color=colour, ms=7, mew=2, ls="", label=f"{name} ({len(corners)})")
    drawn[0].set_path_effects([withStroke(linewidth=4, foreground="white")])
    return len(corners)


def embeddings(core: torch.Tensor, shell: torch.Tensor) -> Picture:
    """Show embeddings of core and shell on their first two principal components (PCA of unit vectors).

    Args:
        core: (N, C).
        shell: (M, C).
    """
    units = [torch.nn.functional.normalize(part.detach().double().cpu(), dim=1).numpy() for part in (core, shell)]
    all_units = np.concatenate(units)
    _, sizes, directions = np.linalg.svd(all_units - all_units.mean(axis=0), full_matrices=False)
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-12)
    figure = new_figure(height=400)
    axes = figure.subplots()
    for part, (name, colour, marker) in zip(units, _KINDS, strict=True):
        projected = (part - all_units.mean(axis=0)) @ directions[:2].T
        axes.plot(projected[:, 0], projected[:, 1], marker, color=colour, ms=7, mew=1.5, label=f"{name} ({len(part)})")
    axes.set(xlabel=f"first direction ({shares[0]:.0%} of the variance)", ylabel=f"second direction ({shares[1]:.0%})")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))  # inside, it looks like more cells
    tidy(axes)
    within = [_mean_cosine(part) for part in units]
    between = float((units[0] @ units[1].T).mean())
    alt = (
        f"{len(core)} core and {len(shell)} shell embeddings on their two main directions, which hold "
        f"{shares[:2].sum():.0%} of the variance. Mean cosine similarity: within the core {within[0]:.2f}, within the "
        f"shell {within[1]:.2f}, between them {between:.2f}."
    )
    return Picture.of(figure, alt)


def _mean_cosine(units: NDArray[np.float64]) -> float:
    """Mean cosine over all pairs of different rows; NaN for fewer than two rows."""
    n = len(units)
    return float(((units @ units.T).sum() - n) / (n * (n - 1))) if n > 1 else float("nan")
