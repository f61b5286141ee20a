"""From a CT to a mask and a distance on its own grid: the cascade, test-time flips, components.

At test time nothing is known of the label: the first stage sees the whole volume, each later one the box
around what the stages before it found (METHOD, section Data).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, combinations, takewhile
from typing import Any, TypeVar

import cc3d
import numpy as np
import torch

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.grid import resample
from dualtask_lite.cases.masks import Box, dice
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.medical import sliding_window_inference
from dualtask_lite.engine.run import Model
from dualtask_lite.engine.training.devices import autocast
from dualtask_lite.engine.training.memory import is_out_of_memory, report_out_of_memory
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.convert import distance_to_probability, logit_to_distance
from dualtask_lite.method.distance import from_band
from dualtask_lite.method.network import DualTaskNet

# A fine stage repeats on the box of its own last prediction until two rounds agree, or so often.
AGREEMENT, ROUNDS = 0.92, 4
# Windows in a batch: with batch size 1 PyTorch runs four times slower on a CPU.
WINDOWS = 4


#: Whose probability may make the mask: that of the segmentation head, that of the distance head, or their mean.
HEADS = ("segmentation", "distance", "mean")


@dataclass(frozen=True)
class TargetPrediction:
    """What the last stage of a target found, on the scan's RAS+ grid.

    Attributes:
        mask: (X, Y, Z) bool.
        probability: (X, Y, Z) float32, of the head that made the mask; 0 outside the stage's box.
        distance_mm: (X, Y, Z) float32, signed distance; outside the stage's box, the band.
        masks: the mask that each head gives, from the same forward pass and in the same box; by name (``HEADS``).
    """

    mask: np.ndarray
    probability: np.ndarray
    distance_mm: np.ndarray
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """What the cascade says of one scan, on its RAS+ grid.

    Attributes:
        targets: target -> what was found, in the order of the cascade; each is scored on its own mask.
        report: per stage its box, rounds, agreement, volume in ml, seconds, and a warning where it fell back.
    """

    targets: dict[str, TargetPrediction]
    report: list[dict[str, Any]]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the masks must know: the stages that went on with less than they should have."""
        return [stage["warning"] for stage in self.report if stage.get("warning")]

    @property
    def target(self) -> str:
        """What the last stage predicts."""
        return list(self.targets)[-1]

    @property
    def probability(self) -> np.ndarray:
        """(X, Y, Z) float32, of the last stage's target."""
        return self.targets[self.target].probability

    @property
    def distance_mm(self) -> np.ndarray:
        """(X, Y, Z) float32, of the last stage's target."""
        return self.targets[self.target].distance_mm

    @cached_property
    def mask(self) -> np.ndarray:
        """(X, Y, Z) uint8 label map to write and show: 1 pancreas, and 2 tumour painted over it."""
        merged = np.zeros(self.probability.shape, np.uint8)
        for target, value in (("pancreas", 1), ("tumour", 2)):
            if target in self.targets:
                merged[self.targets[target].mask] = value
        return merged


@dataclass(frozen=True)
class StageReport:
    """How one stage went: ``looked_in`` says which box it was given, ``warning`` whether it had to fall back."""

    stage: str
    looked_in: str
    box_start: tuple[int, int, int]
    box_stop: tuple[int, int, int]
    rounds: int
    agreement: float | None
    volume_ml: float
    seconds: float
    warning: str | None = None


def predict_scan(models: Sequence[Model], scan: Scan) -> Prediction:
    """Run the trained stages in the order of the cascade on one scan.

    Args:
        models: any subset of the four stages, one model each.
        scan: the CT; its label is not used.

    Raises:
        DualTaskError: when no model is given, two are of the same stage, or the memory does not suffice.
    """
    models = in_cascade_order(models)
    found: dict[str, TargetPrediction] = {}
    report = []
    too_large = f"{scan.id}: predicting its {' x '.join(map(str, scan.shape))} voxels takes more memory than there is"
    with report_out_of_memory(too_large, "end what else runs here, choose --device cpu, or crop the CT"):
        for model in models:
            target, (outcome, stage_report) = STAGES[model.settings.stage].target, _run_stage(model, scan, found)
            found[target] = outcome
            report.append(asdict(stage_report))
    return Prediction(found, report)


def in_cascade_order(models: Sequence[Model]) -> list[Model]:
    """The models sorted by stage; refuses none and doubles."""
    if not models:
        raise DualTaskError("no model was given", "name at least one run folder")
    stages = [model.settings.stage for model in models]
    if len(set(stages)) < len(stages):
        raise DualTaskError(f"two models are of the same stage ({', '.join(stages)})", "give one model a stage")
    order = list(STAGES)
    return sorted(models, key=lambda model: order.index(model.settings.stage))


