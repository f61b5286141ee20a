"""A whole training run in one short module: load, sample, step, predict one case, print its Dice.

    python -m dualtask_lite.minimal

This is ``engine.training`` for the pancreas in the whole abdomen, without settings, augmentation, views, devices,
checkpoints and messages. A test holds its losses equal to those of ``engine.training.train``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.grid import resample, resample_mask, window, working_shape
from dualtask_lite.cases.masks import dice, target_mask
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.method.convert import distance_to_probability
from dualtask_lite.method.distance import BAND, from_band, signed_distance
from dualtask_lite.method.losses import Objective, Target
from dualtask_lite.method.network import STRIDE, DualTaskNet

HELD_OUT, SEED = "C", 0
SPACING, PATCH = (5.0, 5.0, 5.0), (32, 32, 24)  # mm and voxels of the grid that the network works on
FOREGROUND = 0.9  # share of the patches centred on a voxel of the pancreas
STEPS, BATCH, RATE, DECAY, CLIP = 250, 4, 4e-3, 1e-4, 12.0
TERMS, TAU, SURFACE, RAMP = ("seg", "dist", "conv_mask", "conv_distance"), 3.0, 5.0, 0.3

Region = tuple[torch.Tensor, torch.Tensor, list[float]]  # image and mask (1, X, Y, Z), spacing in mm


def image_of(scan: Scan) -> torch.Tensor:
    """The CT on the working grid, (1, X, Y, Z) in [0, 1]."""
    shape = working_shape(scan.shape, scan.spacing, SPACING)
    return resample(window(torch.from_numpy(scan.volume.copy())[None]), shape)


def load(scan: Scan) -> Region:
    """Image, mask and spacing of a labelled scan on the working grid."""
    image = image_of(scan)
    mask = resample_mask(torch.from_numpy(target_mask(np.asarray(scan.label), "pancreas"))[None], image.shape[1:])
    return image, mask, [n * mm / m for n, mm, m in zip(scan.shape, scan.spacing, image.shape[1:], strict=True)]


def cut(volume: torch.Tensor, centre: Sequence[int], sides: Sequence[int]) -> torch.Tensor:
    """Cut a patch (1, x, y, z) around a voxel; outside the volume it is 0, so a target that is cut off ends there."""
    padded = F.pad(volume.float(), [side for side in reversed(sides) for _ in range(2)])
    x, y, z = (slice(at + side - side // 2, at + 2 * side - side // 2) for at, side in zip(centre, sides, strict=True))
    return padded[:, x, y, z]


def sample(regions: Sequence[Region], index: int) -> list[torch.Tensor]:
    """Image, mask and distance (mm) of a sample, each (1, x, y, z); all random choices follow from its index."""
    epoch, position = divmod(index, len(regions))
    order = np.random.default_rng((SEED, epoch, len(regions))).permutation(len(regions))
    image, mask, spacing = regions[order[position]]
    rng = np.random.default_rng((SEED, index))
    target = mask.flatten().nonzero()[:, 0]
    on_target = len(target) > 0 and rng.random() < FOREGROUND
    voxel = int(target[rng.integers(len(target))]) if on_target else int(rng.integers(mask.numel()))
    centre = [int(at) for at in np.unravel_index(voxel, mask.shape[1:])]
    halo = [math.ceil(BAND / mm) for mm in spacing]  # the distance depends on the mask up to the band around the patch
    around = cut(mask, centre, [side + 2 * more for side, more in zip(PATCH, halo, strict=True)])
    x, y, z = (slice(more, more + side) for more, side in zip(halo, PATCH, strict=True))
    distance = signed_distance(around[None], spacing)[0]
    return [cut(image, centre, PATCH), around[:, x, y, z], distance[:, x, y, z]]


def new_network() -> DualTaskNet:
    """A small network with a segmentation head and a distance head."""
    torch.manual_seed(SEED)
    net = DualTaskNet(8, standardise=False, projector=False, slice_head=False)
    return net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # faster convolutions


def train(net: DualTaskNet, regions: Sequence[Region]) -> Iterator[float]:
    """Train a network; yields the loss of each step."""
    objective = Objective(weights=dict.fromkeys(TERMS, 1.0), tau=TAU, surface_weight=SURFACE)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=DECAY)
    for step in range(STEPS):
        seed = np.random.SeedSequence((SEED, step, 1, 0)).generate_state(1, np.uint64)[0] >> 1
        torch.manual_seed(int(seed))  # for dropout
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS) ** 0.9
        samples = (sample(regions, index) for index in range(step * BATCH, (step + 1) * BATCH))
        image, mask, distance = map(torch.stack, zip(*samples, strict=True))  # (BATCH, 1, x, y, z)
        terms = objective([net.train()(image)], Target(mask, distance), generator=torch.Generator())
        loss = objective.total(terms, ramp=min(1.0, step / (RAMP * STEPS)))  # conversion terms grow from 0
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimiser.step()
        yield loss.item()


@torch.no_grad()
def predict(net: DualTaskNet, scan: Scan) -> np.ndarray:
    """The mask (X, Y, Z) on the grid of the scan: where the mean probability of both heads is at least one half."""
    image = image_of(scan)
    outputs = net.eval()(F.pad(image, [n for side in reversed(image.shape[1:]) for n in (0, -side % STRIDE)])[None])
    both = (outputs.seg.sigmoid() + distance_to_probability(from_band(outputs.distance), TAU)) / 2
    x, y, z = (slice(side) for side in image.shape[1:])
    return np.asarray(resample(both[0, :, x, y, z], scan.shape)[0] >= 0.5)


def main() -> None:
    """Train on all centres but one, and test on the first case of the held-out one."""
    cases = find_cases("phantom")
    net, regions = new_network(), [load(case.load()) for case in cases if case.centre != HELD_OUT]
    for step, loss in enumerate(train(net, regions)):
        if step % 25 == 0:
            print(f"step {step}: loss {loss:.3f}")
    scan = next(case for case in cases if case.centre == HELD_OUT).load()
    print(f"{scan.id}: Dice {dice(predict(net, scan), target_mask(np.asarray(scan.label), 'pancreas')):.3f}")


if __name__ == "__main__":
    main()
