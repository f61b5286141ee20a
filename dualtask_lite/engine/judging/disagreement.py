"""Knowing when it is wrong, without a label: two heads, or two views of one image, that do not agree.

Each case gets a few *warnings* (higher: less to be trusted), and each voxel as well. Whether a warning is worth
anything is then measured against the truth: does it rise with the error (Spearman), and how much does the average
error fall when the cases with the highest warnings go to a human (risk and coverage)?

Two heads of one network share all features but the last: they can be wrong together. A missed tumour on which all
agree gives no warning; that is a limit of the idea, and the numbers here show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import spearmanr

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.grid import resample
from dualtask_lite.cases.masks import Box, dice, target_mask
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.predict import Prediction, answering_head, in_cascade_order, predict_heads, probability_of
from dualtask_lite.engine.run import Model
from dualtask_lite.method.convert import logit_to_distance
from dualtask_lite.method.views import random_view

VIEWS = 4  # random-convolution views that a prediction is compared on
#: Each warning of a case in words; all are at least 0, and higher means less to be trusted.
WARNINGS = {
    "heads_probability": "share of the probability on which the two heads differ",
    "heads_mask": "1 - Dice of the two heads' masks",
    "heads_mm": "mean difference of the two heads' distances near a surface (mm)",
    "views_probability": "share of the probability on which the views differ from the image",
    "views_mask": "1 - Dice of the views' masks and the image's",
    "unsure": "share of the probability that is undecided (no second opinion; to compare with)",
}


@dataclass(frozen=True, eq=False)
class Disagreement:
    """How far the opinions on one scan differ; no label was used.

    Attributes:
        target: what the last stage predicts, which is what this is about.
        heads: (X, Y, Z) float32 on the scan's grid, |probability of one head - the other's|; None with one head.
        heads_mm: (X, Y, Z) float32, |distance of one head - the other's| in mm; None with one head.
        views: (X, Y, Z) float32, mean |probability on a view - on the image|.
        warnings: the numbers of the case, by the names of ``WARNINGS``; those of the heads only with two heads.

    Outside the box that the last stage looked at all maps are 0.
    """

    target: str
    heads: np.ndarray | None
    heads_mm: np.ndarray | None
    views: np.ndarray
    warnings: dict[str, float]


def disagreement(
    models: Sequence[Model], scan: Scan, prediction: Prediction, *, views: int = VIEWS, seed: int = 0
) -> Disagreement:
    """Compare the heads of the last stage with each other, and its answer on random views with that on the image.

    Args:
        models: of the cascade.
        scan: the CT; its label is not used.
        prediction: what ``predict_scan`` said of it with these models.
        views: how many random-convolution views.
        seed: of the views.
    """
    model = in_cascade_order(models)[-1]
    last = prediction.report[-1]
    box = Box(last["box_start"], last["box_stop"])
    image = cut_region(scan, model.settings, box, labelled=False).image.to(next(model.net.parameters()).device)
    probability = prediction.probability[box.slices]
    told = {"unsure": _ratio(np.minimum(probability, 1 - probability).sum(), probability.sum())}
    maps: dict[str, np.ndarray] = {}
    if model.settings.has_distance:
        maps, of_heads = _between_heads(model, _maps(model, image, box))
        told |= of_heads
    generator, head = torch.Generator().manual_seed(seed), answering_head(model.settings)
    seen = [probability_of(_maps(model, random_view(image[None], generator)[0], box), head) for _ in range(views)]
    told["views_probability"] = float(np.mean([_share(probability, other) for other in seen]))
    told["views_mask"] = float(np.mean([_masks_apart(model, probability, other) for other in seen]))
    maps["views"] = np.mean([np.abs(other - probability) for other in seen], axis=0)
    whole = {name: _placed(values, box, scan.shape) for name, values in maps.items()}
    warnings = {name: told[name] for name in WARNINGS if name in told}
    return Disagreement(prediction.target, whole.get("heads"), whole.get("heads_mm"), whole["views"], warnings)


@dataclass(frozen=True)
class RiskCoverage:
    """What is left when the cases with the highest warnings are handed to a human.

    Attributes:
        coverage: share of the cases that are kept, from the least warned one to all.
        risk: mean error of the cases kept.
        area: mean of ``risk`` (AURC); lower is better.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float


