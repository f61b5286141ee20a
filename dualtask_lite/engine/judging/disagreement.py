"""Uncertainty without a label: the disagreement of the two heads, and of the predictions on several views.

Each case gets a few *warnings*, numbers that are higher for a less certain prediction; the same exists for each voxel.
The label then shows whether a warning is useful: does it increase with the error (Spearman), and how much does the mean
error fall when an expert takes over the cases with the highest warnings (risk and coverage)?

Two heads of one network share all features but the last, so they can be wrong together. A tumour that both heads miss
gives no warning; the numbers here show that limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import spearmanr

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.grid import resample
from dualtask_lite.cases.masks import Box, dice, target_mask
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.inference import output_head, predict_heads, probability_of
from dualtask_lite.engine.predict import Prediction, in_cascade_order
from dualtask_lite.engine.run import Model
from dualtask_lite.method.convert import logit_to_distance
from dualtask_lite.method.losses import NEAR_SURFACE
from dualtask_lite.method.views import random_view

VIEWS = 4  # random-convolution views to compare with the image
#: Description of each warning of a case; all are at least 0, and higher means less certain.
WARNINGS = {
    "heads_probability": "share of the probability on which the two heads differ",
    "heads_mask": "1 - Dice of the two heads' masks",
    "heads_mm": "mean difference of the two heads' distances near a surface (mm)",
    "views_probability": "share of the probability on which the views differ from the image",
    "views_mask": "1 - Dice of the views' masks and the image's",
    "unsure": "share of the probability that is undecided (from one prediction; for comparison)",
}


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Disagreement of the predictions on one scan; it uses no label.

    Attributes:
        target: of the last stage, to which all numbers refer.
        heads: (X, Y, Z) float32 on the scan's grid, |probability of one head - the other's|; None if one is untrained.
        heads_mm: (X, Y, Z) float32, |distance of one head - the other's| in mm; None if one is untrained.
        views: (X, Y, Z) float32, mean |probability on a view - on the image|.
        warnings: the numbers of the case, by the names of ``WARNINGS``; those of the heads only with two.

    All maps are 0 outside the region of the last stage.
    """

    target: str
    heads: np.ndarray | None
    heads_mm: np.ndarray | None
    views: np.ndarray
    warnings: dict[str, float]


def disagreement(
    models: Sequence[Model], scan: Scan, prediction: Prediction, *, views: int = VIEWS, seed: int = 0
) -> Disagreement:
    """Compare the two heads of the last stage, and its predictions on random views with that on the image.

    Args:
        models: of the cascade.
        scan: the CT; its label is not used.
        prediction: the result of ``predict_scan`` for these models and this scan.
        views: number of random-convolution views, drawn by the model's settings, also when its training used none.
        seed: of the views.
    """
    model = in_cascade_order(models)[-1]
    last = prediction.report[-1]
    box = Box(last["box_start"], last["box_stop"])
    image = cut_region(scan, model.settings, box, labelled=False).image.to(next(model.net.parameters()).device)
    by_heads, head = _maps(model, image, box), output_head(model.settings)
    probability = probability_of(by_heads, head)  # of this stage, also where the prediction is an earlier stage's
    measured = {"unsure": _ratio(np.minimum(probability, 1 - probability).sum(), probability.sum())}
    maps: dict[str, np.ndarray] = {}
    if model.settings.has_segmentation and model.settings.has_distance:
        maps, head_warnings = _compare_heads(model, by_heads)
        measured |= head_warnings
    drawn = model.settings.views
    draw = partial(random_view, kernel_sizes=drawn.kernel_sizes, max_blend=drawn.max_blend)
    generator = torch.Generator().manual_seed(seed)
    on_views = [probability_of(_maps(model, draw(image[None], generator)[0], box), head) for _ in range(views)]
    measured["views_probability"] = float(np.mean([_share(probability, other) for other in on_views]))
    measured["views_mask"] = float(np.mean([_mask_difference(model, probability, other) for other in on_views]))
    maps["views"] = np.mean([np.abs(other - probability) for other in on_views], axis=0)
    whole = {name: _in_volume(values, box, scan.shape) for name, values in maps.items()}
    warnings = {name: measured[name] for name in WARNINGS if name in measured}
    return Disagreement(prediction.target, whole.get("heads"), whole.get("heads_mm"), whole["views"], warnings)


