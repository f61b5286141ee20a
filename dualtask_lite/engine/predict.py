"""From a CT to a mask and a distance on its own grid: the cascade, test-time flips, components.

At test time nothing is known of the label: the first stage sees the whole volume, each later one the box
around what the stages before it found (METHOD, section Data).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from typing import Any

import cc3d
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.masks import Box, dice
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.data.grid import resample
from dualtask_lite.engine.run import Model
from dualtask_lite.engine.training.devices import autocast
from dualtask_lite.engine.training.memory import is_out_of_memory, report_out_of_memory
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.convert import distance_to_probability, logit_to_distance
from dualtask_lite.method.distance import from_band
from dualtask_lite.method.network import DualTaskNet

# A fine stage repeats on the box of its own last prediction until two rounds agree, or so often.
AGREEMENT, ROUNDS = 0.92, 4
# Windows that go through the network together: on a CPU, PyTorch takes a way of a quarter of the speed for a lone one.
WINDOWS = 4


@dataclass(frozen=True)
class Prediction:
    """What the cascade says of one scan, on its RAS+ grid.

    Attributes:
        mask: (X, Y, Z) uint8, 0 background, 1 pancreas, 2 tumour.
        distance_mm: (X, Y, Z) float32, signed distance to the last stage's target; outside its box, the band.
        probability: (X, Y, Z) float32, of the last stage's target; 0 outside its box.
        target: what the last stage predicts.
        report: per stage its box, rounds, agreement, volume in ml and seconds.
    """

    mask: np.ndarray
    distance_mm: np.ndarray
    probability: np.ndarray
    target: str
    report: list[dict[str, Any]]


@dataclass(frozen=True)
class StageReport:
    """How one stage went: ``looked_in`` says which box it was given, and so whether it had to fall back."""

    stage: str
    looked_in: str
    box_start: tuple[int, int, int]
    box_stop: tuple[int, int, int]
    rounds: int
    agreement: float | None
    volume_ml: float
    seconds: float


def predict_scan(models: Sequence[Model], scan: Scan) -> Prediction:
    """Run the trained stages in the order of the cascade on one scan.

    Args:
        models: any subset of the four stages, one model each.
        scan: the CT; its label is not used.

    Raises:
        DualTaskError: when no model is given, two are of the same stage, or the memory does not suffice.
    """
    models = in_cascade_order(models)
    found: dict[str, np.ndarray] = {}  # target -> mask on the scan's grid
    report = []
    too_large = f"{scan.id}: predicting its {' x '.join(map(str, scan.shape))} voxels takes more memory than there is"
    with report_out_of_memory(too_large, "end what else runs here, choose --device cpu, or crop the CT"):
        for model in models:
            probability, distance, mask, stage_report = _run_stage(model, scan, found)
            found[STAGES[model.settings.stage].target] = mask
            report.append(asdict(stage_report))
    merged = np.zeros(scan.shape, np.uint8)
    for target, value in (("pancreas", 1), ("tumour", 2)):
        if target in found:
            merged[found[target]] = value
    return Prediction(merged, distance, probability, STAGES[models[-1].settings.stage].target, report)


def in_cascade_order(models: Sequence[Model]) -> list[Model]:
    """The models sorted by stage; refuses none and doubles."""
    if not models:
        raise DualTaskError("no model was given", "name at least one run folder")
    stages = [model.settings.stage for model in models]
    if len(set(stages)) < len(stages):
        raise DualTaskError(f"two models are of the same stage ({', '.join(stages)})", "give one model a stage")
    order = list(STAGES)
    return sorted(models, key=lambda model: order.index(model.settings.stage))


def _run_stage(
    model: Model, scan: Scan, found: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, StageReport]:
    """One stage, with the rounds of a stage that looks around its own target."""
    started = time.perf_counter()
    stage = STAGES[model.settings.stage]
    box, looked_in = _stage_box(model.settings, scan, found)
    previous = found.get(stage.target)
    agreed = None
    for rounds in range(1, ROUNDS + 1):
        probability, distance = predict_box(model, scan, box)
        mask = keep_large_components(probability >= model.settings.prediction.threshold)
        if not mask.any() and previous is not None:
            mask = previous  # a fine stage that finds nothing leaves what the stage before it found
        if stage.region != stage.target:
            break
        if previous is not None and (agreed := dice(mask, previous)) >= AGREEMENT:
            break
        next_box = Box.around(mask, stage.margin, scan.spacing)
        if next_box is None or rounds == ROUNDS:
            break
        previous, box = mask, next_box
    volume = float(mask.sum() * np.prod(scan.spacing) / 1000)
    seconds = round(time.perf_counter() - started, 2)
    shown = None if agreed is None else round(agreed, 4)
    summary = StageReport(
        model.settings.stage, looked_in, box.start, box.stop, rounds, shown, round(volume, 3), seconds
    )
    return probability, distance, mask, summary


def _stage_box(settings: Settings, scan: Scan, found: dict[str, np.ndarray]) -> tuple[Box, str]:
    """Where a stage looks; what was not found is replaced by the next larger region, never by the label (trap 13)."""
    stage = STAGES[settings.stage]
    wider = {"tumour": ("tumour", "pancreas"), "pancreas": ("pancreas",), "volume": ()}[stage.region]
    for region in wider:
        if region in found and (box := Box.around(found[region], stage.margin, scan.spacing)):
            return box, region
    return Box.whole(scan.shape), "volume"


def predict_box(model: Model, scan: Scan, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Probability and distance (mm) of a stage's target on the scan's grid; only ``box`` is looked at."""
    region = cut_region(scan, model.settings, box)
    maps = predict_region(model.net, region.image, model.settings).cpu()
    inside = resample(maps, box.shape).numpy()
    probability = np.zeros(scan.shape, np.float32)
    distance = np.full(scan.shape, model.settings.objective.band, np.float32)
    probability[box.slices], distance[box.slices] = inside[0], inside[1]
    return probability, distance


