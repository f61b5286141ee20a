"""Predict mask and distance of a CT on its own grid: the stages of the cascade, their boxes, connected components.

The label is not used: the first stage processes the whole volume, each later stage the box around the prediction of an
earlier one (METHOD, section Data).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import cc3d
import numpy as np

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.grid import resample
from dualtask_lite.cases.masks import Box, dice
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.inference import output_head, predict_heads, probability_of, trained_heads
from dualtask_lite.engine.run import Model
from dualtask_lite.engine.training.memory import report_out_of_memory
from dualtask_lite.errors import DualTaskError

# A fine stage repeats on the box around its last prediction until two rounds agree (Dice), or for at most 4 rounds.
AGREEMENT, ROUNDS = 0.92, 4


@dataclass(frozen=True)
class TargetPrediction:
    """Prediction of the last stage of a target, on the scan's RAS+ grid.

    Attributes:
        mask: (X, Y, Z) bool.
        probability: (X, Y, Z) float32, of the head that gives the mask; 0 outside the stage's box.
        distance_mm: (X, Y, Z) float32, signed distance; outside the stage's box, the band.
        masks: trained head (``inference.trained_heads``) -> its mask, from the same forward pass and in the same box.
    """

    mask: np.ndarray
    probability: np.ndarray
    distance_mm: np.ndarray
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """Prediction of the cascade for one scan, on its RAS+ grid.

    Attributes:
        targets: target -> its prediction, in the order of the cascade; each is evaluated by its own mask.
        report: for each stage the values of :class:`StageReport`.
    """

    targets: dict[str, TargetPrediction]
    report: list[dict[str, Any]]

    @property
    def warnings(self) -> list[str]:
        """Warnings of stages that used another box than intended, or an earlier prediction."""
        return [stage["warning"] for stage in self.report if stage.get("warning")]

    @property
    def target(self) -> str:
        """Target of the last stage."""
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
        """(X, Y, Z) uint8 label map to write and show: 1 pancreas, 2 tumour, which replaces pancreas."""
        merged = np.zeros(self.probability.shape, np.uint8)
        for target, value in (("pancreas", 1), ("tumour", 2)):
            if target in self.targets:
                merged[self.targets[target].mask] = value
        return merged


@dataclass(frozen=True)
class StageReport:
    """Summary of one stage.

    Attributes:
        stage: its name.
        looked_in: the organ around which its box lies, or ``volume``.
        box_start: first voxel of the last box, on the scan's RAS+ grid.
        box_stop: one voxel behind that box.
        rounds: number of predictions, each in a new box.
        agreement: Dice of the last two predictions.
        volume_ml: of the mask.
        seconds: of all rounds.
        warning: why the stage used another box than intended, or an earlier prediction.
    """

    stage: str
    looked_in: str
    box_start: tuple[int, int, int]
    box_stop: tuple[int, int, int]
    rounds: int
    agreement: float | None
    volume_ml: float
    seconds: float
    warning: str | None = None


def predict_scan(
    models: Sequence[Model], scan: Scan, earlier: Mapping[str, TargetPrediction] | None = None
) -> Prediction:
    """Run the trained stages in the order of the cascade on one scan.

    Args:
        models: any subset of the four stages, one model each.
        scan: the CT; its label is not used.
        earlier: target -> prediction of the stages before these models, if they were already run on this scan.

    Raises:
        DualTaskError: when no model is given, two are of the same stage, or the memory does not suffice.
    """
    models = in_cascade_order(models)
    predictions = dict(earlier or {})
    report = []
    sides = " x ".join(map(str, scan.shape))
    too_large = f"{scan.id}: predicting its {sides} voxels takes more memory than is available"
    with report_out_of_memory(too_large, "close other programs, choose --device cpu, or crop the CT"):
        for model in models:
            prediction, stage_report = _run_stage(model, scan, predictions)
            predictions[STAGES[model.settings.stage].target] = prediction
            report.append(asdict(stage_report))
    return Prediction(predictions, report)


def in_cascade_order(models: Sequence[Model]) -> list[Model]:
    """Sort the models by stage.

    Raises:
        DualTaskError: when no model is given, or two are of the same stage.
    """
    if not models:
        raise DualTaskError("no model was given", "name at least one run folder")
    stages = [model.settings.stage for model in models]
    if len(set(stages)) < len(stages):
        raise DualTaskError(f"two models are of the same stage ({', '.join(stages)})", "give one model for each stage")
    order = list(STAGES)
    return sorted(models, key=lambda model: order.index(model.settings.stage))


def _run_stage(
    model: Model, scan: Scan, predictions: dict[str, TargetPrediction]
) -> tuple[TargetPrediction, StageReport]:
    """Predict one stage; a stage whose box lies around its own target repeats, see ``AGREEMENT``.

    Args:
        model: of the stage.
        scan: the CT.
        predictions: target -> prediction of the stages before.
    """
    started = time.perf_counter()
    stage, threshold = STAGES[model.settings.stage], model.settings.prediction.threshold
    box, looked_in = _stage_box(model.settings, scan, predictions)
    earlier = predictions.get(stage.target)
    warning = _fallback_warning(model.settings, predictions, looked_in)
    previous = earlier.mask if earlier and earlier.mask.any() else None
    accepted: tuple[BoxMaps, np.ndarray] | None = None  # maps and mask of the last round that counts
    agreement: float | None = None
    for rounds in range(1, ROUNDS + 1):
        maps = predict_box(model, scan, box)
        mask = maps.mask_of(maps.output_head, threshold)
        if previous is not None and not mask.any():  # an empty mask does not replace an earlier prediction
            agreement = 0.0
            warning = f"{model.settings.stage} found nothing in its box, so the earlier prediction is kept"
            break
        accepted = maps, mask
        if stage.region != stage.target:
            break
        if previous is not None and (agreement := dice(mask, previous)) >= AGREEMENT:
            break
        next_box = Box.around(mask, stage.margin, scan.spacing)
        if next_box is None or rounds == ROUNDS:
            break
        previous, box = mask, next_box
    if accepted:
        prediction = _target_prediction(*accepted, threshold)
    else:
        assert earlier is not None
        prediction = replace(earlier, masks={head: earlier.masks.get(head, earlier.mask) for head in maps.heads})
    volume = float(prediction.mask.sum() * np.prod(scan.spacing) / 1000)
    stage_report = StageReport(
        stage=model.settings.stage,
        looked_in=looked_in,
        box_start=box.start,
        box_stop=box.stop,
        rounds=rounds,
        agreement=None if agreement is None else round(agreement, 4),
        volume_ml=round(volume, 3),
        seconds=round(time.perf_counter() - started, 2),
        warning=warning,
    )
    return prediction, stage_report


def _target_prediction(maps: BoxMaps, mask: np.ndarray, threshold: float) -> TargetPrediction:
    """The prediction of a target from the maps of a box, and from the mask of the head that gives the output."""
    masks = {head: mask if head == maps.output_head else maps.mask_of(head, threshold) for head in maps.heads}
    return TargetPrediction(mask, maps.probability, maps.distance_mm, masks)


def _stage_box(settings: Settings, scan: Scan, predictions: dict[str, TargetPrediction]) -> tuple[Box, str]:
    """Box and region of a stage; for a missing organ the next larger region, never the label (trap 13)."""
    stage = STAGES[settings.stage]
    for region in stage.regions:
        if region in predictions and (box := Box.around(predictions[region].mask, stage.margin, scan.spacing)):
            return box, region
    return Box.whole(scan.shape), "volume"


def _fallback_warning(settings: Settings, predictions: dict[str, TargetPrediction], looked_in: str) -> str | None:
    """The warning for a stage that uses a larger region, because an earlier stage found nothing."""
    preferred = takewhile(lambda region: region != looked_in, STAGES[settings.stage].regions)
    not_found = [region for region in preferred if region in predictions]
    if not not_found:
        return None
    where = "the whole volume" if looked_in == "volume" else f"the box around the {looked_in}"
    return f"no {not_found[0]} was found before {settings.stage}, so it looked in {where}"


@dataclass(frozen=True)
class BoxMaps:
    """Prediction of a stage in a box of a scan; arrays of the whole scan are created only on access."""

    box_maps: np.ndarray  # (2 or 3, x, y, z) in the box: see predict_heads
    box: Box
    shape: tuple[int, int, int]  # of the scan
    heads: tuple[str, ...]  # those that can give a mask
    output_head: str  # the one that gives it
    band: float

    @property
    def probability(self) -> np.ndarray:
        """(X, Y, Z) float32 of the head that gives the mask; 0 outside the box."""
        return self.of_head(self.output_head)

    @property
    def distance_mm(self) -> np.ndarray:
        """(X, Y, Z) float32; the band outside the box."""
        return self._whole(self.box_maps[1], self.band)

    def of_head(self, head: str) -> np.ndarray:
        """(X, Y, Z) float32: the probability by one of ``heads``."""
        return self._whole(probability_of(self.box_maps, head), 0.0)

    def mask_of(self, head: str, threshold: float) -> np.ndarray:
        """(X, Y, Z) bool: the large components where the probability by one of ``heads`` reaches the threshold."""
        return self._whole(keep_large_components(probability_of(self.box_maps, head) >= threshold), False)

    def _whole(self, box_values: np.ndarray, outside: float) -> np.ndarray:
        """An array of the whole scan: the values of the box, and ``outside`` around it."""
        whole = np.full(self.shape, outside, box_values.dtype)
        whole[self.box.slices] = box_values
        return whole


def predict_box(model: Model, scan: Scan, box: Box) -> BoxMaps:
    """Predict the target of a stage on the scan's grid; the network processes only ``box``.

    Raises:
        DualTaskError: when an output is not finite, since NaN would look like a mask in which nothing was found.
    """
    region = cut_region(scan, model.settings, box, labelled=False)
    maps = predict_heads(model.net, region.image, model.settings).cpu()
    if not maps.isfinite().all():
        raise DualTaskError(
            f"{scan.id}: the answer of {model.path} is not finite",
            "fetch this model again, or train it again (on a GPU with machine.precision=32-true)",
        )
    settings = model.settings
    heads, head, band = trained_heads(settings), output_head(settings), settings.objective.band
    return BoxMaps(resample(maps, box.shape).numpy(), box, scan.shape, heads, head, band)


def keep_large_components(mask: np.ndarray) -> np.ndarray:
    """Remove 26-connected components smaller than half of the largest, independent of their order (trap 8)."""
    box = Box.around(mask)
    if box is None:
        return mask
    labels, count = cc3d.connected_components(np.ascontiguousarray(mask[box.slices], dtype=np.uint8), return_N=True)
    if count < 2:
        return mask
    sizes = cc3d.statistics(labels, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    large = np.zeros_like(mask)
    large[box.slices] = (sizes >= sizes.max() / 2)[labels]
    return large
