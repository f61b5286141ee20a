"""What is laid over a CT: labels, errors, distances in mm, each in its fixed colours.

Every overlay is a volume of small whole numbers with a colour for each, 0 being nothing, so that all viewers
draw it in the same way. Labels are nested (a tumour voxel is one of the pancreas too), so a prediction that is
larger than the truth says too much there, and a smaller one misses something.
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

MOST_ERROR = 10  # mm; a surface farther off is coloured as if it were this far


@dataclass(frozen=True, eq=False)
class Overlay:
    """One thing that is laid over a CT.

    Attributes:
        name: ``truth``, ``prediction``, ``difference``, ``distance`` or ``surface``.
        words: what it is, for a legend.
        values: (X, Y, Z) uint8; 0 is nothing.
        colours: of the values from 1.
        meanings: of the values from 1.
        shown: whether a viewer shows it from the start.
    """

    name: str
    words: str
    values: NDArray[np.uint8]
    colours: tuple[str, ...]
    meanings: tuple[str, ...]
    shown: bool = True


def overlays(
    scan: Scan, prediction: NDArray[np.uint8] | None = None, distance: NDArray[np.floating] | None = None
) -> list[Overlay]:
    """List all that can be laid over a scan, given what there is.

    Args:
        scan: the CT; its label, when it has one, is the truth.
        prediction: (X, Y, Z) of 0, 1, 2.
        distance: signed distance, (X, Y, Z) in mm, negative inside.
    """
    found = []
    organs = (LABELS[1], LABELS[2])
    if scan.label is not None:
        found.append(Overlay("truth", "true labels", scan.label, (palette.PANCREAS, palette.TUMOUR), organs))
    if prediction is not None:
        pale = (palette.PREDICTION_PALE, palette.PREDICTION)
        found.append(Overlay("prediction", "prediction", prediction, pale, organs))
    if scan.label is not None and prediction is not None:
        found += [difference(scan.label, prediction), surface_error(scan.label, prediction, scan.spacing)]
    if distance is not None:
        found.append(_distance(distance))
    return found


def difference(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Overlay:
    """Mark where a prediction says too much (false positive) and where it misses something (false negative)."""
    values = np.where(prediction > truth, 1, np.where(prediction < truth, 2, 0)).astype(np.uint8)
    colours = (palette.FALSE_POSITIVE, palette.FALSE_NEGATIVE)
    return Overlay("difference", "errors", values, colours, ("false positive", "false negative"), shown=False)


def surface_error(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], spacing: tuple[float, ...]) -> Overlay:
    """Colour the surface voxels of a prediction by how far the nearest true one is, in steps of 1 mm.

    It is that of the tumour where truth and prediction have one, else of the pancreas; without both there is none.
    """
    from dualtask_lite.method.distance import signed_distance  # imports torch, which takes seconds

    least = 2 if (truth == 2).any() and (prediction == 2).any() else 1
    mask, wanted = prediction >= least, truth >= least
    values = np.zeros(mask.shape, np.uint8)
    if mask.any() and wanted.any():
        box = _around(mask | wanted)
        surface, true_surface = (inside & ~binary_erosion(inside) for inside in (mask[box], wanted[box]))
        away = np.asarray(signed_distance(true_surface, spacing))
        values[box][surface] = np.clip(np.ceil(away[surface] - 1e-3), 1, MOST_ERROR).astype(np.uint8)
    colours = matplotlib.colormaps[palette.ERROR_MAP](np.linspace(0, 1, MOST_ERROR))
    meanings = (*(f"to {mm} mm" for mm in range(1, MOST_ERROR)), f"over {MOST_ERROR - 1} mm")
    words = f"surface error of the {LABELS[least]} (mm)"
    return Overlay("surface", words, values, tuple(map(to_hex, colours)), meanings, shown=False)


def _around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Find the box around a mask, one voxel wider on each side where there is one."""
    box = Box.around(mask, 1)
    assert box is not None  # only asked for a mask that holds something
    return box.slices


def _distance(mm: NDArray[np.floating]) -> Overlay:
    """Colour a signed distance in steps of 1 mm, and nothing from the band outwards."""
    band = int(planes.BAND)
    whole = np.rint(np.nan_to_num(np.clip(mm, -band, band), nan=band)).astype(int)
    values = np.where(whole < band, whole + band + 1, 0).astype(np.uint8)
    colours = matplotlib.colormaps[palette.DISTANCE_MAP](np.linspace(0, 1, 2 * band + 1))[:-1]
    meanings = tuple(f"{level} mm" for level in range(-band, band))
    words = f"signed distance (to {band} mm; negative inside)"
    return Overlay("distance", words, values, tuple(map(to_hex, colours)), meanings, shown=False)
