"""A case becomes training samples: region of interest -> augmented patch with its distance.

Sample number ``i`` of a run is the same whatever process makes it and whenever: all its randomness comes
from ``(seed, i)``. That is what makes a run resumable to the bit without storing any generator's state.
"""

from __future__ import annotations

import math
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
    """What a stage sees of one case, on the working grid."""

    case_id: str
    image: torch.Tensor  # (1, X, Y, Z) in [0, 1]
    mask: torch.Tensor | None  # (1, X, Y, Z), 0 or 1: the stage's target
    spacing: tuple[float, float, float]  # mm, of this grid
    box: Box  # where it lies on the RAS+ grid of the scan
    target: torch.Tensor | None = None  # (N,) places of the mask's voxels in the flattened mask, where they are known


def cut_region(scan: Scan, settings: Settings, box: Box, *, labelled: bool = True) -> Region:
    """Cut a box from a scan and bring it to the working grid; a prediction needs no mask (``labelled=False``)."""
    wanted = working_shape(box.shape, scan.spacing, settings.sample.spacing)
    image = resample(window(torch.from_numpy(scan.volume[box.slices].copy())[None]), wanted)
    mask = None
    if labelled and scan.label is not None:
        target = target_mask(scan.label[box.slices], STAGES[settings.stage].target)
        mask = resample_mask(torch.from_numpy(target)[None], wanted)
    have, got = np.multiply(box.shape, scan.spacing), np.asarray(wanted)
    x, y, z = (float(s) for s in have / got)
    return Region(scan.id, image, mask, (x, y, z), box)


def training_region(case: Case, settings: Settings) -> Region:
    """The region of a labelled case that a stage trains on: its box comes from the case's own label.

    Raises:
        DualTaskError: when the case cannot be read or has no label.
    """
    scan = case.load()
    if scan.label is None:
        raise DualTaskError(f"{case.id}: has no label", "train on labelled cases only, or leave it out with data.cases")
    return cut_region(scan, settings, training_box(scan, STAGES[settings.stage]))


def training_box(scan: Scan, stage: Stage) -> Box:
    """The box that a stage sees in training; the next larger region stands in for an organ that is not there."""
    label = scan.label
    if stage.region != "volume" and label is not None:
        regions = ("tumour", "pancreas") if stage.region == "tumour" else ("pancreas",)
        for region in regions:
            if box := Box.around(target_mask(label, region), stage.margin + stage.jitter, scan.spacing):
                return box
    return Box.whole(scan.shape)


def show_box(region: Region, jitter: float, rng: np.random.Generator) -> torch.Tensor:
    """Hide what lies outside a box around the target whose faces are drawn anew: (1, X, Y, Z).

    The margin of the region is the widest; each face comes nearer by up to twice ``jitter`` mm, but never into the
    target. Else a network learns that a lesion lies in the middle of what it is shown, which is not so when the box
    comes from a prediction.
    """
    if jitter == 0 or region.mask is None:
        return region.image
    target = Box.around(region.mask[0].numpy(), 0, region.spacing)
    if target is None:
        return region.image
    shown: list[slice] = []
    for step, side, first, last in zip(region.spacing, region.mask.shape[1:], target.start, target.stop, strict=True):
        low, high = (rng.uniform(0, 2 * jitter, 2) / step).astype(int)
        shown.append(slice(min(low, first), max(side - high, last)))
    image = torch.zeros_like(region.image)
    x, y, z = shown
    image[:, x, y, z] = region.image[:, x, y, z]
    return image


class Samples(Dataset[dict[str, Any]]):
    """The numbered training samples of a run.

    Args:
        regions: one for each training case.
        settings: of the run.
        indices: the numbers of the samples that this process makes, in order.

    Each item is a dict: ``image``, ``mask``, ``distance_mm`` (1, X, Y, Z) of ``settings.sample.patch``, ``case_id`` and
    ``index``.
    """

    def __init__(self, regions: Sequence[Region], settings: Settings, indices: Iterable[int]) -> None:
        self.regions = list(regions)
        self.settings = settings
        self.indices = list(indices)
        if unlabelled := [region.case_id for region in self.regions if region.mask is None]:
            raise DualTaskError(f"{unlabelled[0]}: has no label", "train on labelled cases only")
        self.masks = [region.mask for region in self.regions if region.mask is not None]
        self.targets = [  # looked for once, not a sample
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
        # Without surroundings the distance is wrong where the organ goes on outside; beyond the band it is clipped.
        halo = [math.ceil(self.settings.objective.band / step) for step in region.spacing]
        whole = [side + 2 * more for side, more in zip(sample.patch, halo, strict=True)]
        change = draw_change(self.settings.augment, whole, rng)
        shown = show_box(region, STAGES[self.settings.stage].jitter, rng)
        image, mask = move(shown, mask, centre, sample.patch, region.spacing, change, halo)
        inner = (slice(None), *(slice(more, more + side) for more, side in zip(halo, sample.patch, strict=True)))
        return {
            "image": recolour(image, change),
            "mask": mask[inner].contiguous(),
            "distance_mm": signed_distance(mask[None], region.spacing)[0][inner].contiguous(),
            "case_id": region.case_id,
            "index": index,
        }


def draw_case(index: int, cases: int, seed: int) -> int:
    """Which case sample ``index`` comes from: every case once an epoch, in an order that changes."""
    epoch, place = divmod(index, cases)
    return int(np.random.default_rng((seed, epoch, cases)).permutation(cases)[place])


def draw_centre(
    shape: Sequence[int], target: torch.Tensor, foreground: float, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Centre of a patch: a voxel of the target with probability ``foreground``, else any voxel of the region.

    Args:
        shape: (X, Y, Z) of the region.
        target: the target's voxels, as places in the flattened region.
        foreground: in [0, 1].
        rng: the only source of randomness.
    """
    if len(target) and rng.random() < foreground:
        place = int(target[int(rng.integers(len(target)))])
    else:
        place = int(rng.integers(np.prod(shape)))
    x, y, z = (int(i) for i in np.unravel_index(place, tuple(shape)))
    return x, y, z
