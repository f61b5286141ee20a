"""Metrics of a predicted mask: overlap with the label, surface distances in mm, volume, detection.

An undefined metric is NaN, never 0 or 10000, so that it does not distort an average (METHOD, trap 14):

=====================  ====================  ===========  ===============  ======  =========
masks                  dice, jaccard, recall  precision    hd95, assd       nsd     detected
=====================  ====================  ===========  ===============  ======  =========
both not empty         0 to 1                0 to 1       mm               0 to 1  overlap?
prediction is empty    0                     NaN          NaN              0       False
truth is empty         NaN                   0            NaN              NaN     NaN
both are empty         NaN                   NaN          NaN              NaN     NaN
=====================  ====================  ===========  ===============  ======  =========

Volumes are always defined; if the truth is empty, ``volume_ml_prediction`` is the false positive volume.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dualtask_lite.cases.masks import Box
from dualtask_lite.engine.monai import get_mask_edges, get_surface_distance
from dualtask_lite.rows import number

METRICS = (
    "dice",
    "jaccard",
    "precision",
    "recall",
    "hd95_mm",
    "assd_mm",
    "nsd_1mm",
    "nsd_2mm",
    "volume_ml_truth",
    "volume_ml_prediction",
    "volume_error_ml",
    "detected",
)
_NSD_TOLERANCES = (1.0, 2.0)  # mm
_ROUNDING = 1e-4  # mm; a spacing from a float32 header (1.0000001) must not fail a tolerance of 1 mm


def case_metrics(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Compare a predicted mask with the true one.

    Args:
        prediction: (X, Y, Z) bool.
        truth: (X, Y, Z) bool, on the same grid.
        spacing: size of a voxel in mm.

    Returns:
        A value for each of ``METRICS``, NaN where it is not defined (see the table of this module):

        =========================  ======  ===================================================================
        metric                     unit    meaning
        =========================  ======  ===================================================================
        ``dice``, ``jaccard``      0 to 1  overlap over the mean size; overlap over the union
        ``precision``, ``recall``  0 to 1  overlap over the prediction; overlap over the truth
        ``hd95_mm``                mm      95th percentile of the surface distances, larger of both directions
        ``assd_mm``                mm      mean surface distance over both surfaces
        ``nsd_1mm``, ``nsd_2mm``   0 to 1  share of both surfaces within 1 or 2 mm of the other one
        ``volume_ml_...``          ml      of ``truth`` and ``prediction``
        ``volume_error_ml``        ml      prediction minus truth
        ``detected``               bool    the prediction overlaps the truth in at least one voxel
        =========================  ======  ===================================================================

        The surface consists of the voxels of a mask with a face on the outside or on the border of the volume.
        All have the same weight, as in MedPy; the NSD of DeepMind weights them by area.

    Raises:
        ValueError: when the masks are on different grids, have other axes, or hold values other than 0 and 1.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    prediction, truth = _as_mask(prediction, "prediction"), _as_mask(truth, "truth")
    box = Box.around(prediction | truth, max(spacing), spacing) or Box.whole(truth.shape)
    prediction, truth = prediction[box.slices], truth[box.slices]  # the rest of the volume changes no metric
    return {
        **_overlap(prediction, truth),
        **_surface(prediction, truth, spacing),
        **_volumes(prediction, truth, spacing),
        "detected": bool((prediction & truth).any()) if truth.any() else math.nan,
    }


def _as_mask(values: np.ndarray, name: str) -> np.ndarray:
    """A mask as bool; a probability or a label map is not a mask."""
    mask = values.astype(bool)
    if (mask != values).any():
        raise ValueError(f"the {name} holds values other than 0 and 1; give a mask of one target")
    return mask


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of the defined values over all cases.

    Args:
        rows: results of ``case_metrics``, or the same rows read from CSV as text ('' is undefined).

    Returns:
        ``n_cases``, and for each metric ``mean``, ``sd`` (of a sample, n - 1), ``median``, ``min``, ``max``
        (NaN if too few values are defined) and ``n``, their number. The mean of ``detected`` is a rate.
    """
    return {
        "n_cases": len(rows),
        **{name: _statistics([number(row.get(name)) for row in rows]) for name in METRICS},
    }


def _overlap(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    both = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    known = true > 0
    return {
        "dice": 2 * both / (predicted + true) if known else math.nan,
        "jaccard": both / (predicted + true - both) if known else math.nan,
        "precision": both / predicted if predicted else math.nan,
        "recall": both / true if known else math.nan,
    }


def _surface(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    names = [f"nsd_{tolerance:.0f}mm" for tolerance in _NSD_TOLERANCES]
    if not (prediction.any() and truth.any()):
        missed = 0.0 if truth.any() else math.nan
        return {"hd95_mm": math.nan, "assd_mm": math.nan, **dict.fromkeys(names, missed)}
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 warn of an argument that they set themselves
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        surfaces = get_mask_edges(prediction, truth)
    sizes = [float(size) for size in spacing]
    directions = [np.asarray(get_surface_distance(a, b, spacing=sizes)) for a, b in (surfaces, surfaces[::-1])]
    both = np.concatenate(directions)  # distance of each surface voxel to the other surface, mm
    return {
        "hd95_mm": float(max(np.percentile(distances, 95) for distances in directions)),
        "assd_mm": float(both.mean()),
        **{name: float((both <= mm + _ROUNDING).mean()) for name, mm in zip(names, _NSD_TOLERANCES, strict=True)},
    }


def _volumes(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    voxel_ml = math.prod(float(size) for size in spacing) / 1000
    true, predicted = (int(np.count_nonzero(mask)) * voxel_ml for mask in (truth, prediction))
    return {"volume_ml_truth": true, "volume_ml_prediction": predicted, "volume_error_ml": predicted - true}


def _statistics(values: Sequence[float]) -> dict[str, float]:
    known = np.array([value for value in values if math.isfinite(value)])
    n = len(known)
    return {
        "mean": float(known.mean()) if n else math.nan,
        "sd": float(known.std(ddof=1)) if n > 1 else math.nan,
        "median": float(np.median(known)) if n else math.nan,
        "min": float(known.min()) if n else math.nan,
        "max": float(known.max()) if n else math.nan,
        "n": n,
    }
