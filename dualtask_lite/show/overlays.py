"""Overlays of a CT: labels, errors and distances in mm, each in fixed colours.

Each overlay is a volume of small integers, each with a colour; 0 is transparent. So all viewers use the same colours.
Labels are nested (a tumour voxel belongs to the pancreas too): where the predicted value is larger than the true one
the prediction is a false positive, where it is smaller a false negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.cases.masks import Box
from dualtask_lite.show import palette, planes

MOST_ERROR = 10  # mm; larger errors get the colour of this one


@dataclass(frozen=True, eq=False)
class Overlay:
    """One overlay of a CT.

    Attributes:
        name: ``truth``, ``prediction``, ``difference``, ``distance`` or ``surface``.
        title: for a legend.
        values: (X, Y, Z) uint8; 0 is transparent.
        colours: of the values from 1.
        meanings: of the values from 1.
        shown: whether a viewer shows it at the start.
    """

    name: str
    title: str
    values: NDArray[np.uint8]
    colours: tuple[str, ...]
    meanings: tuple[str, ...]
    shown: bool = True


def overlays(
    scan: Scan, prediction: NDArray[np.uint8] | None = None, distance: NDArray[np.floating] | None = None
) -> list[Overlay]:
    """List the overlays that can be made from the given volumes.

    Args:
        scan: the CT; its label, when it has one, is the truth.
        prediction: (X, Y, Z) of 0, 1, 2.
        distance: signed distance, (X, Y, Z) in mm, negative inside.
    """
    layers = []
    organs = (LABELS[1], LABELS[2])
    if scan.label is not None:
        layers.append(Overlay("truth", "true labels", scan.label, (palette.PANCREAS, palette.TUMOUR), organs))
    if prediction is not None:
        pale = (palette.PREDICTION_PALE, palette.PREDICTION)
        layers.append(Overlay("prediction", "prediction", prediction, pale, organs))
    if scan.label is not None and prediction is not None:
        layers += [difference(scan.label, prediction), surface_error(scan.label, prediction, scan.spacing)]
    if distance is not None:
        layers.append(_distance(distance))
    return layers


def difference(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Overlay:
    """Mark the false positives and the false negatives of a prediction."""
    values = np.where(prediction > truth, 1, np.where(prediction < truth, 2, 0)).astype(np.uint8)
    colours = (palette.FALSE_POSITIVE, palette.FALSE_NEGATIVE)
    return Overlay("difference", "errors", values, colours, ("false positive", "false negative"), shown=False)


def surface_error(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], spacing: tuple[float, ...]) -> Overlay:
    """Colour the surface voxels of a prediction by their distance to the true surface, in steps of 1 mm.

    The surface is that of the tumour if truth and prediction have one, else that of the pancreas.
    """
    from dualtask_lite.method.distance import signed_distance  # imports torch, which takes seconds

    least = 2 if (truth == 2).any() and (prediction == 2).any() else 1
    mask, true_mask = prediction >= least, truth >= least
    values = np.zeros(mask.shape, np.uint8)
    if mask.any() and true_mask.any():
        box = _around(mask | true_mask)
        surface, true_surface = (inside & ~binary_erosion(inside) for inside in (mask[box], true_mask[box]))
        error_mm = np.asarray(signed_distance(true_surface, spacing))
        values[box][surface] = np.clip(np.ceil(error_mm[surface] - 1e-3), 1, MOST_ERROR).astype(np.uint8)
    colours = matplotlib.colormaps[palette.ERROR_MAP](np.linspace(0, 1, MOST_ERROR))
    meanings = (*(f"to {mm} mm" for mm in range(1, MOST_ERROR)), f"over {MOST_ERROR - 1} mm")
    title = f"surface error of the {LABELS[least]} (mm)"
    return Overlay("surface", title, values, tuple(map(to_hex, colours)), meanings, shown=False)


def _around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Find the box around a mask, one voxel wider on each side within the volume."""
    box = Box.around(mask, 1)
    assert box is not None  # the mask is not empty
    return box.slices


def _distance(mm: NDArray[np.floating]) -> Overlay:
    """Colour a signed distance in steps of 1 mm; beyond the band it is transparent."""
    band = int(planes.BAND)
    whole = np.rint(np.nan_to_num(np.clip(mm, -band, band), nan=band)).astype(int)
    values = np.where(whole < band, whole + band + 1, 0).astype(np.uint8)
    colours = matplotlib.colormaps[palette.DISTANCE_MAP](np.linspace(0, 1, 2 * band + 1))[:-1]
    meanings = tuple(f"{level} mm" for level in range(-band, band))
    title = f"signed distance (to {band} mm; negative inside)"
    return Overlay("distance", title, values, tuple(map(to_hex, colours)), meanings, shown=False)
