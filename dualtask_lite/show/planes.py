"""One plane of a volume on matplotlib axes: grey values, distance and outlines, in mm.

Planes have the radiological orientation, seen from the patient's feet and front: the patient's right is on the left of
the image. They have their true proportions in mm, also for thick slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dualtask_lite.cases.case import CT_WINDOW, Scan
from dualtask_lite.show import outlines, palette

BAND = 20.0  # mm; distances are coloured within it, as the network regresses them

#: Name of a plane -> the axis that it is perpendicular to, and the letters at its left, right, top and bottom.
PLANES = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}
_LETTER_POSITIONS = ((0.04, 0.5), (0.96, 0.5), (0.5, 0.95), (0.5, 0.05))
_ORGANS = {1: palette.PANCREAS, 2: palette.TUMOUR}  # outlines of all voxels with at least this label


def middle(
    mask: NDArray[Any] | None, shape: Sequence[int], names: Sequence[tuple[int, str]]
) -> tuple[tuple[int, ...], str]:
    """Find the voxel to cut through: the voxel of a structure that is nearest to its centroid.

    Args:
        mask: labels, (X, Y, Z), or None.
        shape: of the volume; its middle is used when no structure is present.
        names: ``(lowest label, name)`` of the structures, the preferred one first.

    Returns:
        The voxel, and the name of the structure.
    """
    for least, name in names:
        if mask is not None and len(points := np.argwhere(mask >= least)):
            nearest = ((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin()
            return tuple(int(i) for i in points[nearest]), name
    return tuple(n // 2 for n in shape), "volume"


def cut(
    volume: NDArray[Any], spacing: Sequence[float], plane: str, at: Sequence[int]
) -> tuple[NDArray[Any], tuple[float, float, float, float]]:
    """Cut a plane out of a volume.

    Args:
        volume: (X, Y, Z) in RAS+ order.
        spacing: of its voxels, mm.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        at: the voxel to cut through.

    Returns:
        Rows (downwards) and columns of an image, and the positions of its edges in mm from the middle of that voxel:
        left, right, bottom, top.
    """
    axis = PLANES[plane][0]
    image = np.take(volume, at[axis], axis=axis).T[::-1, ::-1]
    across, up = (i for i in range(3) if i != axis)
    left = (at[across] + 0.5 - volume.shape[across]) * spacing[across]
    bottom = -(at[up] + 0.5) * spacing[up]
    return image, (
        left,
        left + volume.shape[across] * spacing[across],
        bottom,
        bottom + volume.shape[up] * spacing[up],
    )


def draw_ct(axes: Axes, scan: Scan, plane: str, at: Sequence[int], field: float | None = None) -> None:
    """Draw the grey values of a plane in the CT window, with the letters of the patient's sides.

    Args:
        axes: to draw on.
        scan: the CT.
        plane: which plane.
        at: the voxel to cut through, which becomes 0 mm.
        field: visible width and height, mm, around that voxel; by default the whole plane.
    """
    image, extent = cut(scan.volume, scan.spacing, plane, at)
    low, high = CT_WINDOW
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
    if field is not None:
        axes.set(xlim=(-field / 2, field / 2), ylim=(-field / 2, field / 2))
    axes.set_facecolor("black")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    for letter, position in zip(PLANES[plane][1], _LETTER_POSITIONS, strict=True):
        text = axes.text(*position, letter, color="white", ha="center", va="center", transform=axes.transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def draw_distance(axes: Axes, distance: NDArray[Any], spacing: Sequence[float], plane: str, at: Sequence[int]) -> Any:
    """Draw a signed distance (X, Y, Z) in mm over a plane; returns the image for a colour bar."""
    image, extent = cut(distance, spacing, plane, at)
    style: dict[str, Any] = {
        "cmap": palette.DISTANCE_MAP,
        "vmin": -BAND,
        "vmax": BAND,
        "interpolation": "nearest",
    }
    view = axes.get_xlim(), axes.get_ylim()
    drawn = axes.imshow(image, extent=extent, **style)
    axes.set(xlim=view[0], ylim=view[1])
    return drawn


def outline_truth(
    axes: Axes, label: NDArray[Any] | None, spacing: Sequence[float], plane: str, at: Sequence[int]
) -> None:
    """Outline the pancreas (with its tumour) and the tumour of a label (X, Y, Z), each in its colour."""
    for least, colour in _ORGANS.items():
        if label is not None:
            outline(axes, label >= least, spacing, plane, at, colour)


def outline_prediction(
    axes: Axes, labels: NDArray[Any] | None, spacing: Sequence[float], plane: str, at: Sequence[int]
) -> None:
    """Outline predicted labels (X, Y, Z), dashed and in the colour of predictions."""
    for least in _ORGANS:
        if labels is not None:
            outline(axes, labels >= least, spacing, plane, at, palette.PREDICTION, "--")


def outline(
    axes: Axes,
    mask: NDArray[Any],
    spacing: Sequence[float],
    plane: str,
    at: Sequence[int],
    colour: str,
    style: str = "-",
) -> None:
    """Outline a mask (X, Y, Z) on a plane."""
    image, extent = cut(mask, spacing, plane, at)
    outlines.draw(axes, image, extent, colour, style)