def _run_stage(model: Model, scan: Scan, found: dict[str, TargetPrediction]) -> tuple[TargetPrediction, StageReport]:
    """One stage, with the rounds of a stage that looks around its own target."""
    started = time.perf_counter()
    stage, threshold = STAGES[model.settings.stage], model.settings.prediction.threshold
    box, looked_in = _stage_box(model.settings, scan, found)
    before = found.get(stage.target)
    warning = _fallback(model.settings, found, looked_in)
    previous = before.mask if before and before.mask.any() else None
    kept: tuple[BoxMaps, np.ndarray] | None = None
    agreed: float | None = None
    for rounds in range(1, ROUNDS + 1):
        maps = predict_box(model, scan, box)
        mask = maps.mask_of(maps.answer, threshold)
        if previous is not None and not mask.any():  # what was found before stays, with its maps
            agreed = 0.0
            warning = f"{model.settings.stage} found nothing in its box, so what was found before it is kept"
            break
        kept = maps, mask
        if stage.region != stage.target:
            break
        if previous is not None and (agreed := dice(mask, previous)) >= AGREEMENT:
            break
        next_box = Box.around(mask, stage.margin, scan.spacing)
        if next_box is None or rounds == ROUNDS:
            break
        previous, box = mask, next_box
    if kept:
        found_maps, answer = kept
        others = {head: found_maps.mask_of(head, threshold) for head in found_maps.heads if head != found_maps.answer}
        masks = {head: others.get(head, answer) for head in found_maps.heads}
        outcome = TargetPrediction(answer, found_maps.probability, found_maps.distance_mm, masks)
    else:
        assert before is not None
        outcome = replace(before, masks={head: before.masks.get(head, before.mask) for head in maps.heads})
    volume = float(outcome.mask.sum() * np.prod(scan.spacing) / 1000)
    seconds = round(time.perf_counter() - started, 2)
    shown = None if agreed is None else round(agreed, 4)
    summary = StageReport(
        model.settings.stage, looked_in, box.start, box.stop, rounds, shown, round(volume, 3), seconds, warning
    )
    return outcome, summary


def _regions_of(settings: Settings) -> tuple[str, ...]:
    """The organs around which a stage looks, the one that it should first."""
    return {"tumour": ("tumour", "pancreas"), "pancreas": ("pancreas",), "volume": ()}[STAGES[settings.stage].region]


def _stage_box(settings: Settings, scan: Scan, found: dict[str, TargetPrediction]) -> tuple[Box, str]:
    """Where a stage looks; what was not found is replaced by the next larger region, never by the label (trap 13)."""
    margin = STAGES[settings.stage].margin
    for region in _regions_of(settings):
        if region in found and (box := Box.around(found[region].mask, margin, scan.spacing)):
            return box, region
    return Box.whole(scan.shape), "volume"


def _fallback(settings: Settings, found: dict[str, TargetPrediction], looked_in: str) -> str | None:
    """The warning for a stage that looks elsewhere than it should, because a stage before it found nothing."""
    better = list(takewhile(lambda region: region != looked_in, _regions_of(settings)))
    missing = [region for region in better if region in found]
    if not missing:
        return None
    where = "the whole volume" if looked_in == "volume" else f"the box around the {looked_in}"
    return f"no {missing[0]} was found before {settings.stage}, so it looked in {where}"


@dataclass(frozen=True)
class BoxMaps:
    """What a stage predicts in a box of a scan, by head; arrays of the whole scan are made when they are asked for."""

    inside: np.ndarray  # (2 or 3, x, y, z) of the box: see predict_heads
    box: Box
    shape: tuple[int, int, int]  # of the scan
    answer: str  # the head that makes the mask
    band: float

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that can make a mask."""
        return HEADS if len(self.inside) == 3 else HEADS[:1]

    @property
    def probability(self) -> np.ndarray:
        """(X, Y, Z) float32 of the head that makes the mask; 0 outside the box."""
        return self.of_head(self.answer)

    @property
    def distance_mm(self) -> np.ndarray:
        """(X, Y, Z) float32; the band outside the box."""
        return self._whole(self.inside[1], self.band)

    def of_head(self, head: str) -> np.ndarray:
        """(X, Y, Z) float32: the probability by one of ``heads``."""
        return self._whole(probability_of(self.inside, head), 0.0)

    def mask_of(self, head: str, threshold: float) -> np.ndarray:
        """(X, Y, Z) bool: the large components of what one of ``heads`` finds; the threshold is above 0."""
        return self._whole(keep_large_components(probability_of(self.inside, head) >= threshold), False)

    def _whole(self, inside: np.ndarray, outside: float) -> np.ndarray:
        whole = np.full(self.shape, outside, inside.dtype)
        whole[self.box.slices] = inside
        return whole


def predict_box(model: Model, scan: Scan, box: Box) -> BoxMaps:
    """Predict a stage's target on the scan's grid; the network sees only ``box``."""
    region = cut_region(scan, model.settings, box, labelled=False)
    maps = predict_heads(model.net, region.image, model.settings).cpu()
    settings = model.settings
    return BoxMaps(resample(maps, box.shape).numpy(), box, scan.shape, output_head(settings), settings.objective.band)


def output_head(settings: Settings) -> str:
    """The head whose probability makes the mask; without a trained distance head there is only one."""
    return settings.prediction.heads if settings.has_distance else "segmentation"


Maps = TypeVar("Maps", np.ndarray, torch.Tensor)


def probability_of(maps: Maps, head: str) -> Maps:
    """(X, Y, Z): the probability that one of ``HEADS`` gives, of the maps of ``predict_heads``."""
    if head == "mean":
        return (maps[0] + maps[2]) / 2
    return maps[0] if head == "segmentation" else maps[2]


def predict_region(net: DualTaskNet, image: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Probability (of the head that makes the mask) and distance in mm, (2, X, Y, Z); see ``predict_heads``."""
    maps = predict_heads(net, image, settings)
    return torch.stack([probability_of(maps, output_head(settings)), maps[1]])