@torch.no_grad()
def predict_region(net: DualTaskNet, image: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Probability and distance in mm, (2, X, Y, Z), of an image (1, X, Y, Z) on the working grid.

    Windows overlap and are blended with Gaussian weights (MONAI); the result is the mean over axis flips. When the
    device runs out of memory the windows are halved and it tries again.
    """
    device = next(net.parameters()).device
    batch = image[None].to(device)
    was_training = net.training
    net.eval()
    window = list(settings.sample.patch)
    try:
        while True:
            try:
                total = torch.zeros(2, *image.shape[1:], device=device)  # not all flips at once: a CT is large
                for axes in flips(settings.prediction.flips):
                    total += _windows(net, batch, window, axes, settings)
                return total / settings.prediction.flips
            except RuntimeError as error:
                if not is_out_of_memory(error) or max(window) <= 8:
                    raise
                window = [max(8, side // 16 * 8) for side in window]
    finally:
        net.train(was_training)


def flips(count: int) -> list[tuple[int, ...]]:
    """The first ``count`` of the 8 combinations of flipped axes of a (B, C, X, Y, Z) tensor."""
    axes = (2, 3, 4)
    return list(chain.from_iterable(combinations(axes, n) for n in range(4)))[:count]


def _windows(
    net: DualTaskNet, batch: torch.Tensor, window: Sequence[int], axes: tuple[int, ...], settings: Settings
) -> torch.Tensor:
    maps = sliding_window_inference(
        batch.flip(axes),
        roi_size=window,
        sw_batch_size=WINDOWS,
        predictor=lambda crops: _maps(net, crops, settings),
        overlap=settings.prediction.overlap,
        mode="gaussian",
    )
    assert isinstance(maps, torch.Tensor)
    return maps.flip(axes)[0]


def _maps(net: DualTaskNet, crops: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(B, 1, X, Y, Z) -> (B, 2, X, Y, Z): the probability that the chosen heads give, and the distance in mm."""
    with autocast(settings, crops.device):
        outputs = net(crops)
    logit = outputs.seg.float()
    tau, band = settings.objective.tau, settings.objective.band
    by_segmentation = torch.sigmoid(logit)
    if not settings.has_distance:  # then the segmentation says both
        return torch.cat([by_segmentation, logit_to_distance(logit, tau, band)], 1)
    distance = from_band(outputs.distance.float(), band)
    by_distance = distance_to_probability(distance, tau)
    probability = {
        "segmentation": by_segmentation,
        "distance": by_distance,
        "mean": (by_segmentation + by_distance) / 2,
    }[settings.prediction.heads]
    return torch.cat([probability, distance], 1)


def keep_large_components(mask: np.ndarray) -> np.ndarray:
    """Drop 26-connected components smaller than half of the largest, in whatever order they come (trap 8)."""
    labels, count = cc3d.connected_components(np.ascontiguousarray(mask, dtype=np.uint8), return_N=True)
    if count < 2:
        return mask
    sizes = cc3d.statistics(labels, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    return (sizes >= sizes.max() / 2)[labels]