def risk_coverage(risk: Sequence[float], warning: Sequence[float]) -> RiskCoverage:
    """Measure how the mean error falls with the share of the cases that is kept.

    The best curve is that of a perfect warning, ``risk_coverage(risk, risk)``. A useless one is worth the mean error
    at any coverage. Among cases with the same warning every order is as likely: the expected value is taken.

    Args:
        risk: error of each case.
        warning: of each case; those with the lowest are kept first.

    Raises:
        ValueError: without a case, or when a value is not finite, or they are not equally many.

    Source: Geifman and El-Yaniv 2017, Selective classification for deep neural networks (arXiv 1705.08500).
    """
    errors, told = np.asarray(risk, np.float64), np.asarray(warning, np.float64)
    if errors.ndim != 1 or errors.shape != told.shape or not errors.size:
        raise ValueError(f"risk has shape {errors.shape}, warning {told.shape}; give one of each a case")
    if not (np.isfinite(errors).all() and np.isfinite(told).all()):
        raise ValueError("risk or warning is not finite")
    _, tie, size = np.unique(told, return_inverse=True, return_counts=True)
    expected = (np.bincount(tie, errors) / size)[np.sort(tie)]  # of the next case, in the order of the warnings
    kept = np.arange(1, len(errors) + 1)
    curve = np.cumsum(expected) / kept
    return RiskCoverage(kept / len(errors), curve, float(curve.mean()))


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Rank correlation; NaN when one side is constant or there are fewer than three pairs."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def surface_error_mm(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """How far each voxel of the predicted surface lies from the true surface.

    Args:
        prediction: (X, Y, Z) bool.
        truth: (X, Y, Z) bool, on the same grid.
        spacing: mm.

    Returns:
        (X, Y, Z) float32, mm; NaN off the predicted surface, and everywhere when the truth is empty. A surface is
        made of the voxels of a mask with a face on the outside, as in ``engine.judging.metrics``.
    """
    error = np.full(prediction.shape, np.nan, np.float32)
    box = Box.around(prediction | truth)
    if box and truth.any():  # outside the box of both there is no surface
        on_it = _surface(prediction[box.slices])
        error[box.slices][on_it] = distance_transform_edt(~_surface(truth[box.slices]), sampling=spacing)[on_it]
    return error


@dataclass(frozen=True)
class Assessment:
    """Whether the warnings were worth something.

    Attributes:
        rows: one a case: ``case``, ``centre``, ``risk`` (1 - Dice), the warnings, and ``spearman_voxels``, the
            correlation of the heads' difference in mm with the surface error in mm over the ``surface_voxels``.
        summary: warning -> ``spearman`` with the risk, ``aurc``, and ``gain``: 0 as good as no warning, 1 perfect.
        perfect: the area under the risk-coverage curve of a perfect warning.
        useless: the same of a useless one, which is the mean risk.
        spearman_voxels: median of that of the cases that have one.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, dict[str, float]]
    perfect: float
    useless: float
    spearman_voxels: float


def judge(scan: Scan, prediction: Prediction, opinions: Disagreement) -> dict[str, Any]:
    """One row: how wrong a prediction is, and what the warnings said of it."""
    assert scan.label is not None
    found, truth = prediction.targets[opinions.target].mask, target_mask(scan.label, opinions.target)
    error = surface_error_mm(found, truth, scan.spacing)
    measured = np.isfinite(error)
    correlation = float("nan")
    if opinions.heads_mm is not None:
        correlation = spearman(opinions.heads_mm[measured], error[measured])
    return {
        "case": scan.id,
        "centre": scan.centre,
        "risk": 1 - dice(found, truth),
        **opinions.warnings,
        "surface_voxels": int(measured.sum()),
        "spearman_voxels": correlation,
    }


def summarise_warnings(rows: Sequence[dict[str, Any]]) -> Assessment:
    """Put the rows of the cases together."""
    risks = [row["risk"] for row in rows]
    perfect, useless = risk_coverage(risks, risks).area, float(np.mean(risks))
    summary = {}
    for name in (name for name in WARNINGS if name in rows[0]):
        told = [row[name] for row in rows]
        area = risk_coverage(risks, told).area
        gain = (useless - area) / (useless - perfect) if useless > perfect else float("nan")
        summary[name] = {"spearman": spearman(told, risks), "aurc": area, "gain": gain}
    of_voxels = [row["spearman_voxels"] for row in rows if np.isfinite(row["spearman_voxels"])]
    return Assessment(list(rows), summary, perfect, useless, float(np.median(of_voxels)) if of_voxels else float("nan"))


def _maps(model: Model, image: torch.Tensor, box: Box) -> np.ndarray:
    """What both heads say of a box, from one forward pass a window: see ``predict_heads``."""
    return resample(predict_heads(model.net, image, model.settings).cpu(), box.shape).numpy()


def _between_heads(model: Model, maps: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Maps and warnings of the two heads, each in both of its forms: a probability, and a distance in mm."""
    objective = model.settings.objective
    by_segmentation, distance, by_distance = maps
    logit = torch.logit(torch.from_numpy(by_segmentation))
    converted = logit_to_distance(logit, objective.tau, objective.band).numpy()
    apart_mm = np.abs(converted - distance)
    near = np.minimum(np.abs(converted), np.abs(distance)) < objective.band
    return {"heads": np.abs(by_segmentation - by_distance), "heads_mm": apart_mm}, {
        "heads_probability": _share(by_segmentation, by_distance),
        "heads_mask": _masks_apart(model, by_segmentation, by_distance),
        "heads_mm": float(apart_mm[near].mean()) if near.any() else 0.0,
    }


def _masks_apart(model: Model, a: np.ndarray, b: np.ndarray) -> float:
    """1 - Dice of the masks of two probability maps; two empty ones are the same."""
    threshold = model.settings.prediction.threshold
    return 1 - dice(a >= threshold, b >= threshold)


def _share(a: np.ndarray, b: np.ndarray) -> float:
    """Share of two probability maps' mass on which they differ: 0 the same, 1 nothing in common."""
    return _ratio(np.abs(a - b).sum(), (a + b).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _placed(values: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Put the values of a box back into the whole volume."""
    whole = np.zeros(shape, np.float32)
    whole[box.slices] = values
    return whole


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask)
