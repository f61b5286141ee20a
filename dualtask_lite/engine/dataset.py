"""A case becomes training samples: region of interest -> augmented patch with its distance.

Sample number ``i`` of a run is the same whatever process makes it and whenever: all its randomness comes
from ``(seed, i)``. That is what makes a run resumable to the bit without storing any generator's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    OneOf,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
)
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.engine.config import STAGES, Augment, Settings, Stage
from dualtask_lite.engine.grid import Box, resample, window, working_shape
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.distance import signed_distance

# Largest reach of a rotated and scaled patch, as a multiple of the patch.
_REACH = 1.5


@dataclass(frozen=True)
class Region:
    """What a stage sees of one case, on the working grid."""

    case_id: str
    image: torch.Tensor  # (1, X, Y, Z) in [0, 1]
    mask: torch.Tensor | None  # (1, X, Y, Z), 0 or 1: the stage's target
    spacing: tuple[float, float, float]  # mm, of this grid
    box: Box  # where it lies on the RAS+ grid of the scan


def target_mask(label: np.ndarray, target: str) -> np.ndarray:
    """The binary target of a stage: a tumour voxel counts as pancreas when the target is the pancreas."""
    return label == 2 if target == "tumour" else label >= 1


def cut_region(scan: Scan, settings: Settings, box: Box) -> Region:
    """Cut a box from a scan and bring it to the working grid."""
    wanted = working_shape(box.shape, scan.spacing, settings.sample.spacing)
    image = resample(window(torch.from_numpy(scan.volume[box.slices].copy())[None]), wanted)
    mask = None
    if scan.label is not None:
        target = target_mask(scan.label[box.slices], STAGES[settings.stage].target)
        mask = (resample(torch.from_numpy(target)[None], wanted) >= 0.5).to(torch.uint8)
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
            if box := Box.around(target_mask(label, region), stage.margin, scan.spacing):
                return box
    return Box.whole(scan.shape)


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
        self.transform = augmentation(settings.augment, settings.sample.patch)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.indices[position]
        sample = self.settings.sample
        region = self.regions[draw_case(index, len(self.regions), self.settings.seed)]
        rng = np.random.default_rng((self.settings.seed, index))
        if region.mask is None:
            raise DualTaskError(f"{region.case_id}: has no label", "train on labelled cases only")
        centre = draw_centre(region.mask[0], sample.foreground, rng)
        reach = [int(np.ceil(_REACH * side)) for side in sample.patch]
        self.transform.set_random_state(seed=int(rng.integers(2**31)))
        moved = self.transform(
            {"image": crop(region.image, centre, reach), "mask": crop(region.mask, centre, reach).float()}
        )
        # Plain tensors: MONAI's own, which carry their history, slow down every operation of the network.
        image, mask = (convert_to_tensor(moved[key], track_meta=False).contiguous() for key in ("image", "mask"))
        return {
            "image": image.clamp(0, 1),
            "mask": mask,
            "distance_mm": signed_distance(mask[None] > 0.5, region.spacing)[0],
            "case_id": region.case_id,
            "index": index,
        }


def draw_case(index: int, cases: int, seed: int) -> int:
    """Which case sample ``index`` comes from: every case once an epoch, in an order that changes."""
    epoch, place = divmod(index, cases)
    return int(np.random.default_rng((seed, epoch, cases)).permutation(cases)[place])


def draw_centre(mask: torch.Tensor, foreground: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """Centre of a patch: a voxel of the target with probability ``foreground``, else any voxel of the region."""
    voxels = torch.nonzero(mask)
    if len(voxels) and rng.random() < foreground:
        x, y, z = voxels[int(rng.integers(len(voxels)))].tolist()
    else:
        x, y, z = (int(rng.integers(n)) for n in mask.shape)
    return x, y, z


def crop(volume: torch.Tensor, centre: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Cut ``size`` voxels about a centre from (C, X, Y, Z); what lies outside the volume is 0, which is air."""
    out = volume.new_zeros((volume.shape[0], *size))
    inside: list[slice] = [slice(None)]
    onto: list[slice] = [slice(None)]
    for middle, side, extent in zip(centre, size, volume.shape[1:], strict=True):
        start = middle - side // 2
        low, high = max(0, start), min(extent, start + side)
        inside.append(slice(low, max(low, high)))
        onto.append(slice(low - start, max(low, high) - start))
    out[tuple(onto)] = volume[tuple(inside)]
    return out


def augmentation(settings: Augment, patch: Sequence[int]) -> Compose:
    """MONAI's transforms for one sample: one resampling for scale, rotation and elastic together."""
    keys, modes = ("image", "mask"), ("bilinear", "nearest")
    angle = float(np.deg2rad(settings.rotation))
    geometry: dict[str, Any] = {
        "keys": keys,
        "mode": modes,
        "padding_mode": "zeros",
        "spatial_size": tuple(patch),
        "prob": 1.0,
        "rotate_range": (angle,) * 3,
        "scale_range": (settings.scale,) * 3,
    }
    return Compose(
        [
            OneOf(
                [
                    RandAffined(**geometry),
                    Rand3DElasticd(sigma_range=(5, 8), magnitude_range=(100, 300), **geometry),
                ],
                weights=[1 - settings.elastic, settings.elastic],
            ),
            *(RandFlipd(keys, prob=settings.flip, spatial_axis=axis) for axis in range(3)),
            RandAdjustContrastd("image", prob=settings.gamma, gamma=(0.7, 1.5)),
            RandGaussianNoised("image", prob=settings.noise, std=0.05),
        ]
    )
