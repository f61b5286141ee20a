"""The objective: a weighted sum of named terms (METHOD, section Objective).

Each term is a function of plain tensors that a notebook can call on its own. :class:`Objective` computes the
terms with a weight and adds them up. A term is computed for each sample and averaged over the batch, so that a
sample without a lesion never switches the term off for the others (trap 9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from dualtask_lite.method.contrast import Core, core_and_shell, draw_voxels, gather, nt_xent
from dualtask_lite.method.convert import distance_to_probability, logit_to_distance
from dualtask_lite.method.distance import BAND, from_band, to_band
from dualtask_lite.method.network import Outputs

TAU = 2.0  # mm, about one voxel: the temperature of the task conversion
TEMPERATURE = 0.05  # of the feature contrast
SLICE_VOXELS = 10  # an axial slice with more tumour voxels than this counts as a tumour slice
NEAR_SURFACE = 0.25  # a voxel within this share of the band counts as near the surface

PAPER_WEIGHTS: Mapping[str, float] = {
    "seg": 1.0,
    "dist": 1.0,
    "conv_mask": 1.0,  # distance -> mask
    "conv_distance": 1.0,  # mask -> distance
    "out": 1.0,
    "feat": 0.1,
    "slice": 1.0,
}
TERMS = tuple(PAPER_WEIGHTS)


class Target(NamedTuple):
    """The ground truth of a batch; all views of a sample share it."""

    mask: torch.Tensor  # (B, 1, X, Y, Z) 0 or 1, float
    distance_mm: torch.Tensor  # (B, 1, X, Y, Z) signed, negative inside


def _alike(predicted: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in one floating type: a sum over the voxels of a patch overflows in half precision.

    Raises:
        ValueError: when their shapes differ; PyTorch would compare each sample with the truth of all others.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction {tuple(predicted.shape)} and truth {tuple(truth.shape)} differ in shape")
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    return predicted.to(dtype), truth.to(dtype)


def dice_loss(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice of each sample, averaged over the batch (Milletari et al. 2016, arXiv 1606.04797).

    Args:
        probability: (B, 1, X, Y, Z) in [0, 1].
        mask: (B, 1, X, Y, Z) 0 or 1.

    Raises:
        ValueError: when the shapes differ; so does each term.
    """
    probability, mask = _alike(probability, mask)
    overlap = (probability * mask).flatten(1).sum(1)  # (B,)
    size = (probability + mask).flatten(1).sum(1)  # (B,)
    return 1 - ((2 * overlap + 1e-6) / (size + 1e-6)).mean()