@dataclass(frozen=True)
class RiskCoverage:
    """Mean error of the remaining cases when an expert takes over those with the highest warnings.

    Attributes:
        coverage: share of the cases that are kept, in the order of their warnings, up to all.
        risk: mean error of the kept cases.
        area: mean of ``risk`` (AURC); lower is better.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float


def risk_coverage(risk: Sequence[float], warning: Sequence[float]) -> RiskCoverage:
    """Measure the mean error against the share of cases that is kept.

    The best curve is that of a perfect warning, ``risk_coverage(risk, risk)``. With a useless warning the curve is the
    mean error at every coverage. Cases with the same warning are in random order; the curve is the expected value.

    Args:
        risk: error of each case.
        warning: of each case; the cases with the lowest warnings are kept first.

    Raises:
        ValueError: without a case, when a value is not finite, or when the lengths differ.

    Source: Geifman and El-Yaniv 2017, Selective classification for deep neural networks (arXiv 1705.08500).
    """
    errors, warnings = np.asarray(risk, np.float64), np.asarray(warning, np.float64)
    if errors.ndim != 1 or errors.shape != warnings.shape or not errors.size:
        raise ValueError(
            f"risk has shape {errors.shape}, warning {warnings.shape}; give one number of each for each case"
        )
    if not (np.isfinite(errors).all() and np.isfinite(warnings).all()):
        raise ValueError("risk or warning is not finite")
    _, tie, size = np.unique(warnings, return_inverse=True, return_counts=True)
    expected = (np.bincount(tie, errors) / size)[np.sort(tie)]  # of the next case, in the order of the warnings
    kept = np.arange(1, len(errors) + 1)
    curve = np.cumsum(expected) / kept
    return RiskCoverage(kept / len(errors), curve, float(curve.mean()))


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation; NaN when one variable is constant or there are fewer than three pairs."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def surface_error_mm(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of each voxel of the predicted surface to the true surface.

    Args:
        prediction: (X, Y, Z) bool.
        truth: (X, Y, Z) bool, on the same grid.
        spacing: mm.

    Returns:
        (X, Y, Z) float32, mm; NaN outside the predicted surface, and everywhere when the truth is empty. A surface
        consists of the voxels of a mask with a face on the outside, as in ``engine.judging.metrics``.
    """
    error = np.full(prediction.shape, np.nan, np.float32)
    box = Box.around(prediction | truth)
    if box and truth.any():  # outside the box of both there is no surface
        surface = _surface(prediction[box.slices])
        error[box.slices][surface] = distance_transform_edt(~_surface(truth[box.slices]), sampling=spacing)[surface]
    return error


@dataclass(frozen=True)
class Assessment:
    """How useful the warnings are.

    Attributes:
        rows: one for each case: ``case``, ``centre``, ``risk`` (1 - Dice), the warnings, and ``spearman_voxels``, the
            correlation of the heads' difference in mm with the surface error in mm over the ``surface_voxels``.
        summary: warning -> ``spearman`` with the risk, ``aurc``, and ``gain``: 0 if useless, 1 if perfect.
        perfect: the area under the risk-coverage curve of a perfect warning.
        useless: the same for a useless warning, which is the mean risk.
        spearman_voxels: median over the cases in which it is defined.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, dict[str, float]]
    perfect: float
    useless: float
    spearman_voxels: float


def judge(scan: Scan, prediction: Prediction, result: Disagreement) -> dict[str, Any]:
    """One row of ``Assessment.rows``: the error of a prediction beside its warnings."""
    assert scan.label is not None
    mask, truth = prediction.targets[result.target].mask, target_mask(scan.label, result.target)
    error = surface_error_mm(mask, truth, scan.spacing)
    measured = np.isfinite(error)
    correlation = float("nan")
    if result.heads_mm is not None:
        correlation = spearman(result.heads_mm[measured], error[measured])
    return {
        "case": scan.id,
        "centre": scan.centre,
        "risk": 1 - dice(mask, truth),
        **result.warnings,
        "surface_voxels": int(measured.sum()),
        "spearman_voxels": correlation,
    }


def summarise_warnings(rows: Sequence[dict[str, Any]]) -> Assessment:
    """Summarise the rows of all cases."""
    risks = [row["risk"] for row in rows]
    perfect, useless = risk_coverage(risks, risks).area, float(np.mean(risks))
    summary = {}
    for name in (name for name in WARNINGS if name in rows[0]):
        warnings = [row[name] for row in rows]
        area = risk_coverage(risks, warnings).area
        gain = (useless - area) / (useless - perfect) if useless > perfect else float("nan")
        summary[name] = {"spearman": spearman(warnings, risks), "aurc": area, "gain": gain}
    defined = [row["spearman_voxels"] for row in rows if np.isfinite(row["spearman_voxels"])]
    return Assessment(list(rows), summary, perfect, useless, float(np.median(defined)) if defined else float("nan"))


def _maps(model: Model, image: torch.Tensor, box: Box) -> np.ndarray:
    """What both heads say of a box, from one forward pass a window: see ``predict_heads``."""
    return resample(predict_heads(model.net, image, model.settings).cpu(), box.shape).numpy()


def _compare_heads(model: Model, maps: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Maps and warnings of the two heads, compared as probabilities and as distances in mm."""
    objective = model.settings.objective
    by_segmentation, distance, by_distance = maps
    logit = torch.logit(torch.from_numpy(by_segmentation).clamp(0, 1))  # resampling can round to just above 1
    converted = logit_to_distance(logit, objective.tau, objective.band).numpy()
    difference_mm = np.abs(converted - distance)
    near = np.minimum(np.abs(converted), np.abs(distance)) < NEAR_SURFACE * objective.band
    return {"heads": np.abs(by_segmentation - by_distance), "heads_mm": difference_mm}, {
        "heads_probability": _share(by_segmentation, by_distance),
        "heads_mask": _mask_difference(model, by_segmentation, by_distance),
        "heads_mm": float(difference_mm[near].mean()) if near.any() else 0.0,
    }


def _mask_difference(model: Model, a: np.ndarray, b: np.ndarray) -> float:
    """1 - Dice of the masks of two probability maps; 0 for two empty masks."""
    threshold = model.settings.prediction.threshold
    return 1 - dice(a >= threshold, b >= threshold)


def _share(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the total of two probability maps on which they differ: 0 for equal maps, 1 without overlap."""
    return _ratio(np.abs(a - b).sum(), (a + b).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _in_volume(values: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Put the values of a box into a volume of zeros."""
    whole = np.zeros(shape, np.float32)
    whole[box.slices] = values
    return whole


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask)
