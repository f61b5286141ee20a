"""Training samples of a case: region of interest, augmented patch, signed distance.

All random numbers of sample ``i`` follow from ``(seed, i)``, so it does not depend on the process or the time at which
it is generated. So a resumed run gives identical results without a stored generator state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.grid import resample, resample_mask, window, working_shape
from dualtask_lite.cases.masks import Box, target_mask
from dualtask_lite.engine.config import STAGES, Settings, Stage
from dualtask_lite.engine.data.augment import draw_change, move, recolour
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.distance import signed_distance


@dataclass(frozen=True)
class Region:
    """The part of a case that a stage processes, on the working grid."""

    case_id: str
    image: torch.Tensor  # (1, X, Y, Z) in [0, 1]
    mask: torch.Tensor | None  # (1, X, Y, Z), 0 or 1: the stage's target
    spacing: tuple[float, float, float]  # mm, of this grid
    box: Box  # on the RAS+ grid of the scan
    target: torch.Tensor | None = None  # (N,) indices of the target's voxels in the flattened mask, if already computed


def cut_region(scan: Scan, settings: Settings, box: Box, *, labelled: bool = True) -> Region:
    """Cut a box from a scan and resample it to the working grid; a prediction needs no mask (``labelled=False``)."""
    shape = working_shape(box.shape, scan.spacing, settings.sample.spacing)
    image = resample(window(torch.from_numpy(scan.volume[box.slices].copy())[None]), shape)
    mask = None
    if labelled and scan.label is not None:
        target = target_mask(scan.label[box.slices], STAGES[settings.stage].target)
        mask = resample_mask(torch.from_numpy(target)[None], shape)
    x, y, z = (float(mm) for mm in np.multiply(box.shape, scan.spacing) / np.asarray(shape))
    return Region(scan.id, image, mask, (x, y, z), box)


def labelled_cases(cases: Sequence[Case]) -> list[Case]:
    """The cases with a label; a warning names those that are left out, unless none has one."""
    labelled = [case for case in cases if case.label is not None]
    if labelled and (without := [case.id for case in cases if case.label is None]):
        names = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
        message = f"{len(without)} of {len(cases)} cases have no label and are left out: {names}"
        warnings.warn(message, stacklevel=2)
    return labelled


def training_region(case: Case, settings: Settings) -> Region:
    """The region of a labelled case that a stage trains on; its box comes from the label.

    Raises:
        DualTaskError: when the case cannot be read or has no label.
    """
    scan = case.load()
    if scan.label is None:
        raise DualTaskError(f"{case.id}: has no label", "train on labelled cases only, or leave it out with data.cases")
    return cut_region(scan, settings, training_box(scan, STAGES[settings.stage]))


def training_box(scan: Scan, stage: Stage) -> Box:
    """The box that a stage processes in training; its faces move by ``jitter`` for each sample."""
    return label_box(scan, stage, stage.margin + stage.jitter)


def label_box(scan: Scan, stage: Stage, margin: float) -> Box:
    """The box around a stage's organ by the label, ``margin`` mm larger; without the organ, the next larger region."""
    label = scan.label
    if label is not None:
        for region in stage.regions:
            if box := Box.around(target_mask(label, region), margin, scan.spacing):
                return box
    return Box.whole(scan.shape)


def crop_randomly(region: Region, jitter: float, rng: np.random.Generator) -> torch.Tensor:
    """Image (1, X, Y, Z) of a region, set to 0 outside a random box around the target.

    Each face of the box lies up to twice ``jitter`` mm inside the region, but never inside the target. Without this, a
    network learns that a lesion lies in the middle of its box, which is not true if the box comes from a prediction.
    """
    if jitter == 0 or region.mask is None:
        return region.image
    target = Box.around(region.mask[0].numpy(), 0, region.spacing)
    if target is None:
        return region.image
    visible: list[slice] = []
    for mm, side, start, stop in zip(region.spacing, region.mask.shape[1:], target.start, target.stop, strict=True):
        low, high = (rng.uniform(0, 2 * jitter, 2) / mm).astype(int)
        visible.append(slice(min(low, start), max(side - high, stop)))
    image = torch.zeros_like(region.image)
    x, y, z = visible
    image[:, x, y, z] = region.image[:, x, y, z]
    return image


class Samples(Dataset[dict[str, Any]]):
    """The numbered training samples of a run.

    Args:
        regions: one for each training case.
        settings: of the run.
        indices: of the samples that this process generates, in order.

    Each item is a dict: ``image``, ``mask``, ``distance_mm`` (1, X, Y, Z) of ``settings.sample.patch``, ``case_id`` and
    ``index``. Outside the region the image is air and the mask is 0, because a patch may reach beyond the scan. So a
    target that the scan cuts off ends at the scan's edge, which is a surface here, unlike in ``signed_distance``.
    """

    def __init__(self, regions: Sequence[Region], settings: Settings, indices: Iterable[int]) -> None:
        self.regions = list(regions)
        self.settings = settings
        self.indices = list(indices)
        if unlabelled := [region.case_id for region in self.regions if region.mask is None]:
            raise DualTaskError(f"{unlabelled[0]}: has no label", "train on labelled cases only")
        self.masks = [region.mask for region in self.regions if region.mask is not None]
        self.targets = [  # computed once, not for each sample
            mask.flatten().nonzero()[:, 0] if region.target is None else region.target
            for region, mask in zip(self.regions, self.masks, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.indices[position]
        sample = self.settings.sample
        case = draw_case(index, len(self.regions), self.settings.seed)
        region, mask = self.regions[case], self.masks[case]
        rng = np.random.default_rng((self.settings.seed, index))
        centre = draw_centre(mask.shape[1:], self.targets[case], sample.foreground, rng)
        # The distance near the border of the patch depends on the mask outside, up to the band, where it is clipped.
        halo = [math.ceil(self.settings.objective.band / mm) for mm in region.spacing]
        size_with_halo = [side + 2 * extra for side, extra in zip(sample.patch, halo, strict=True)]
        change = draw_change(self.settings.augment, size_with_halo, rng)
        cropped = crop_randomly(region, STAGES[self.settings.stage].jitter, rng)
        image, mask = move(cropped, mask, centre, sample.patch, region.spacing, change, halo)
        inner = (slice(None), *(slice(extra, extra + side) for extra, side in zip(halo, sample.patch, strict=True)))
        return {
            "image": recolour(image, change),
            "mask": mask[inner].contiguous(),
            "distance_mm": signed_distance(mask[None], region.spacing)[0][inner].contiguous(),
            "case_id": region.case_id,
            "index": index,
        }


def draw_case(index: int, cases: int, seed: int) -> int:
    """Number of the case of sample ``index``: every case once in each epoch, in a new random order."""
    epoch, position = divmod(index, cases)
    return int(np.random.default_rng((seed, epoch, cases)).permutation(cases)[position])


def draw_centre(
    shape: Sequence[int], target: torch.Tensor, foreground: float, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Centre of a patch: a voxel of the target with probability ``foreground``, else any voxel of the region.

    Args:
        shape: (X, Y, Z) of the region.
        target: indices of the target's voxels in the flattened region.
        foreground: probability, in [0, 1].
        rng: the only source of randomness.
    """
    if len(target) and rng.random() < foreground:
        voxel = int(target[int(rng.integers(len(target)))])
    else:
        voxel = int(rng.integers(np.prod(shape)))
    x, y, z = (int(i) for i in np.unravel_index(voxel, tuple(shape)))
    return x, y, z