def seg_term(logit: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L_seg: soft Dice plus binary cross-entropy; both (B, 1, X, Y, Z)."""
    logit, mask = _alike(logit, mask)
    return dice_loss(logit.sigmoid(), mask) + F.binary_cross_entropy_with_logits(logit, mask)


def distance_term(
    regressed: torch.Tensor, distance_mm: torch.Tensor, *, band: float = BAND, surface_weight: float = 1.0
) -> torch.Tensor:
    """L_dist: mean absolute error of the regressed distance, in bands.

    Args:
        regressed: (B, 1, X, Y, Z) distance / band, in [-1, 1].
        distance_mm: (B, 1, X, Y, Z) the truth; an empty mask is far everywhere, and the network learns that too.
        band: mm.
        surface_weight: weight of the voxels nearer to the surface than a quarter of the band; the others have 1.
    """
    regressed, distance_mm = _alike(regressed, distance_mm)
    error = (regressed - to_band(distance_mm, band)).abs()
    near = distance_mm.abs() < NEAR_SURFACE * band
    weight = torch.where(near, surface_weight, 1.0).to(error)
    return ((error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()


def conv_mask_term(
    regressed: torch.Tensor, mask: torch.Tensor, *, tau: float = TAU, band: float = BAND
) -> torch.Tensor:
    """L_conv, distance -> mask: Dice loss of the regressed distance, converted to a mask, against the true mask.

    Args:
        regressed: (B, 1, X, Y, Z) distance / band.
        mask: (B, 1, X, Y, Z) 0 or 1.
        tau: temperature in mm; far below one voxel the gradient vanishes (trap 1).
        band: mm.
    """
    regressed, mask = _alike(regressed, mask)
    return dice_loss(distance_to_probability(from_band(regressed, band), tau), mask)


def conv_distance_term(
    logit: torch.Tensor, distance_mm: torch.Tensor, *, tau: float = TAU, band: float = BAND
) -> torch.Tensor:
    """L_conv, mask -> distance: error of the logit, converted to a distance, within the band of the true surface.

    Args:
        logit: (B, 1, X, Y, Z) of the segmentation.
        distance_mm: (B, 1, X, Y, Z) the truth.
        tau: temperature in mm.
        band: mm.

    Returns:
        Mean absolute error in bands; 0 for a sample with no voxel within the band.
    """
    logit, distance_mm = _alike(logit, distance_mm)
    within = distance_mm.abs() < band
    error = (logit_to_distance(logit, tau, band) - distance_mm).abs() / band
    return ((error * within).flatten(1).sum(1) / within.flatten(1).sum(1).clamp_min(1)).mean()


def out_term(
    logit: torch.Tensor,
    other_logit: torch.Tensor,
    regressed: torch.Tensor | None = None,
    other_regressed: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_out: mean squared difference between the probabilities of two views, plus that of their distances.

    Args:
        logit: (B, 1, X, Y, Z) of the first view.
        other_logit: of the second view.
        regressed: (B, 1, X, Y, Z) distance / band of the first view; ``None`` without a distance head.
        other_regressed: of the second view.
    """
    logit, other_logit = _alike(logit, other_logit)
    difference = F.mse_loss(logit.sigmoid(), other_logit.sigmoid())
    if regressed is None or other_regressed is None:
        return difference
    return difference + F.mse_loss(*_alike(regressed, other_regressed))


def feat_term(
    embedding: torch.Tensor,
    mask: torch.Tensor,
    distance_mm: torch.Tensor,
    *,
    generator: torch.Generator,
    temperature: float = TEMPERATURE,
    core: Core = "deepest",
) -> torch.Tensor:
    """L_feat: NT-Xent between core and shell, with one cell of each from every axial slice that has it.

    The views of a sample are stacked along the batch and enter one contrast, so that the embeddings of a core
    must agree between the views. Each view draws its own cells.

    Args:
        embedding: (B, C, x, y, z).
        mask: (B, 1, X, Y, Z) the lesions.
        distance_mm: (B, 1, X, Y, Z) their signed distance.
        generator: on the CPU.
        temperature: of the contrast.
        core: see :func:`~dualtask_lite.method.contrast.core_and_shell`.
    """
    # One transfer from the device: cells are drawn on the CPU, whose generator it is.
    regions = torch.stack(core_and_shell(mask, distance_mm, generator=generator, core=core)).cpu()
    positive, negative = (gather(embedding, *draw_voxels(region, generator)) for region in regions)
    return nt_xent(positive, negative, temperature)


def slice_term(slices: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L_slice: binary cross-entropy of "this axial slice holds more than 10 tumour voxels".

    Args:
        slices: (B, Z) logits.
        mask: (B, 1, X, Y, Z) 0 or 1.
    """
    holds_tumour = mask.sum((1, 2, 3)) > SLICE_VOXELS  # (B, Z)
    return F.binary_cross_entropy_with_logits(slices, holds_tumour.to(slices))


class Objective:
    """The weighted sum of the terms; a term without a weight, or with a weight of 0, is never computed.

    Args:
        weights: term -> weight; ``TERMS`` lists the names, ``PAPER_WEIGHTS`` holds those of the paper.
        tau: temperature of the task conversion, in mm.
        band: mm at which the regressed distance is clipped.
        surface_weight: weight of the distance error near the surface.
        temperature: of the feature contrast.
        core: definition of a lesion's core in the contrast.

    Raises:
        ValueError: for an unknown term, a weight below 0, no term at all, or a scale that is not above 0.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float] = PAPER_WEIGHTS,
        tau: float = TAU,
        band: float = BAND,
        surface_weight: float = 1.0,
        temperature: float = TEMPERATURE,
        core: Core = "deepest",
    ) -> None:
        if unknown := sorted(set(weights) - set(TERMS)):
            raise ValueError(f"unknown term {unknown[0]!r}; the terms are {', '.join(TERMS)}")
        if negative := [term for term, weight in weights.items() if not weight >= 0]:  # or NaN
            raise ValueError(f"the weight of {negative[0]} is {weights[negative[0]]}; give 0 to switch a term off")
        self.weights = {term: weights[term] for term in TERMS if weights.get(term, 0) > 0}
        if not self.weights:
            raise ValueError("no term has a weight above 0; switch at least one on, such as seg")
        if not (tau > 0 and band > 0 and temperature > 0):
            raise ValueError(f"tau {tau}, band {band} and temperature {temperature} must all be above 0")
        self.tau, self.band, self.surface_weight = tau, band, surface_weight
        self.temperature, self.core = temperature, core

    def __call__(
        self, views: Sequence[Outputs], target: Target, *, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Compute the terms that have a weight, each as a scalar before weighting.

        Args:
            views: outputs of the network for one or two views of the same batch.
            target: ground truth of the batch.
            generator: on the CPU; draws the cells of the contrast.

        Raises:
            ValueError: when a term needs a second view, or a head that the network lacks.
        """
        if len(views) not in (1, 2):
            raise ValueError(f"got {len(views)} views; give the outputs of one or two")
        # Views stacked along the batch are samples like any other: the batch mean is also the mean over views.
        mask, distance_mm = (truth.repeat(len(views), 1, 1, 1, 1) for truth in target)

        def head(name: str) -> torch.Tensor:
            outputs = [getattr(view, name) for view in views]
            if any(output is None for output in outputs):
                raise ValueError(f"a term needs the head {name!r}; build the network with it or switch that term off")
            return torch.cat(outputs)

        def out() -> torch.Tensor:
            if len(views) < 2:
                raise ValueError("the term out compares two views; give two, or set its weight to 0")
            first, second = views
            return out_term(first.seg, second.seg, first.distance, second.distance)

        compute: dict[str, Callable[[], torch.Tensor]] = {
            "seg": lambda: seg_term(head("seg"), mask),
            "dist": lambda: distance_term(
                head("distance"), distance_mm, band=self.band, surface_weight=self.surface_weight
            ),
            "conv_mask": lambda: conv_mask_term(head("distance"), mask, tau=self.tau, band=self.band),
            "conv_distance": lambda: conv_distance_term(head("seg"), distance_mm, tau=self.tau, band=self.band),
            "out": out,
            "feat": lambda: feat_term(
                head("embedding"),
                mask,
                distance_mm,
                generator=generator,
                temperature=self.temperature,
                core=self.core,
            ),
            "slice": lambda: slice_term(head("slices"), mask),
        }
        return {term: compute[term]() for term in self.weights}

    def total(self, terms: Mapping[str, torch.Tensor], *, ramp: float | Mapping[str, float] = 1.0) -> torch.Tensor:
        """Add up the weighted terms.

        Args:
            terms: the result of calling the objective.
            ramp: share of its weight that a term has at this step. One number holds for all terms but ``seg``
                and ``dist``, because the other terms build on these two; or term -> share, 1 where missing.
        """
        if not isinstance(ramp, Mapping):
            ramp = dict.fromkeys(set(TERMS) - {"seg", "dist"}, ramp)
        parts = [self.weights[term] * ramp.get(term, 1.0) * value for term, value in terms.items()]
        return torch.stack(parts).sum()