@torch.no_grad()
def predict_heads(net: DualTaskNet, image: torch.Tensor, settings: Settings) -> torch.Tensor:
    """What both heads say of an image (1, X, Y, Z) on the working grid, from one forward pass a window.

    Returns:
        (2, X, Y, Z): probability by the segmentation head, signed distance in mm; where a distance head was trained,
        (3, X, Y, Z), with the probability by the distance. Without it, the distance is that of the segmentation.

    Windows overlap and are blended with Gaussian weights (MONAI); the result is the mean over axis flips. When the
    device runs out of memory, it tries fewer windows at a time, then smaller windows, which see less context: that
    comes with a warning.
    """
    batch = image[None].to(next(net.parameters()).device)
    was_training = net.training
    net.eval()
    window, at_once = list(settings.sample.patch), WINDOWS
    try:
        while True:
            try:
                return _mean_over_flips(net, batch, window, at_once, settings)
            except RuntimeError as error:
                if not is_out_of_memory(error) or (at_once == 1 and max(window) <= 8):
                    raise
            if at_once > 1:
                at_once //= 2
            else:
                window = [max(8, side // 16 * 8) for side in window]
                sides = " x ".join(map(str, window))
                warnings.warn(f"out of memory: predicts in windows of {sides} voxels, one at a time", stacklevel=2)
    finally:
        net.train(was_training)


def flips(count: int) -> list[tuple[int, ...]]:
    """The first ``count`` of the 8 combinations of flipped axes of a (B, C, X, Y, Z) tensor."""
    axes = (2, 3, 4)
    return list(chain.from_iterable(combinations(axes, n) for n in range(4)))[:count]


def _mean_over_flips(
    net: DualTaskNet, batch: torch.Tensor, window: Sequence[int], at_once: int, settings: Settings
) -> torch.Tensor:
    """(1, 1, X, Y, Z) -> (2 or 3, X, Y, Z), see ``predict_heads``."""
    total = torch.zeros(2 + settings.has_distance, *batch.shape[2:], device=batch.device)
    air: list[torch.Tensor] = []
    for axes in flips(settings.prediction.flips):  # a CT is large: one flip at a time
        maps = sliding_window_inference(
            batch.flip(axes),
            roi_size=window,
            sw_batch_size=at_once,
            predictor=lambda crops: _maps_of_windows(net, crops, settings, air),
            overlap=settings.prediction.overlap,
            mode="gaussian",
        )
        assert isinstance(maps, torch.Tensor)
        total += maps.flip(axes)[0]
    return total / settings.prediction.flips


def _maps_of_windows(
    net: DualTaskNet, crops: torch.Tensor, settings: Settings, air: list[torch.Tensor]
) -> torch.Tensor:
    """``_maps`` of windows; those of nothing but air, which hold the same zeros, go through the network once.

    Args:
        net: the network.
        crops: (B, 1, X, Y, Z).
        settings: of the model.
        air: filled with the maps of an empty window when the first one comes.
    """
    holds_body = crops.flatten(1).any(1)
    if holds_body.all():
        return _maps(net, crops, settings)
    if not air:
        air.append(_maps(net, torch.zeros_like(crops[:1]), settings))
    maps = air[0].repeat(len(crops), 1, 1, 1, 1)
    if holds_body.any():
        maps[holds_body] = _maps(net, crops[holds_body], settings)
    return maps


def _maps(net: DualTaskNet, crops: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(B, 1, X, Y, Z) -> (B, 2 or 3, X, Y, Z), see ``predict_heads``."""
    with autocast(settings, crops.device):
        outputs = net(crops)
    logit = outputs.seg.float()
    tau, band = settings.objective.tau, settings.objective.band
    if not settings.has_distance:
        return torch.cat([torch.sigmoid(logit), logit_to_distance(logit, tau, band)], 1)
    distance = from_band(outputs.distance.float(), band)
    return torch.cat([torch.sigmoid(logit), distance, distance_to_probability(distance, tau)], 1)


def keep_large_components(mask: np.ndarray) -> np.ndarray:
    """Drop 26-connected components smaller than half of the largest, in whatever order they come (trap 8)."""
    box = Box.around(mask)
    if box is None:
        return mask
    labels, count = cc3d.connected_components(np.ascontiguousarray(mask[box.slices], dtype=np.uint8), return_N=True)
    if count < 2:
        return mask
    sizes = cc3d.statistics(labels, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    kept = np.zeros_like(mask)
    kept[box.slices] = (sizes >= sizes.max() / 2)[labels]
    return kept
