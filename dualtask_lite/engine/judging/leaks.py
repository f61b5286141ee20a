"""Data leaks: how much three wrong protocols overestimate the score, each compared with an honest one.

No leak changes the code of the model, and published papers have used each of these protocols. Information that a model
has from the test cases is missing at the next hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import Box, dice, target_mask
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data.dataset import label_box
from dualtask_lite.engine.judging.evaluation import refuse_training_cases
from dualtask_lite.engine.predict import Prediction, in_cascade_order, keep_large_components, predict_box, predict_scan
from dualtask_lite.engine.run import Model, load_model
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
SLICE_AREA = 50.0  # mm2; slices that show less of the target are not used

SLICE_MARGIN = 20.0  # mm kept around the organ in each slice
_SIDE = 8  # copies of a slice along z, because the network halves each axis three times

#: A network for single slices, small enough to be trained twice in a lesson; augmentation stays in the plane.
SLICE_SETTINGS: dict[str, Any] = {
    "stage": "tumour-coarse",
    "sample.spacing": [4, 4, 2.5],
    "sample.patch": [32, 32, _SIDE],
    "augment.rotation": 0,
    "augment.scale": 0,
    "augment.gamma": 0,
    "augment.noise": 0,
    "objective.weights": {"seg": 1.0, "dist": 0.0, "conv_mask": 0.0, "conv_distance": 0.0},
    "optimiser.steps": 36,
    "optimiser.lr": 0.01,
}


@dataclass(frozen=True)
class Leak:
    """The measured effect of one leak.

    Attributes:
        name: what the wrong protocol does.
        reported: mean Dice that the wrong protocol reports.
        honest: mean Dice of the same cases by the right protocol.
        how_reported: the wrong protocol in words.
        how_honest: the right protocol in words.
        cases: for each test case (or slice) ``case``, ``reported`` and ``honest``.
    """

    name: str
    reported: float
    honest: float
    how_reported: str
    how_honest: str
    cases: Sequence[Mapping[str, Any]]

    @property
    def row(self) -> dict[str, Any]:
        """One row of a table."""
        return {
            "leak": self.name,
            "reported Dice": self.reported,
            "honest Dice": self.honest,
            "too high by": self.reported - self.honest,
            "reported": self.how_reported,
            "honest": self.how_honest,
            "tested on": len(self.cases),
        }


@dataclass(frozen=True)
class ThresholdLeak(Leak):
    """The leak of ``threshold_leak``, with the Dice at every threshold.

    Attributes:
        thresholds: all thresholds that were tried.
        on_test: mean Dice of the test cases at each.
        on_validation: mean Dice of the validation cases at each.
        default: mean Dice of the test cases at the threshold of the settings.
    """

    thresholds: Sequence[float]
    on_test: Sequence[float]
    on_validation: Sequence[float]
    default: float


def threshold_leak(
    models: Sequence[Model],
    validation: Sequence[Case],
    test: Sequence[Case],
    thresholds: Sequence[float] = THRESHOLDS,
) -> ThresholdLeak:
    """Compare a threshold of the last stage chosen on the test cases (trap 4) with one chosen on validation cases.

    Args:
        models: of the cascade.
        validation: labelled cases of the training centres that were not used in training.
        test: labelled cases that were not used in training.
        thresholds: to choose from.

    Raises:
        DualTaskError: when a test case was used in training, or no validation or test case contains the target.
    """
    refuse_training_cases(models, test)
    settings = in_cascade_order(models)[-1].settings
    default = settings.prediction.threshold
    candidates = sorted({*thresholds, default})
    validation_dice = _dice_by_threshold(models, validation, candidates, "validation")
    test_dice = _dice_by_threshold(models, test, candidates, "test")
    on_validation, on_test = (np.mean(list(dice.values()), axis=0) for dice in (validation_dice, test_dice))
    leaked, chosen = int(np.argmax(on_test)), int(np.argmax(on_validation))
    return ThresholdLeak(
        name="threshold tuned on the test centre",
        reported=float(on_test[leaked]),
        honest=float(on_test[chosen]),
        how_reported=f"threshold {candidates[leaked]:g}, best of {len(candidates)} on the {len(test_dice)} test cases",
        how_honest=f"threshold {candidates[chosen]:g}, best on {len(validation_dice)} validation cases",
        cases=[{"case": c, "reported": d[leaked], "honest": d[chosen]} for c, d in test_dice.items()],
        thresholds=candidates,
        on_test=on_test.tolist(),
        on_validation=on_validation.tolist(),
        default=float(on_test[candidates.index(default)]),
    )


def _dice_by_threshold(
    models: Sequence[Model], cases: Sequence[Case], thresholds: Sequence[float], part: str
) -> dict[str, list[float]]:
    """Dice of each case that contains the target, at each threshold of the last stage's probability."""
    by_case: dict[str, list[float]] = {}
    for case in cases:
        scan = case.load()
        prediction = predict_scan(models, scan)
        truth = target_mask(_label(scan), prediction.target)
        if truth.any():
            masks = (keep_large_components(prediction.probability >= threshold) for threshold in thresholds)
            by_case[case.id] = [dice(mask, truth) for mask in masks]
    if not by_case:
        raise DualTaskError(f"no {part} case contains the target", "give labelled cases that contain it")
    return by_case


def box_leak(
    models: Sequence[Model], test: Sequence[Case], predictions: Mapping[str, Prediction] | None = None
) -> Leak:
    """Compare the last stage in the box around the true organ, which a new hospital lacks, with the predicted box.

    Args:
        models: of the cascade; the region of the last stage must be the box around an organ.
        test: labelled cases that were not used in training.
        predictions: case id -> the result of ``predict_scan`` for these models, where it is known already.

    Raises:
        DualTaskError: when a test case was used in training, no test case contains the target, or the last stage
            processes the whole volume.
    """
    refuse_training_cases(models, test)
    model = in_cascade_order(models)[-1]
    stage = STAGES[model.settings.stage]
    if stage.region == "volume":
        raise DualTaskError(
            f"{model.settings.stage} processes the whole volume, so no box can leak",
            "give a cascade with a later stage",
        )
    rows = []
    for case in test:
        scan = case.load()
        truth = target_mask(_label(scan), stage.target)
        if not truth.any():
            continue
        maps = predict_box(model, scan, label_box(scan, stage, stage.margin))  # the leak: this box is the label's
        leaked = maps.mask_of(maps.output_head, model.settings.prediction.threshold)
        prediction = (predictions or {}).get(scan.id) or predict_scan(models, scan)
        predicted = prediction.targets[stage.target].mask
        reported, honest = (dice(mask, truth) for mask in (leaked, predicted))
        rows.append({"case": case.id, "reported": reported, "honest": honest})
    if not rows:
        raise DualTaskError("no test case contains the target", "give labelled cases that contain it")
    return _leak(
        "ground-truth box at test time",
        rows,
        f"{stage.margin:g} mm around the true {stage.region}",
        f"{stage.margin:g} mm around the predicted {stage.region}",
    )


def slice_leak(
    cases: Sequence[Case], folder: str | Path, *, settings: Settings | None = None, progress: bool = True
) -> Leak:
    """Compare a split by slices with a split by patients.

    Every second slice of half of the patients is a test slice. The same network is trained once on the slices in
    between, and once on as many slices of the other patients. So both tests use the same slices, cut in the same way
    to the surroundings of the organ, and differ only in whether the patient is in the training set. A check of ids or
    voxels cannot find this leak, because every slice is another image; it needs to know the patient of each slice.

    Args:
        cases: labelled cases of one centre, of which at least two contain the target.
        folder: for the two runs.
        settings: of a network for slices; by default those of ``SLICE_SETTINGS``.
        progress: show a bar on a terminal or in a notebook.

    Raises:
        DualTaskError: when fewer than two cases contain the target.
    """
    settings = settings or Settings.of("laptop", SLICE_SETTINGS)
    target, thickness = STAGES[settings.stage].target, settings.sample.spacing[2]
    patients = [slices for case in cases if len(slices := slices_of(case, target, thickness)) > 1]
    if len(patients) < 2:
        raise DualTaskError("fewer than two cases contain the target on two slices", "give more labelled cases")
    half = len(patients) // 2
    tested, others = patients[:half], patients[half : 2 * half]
    test = [one for patient in tested for one in patient[1::2]]
    between = [one for patient in tested for one in patient[0::2]]
    elsewhere = [one for patient in others for one in patient[0::2]]
    count = min(len(between), len(elsewhere))
    scores: dict[str, list[float]] = {}
    for name, training in (("by-slice", between), ("by-patient", elsewhere)):
        split = Split(train=tuple(_evenly(training, count)), validation=(), test=tuple(test))
        run = train(settings, Path(folder) / name, split=split, progress=progress)
        model = load_model(run)
        scores[name] = [_dice_of_slice(model, one) for one in test]
    rows = [
        {"case": one.id, "reported": a, "honest": b}
        for one, a, b in zip(test, scores["by-slice"], scores["by-patient"], strict=True)
    ]
    return _leak(
        "cases split by slice",
        rows,
        f"trained on {count} slices that lie between the test slices, of the same {half} patients",
        f"trained on {count} slices of {half} other patients",
    )


def slices_of(case: Case, target: str, thickness: float) -> list[Case]:
    """Make a case of each axial slice around the organ, by repeating the slice along z, ``thickness`` mm apart.

    Slices that show less than ``SLICE_AREA`` of the target are skipped.
    """
    scan = case.load()
    label = _label(scan)
    box = Box.around(label > 0, SLICE_MARGIN, scan.spacing)
    if box is None:
        return []
    areas = target_mask(label, target).sum(axis=(0, 1)) * scan.spacing[0] * scan.spacing[1]  # mm2
    slices = []
    for z in np.flatnonzero(areas >= SLICE_AREA).tolist():
        affine = scan.affine.copy()
        affine[:3, 3] = (scan.affine @ [*box.start[:2], z, 1])[:3]
        affine[:3, 2] *= thickness / scan.spacing[2]
        slab = (*box.slices[:2], [z] * _SIDE)
        slices.append(Case(f"{case.id}_slice{z:03}", case.centre, scan.volume[slab], label[slab], affine))
    return slices


def _dice_of_slice(model: Model, case: Case) -> float:
    scan = case.load()
    target = STAGES[model.settings.stage].target
    mask = predict_scan([model], scan).targets[target].mask
    return dice(mask, target_mask(_label(scan), target))


def _evenly(items: Sequence[Case], count: int) -> list[Case]:
    """Choose ``count`` of the items at even distances.

    ``train.evenly`` rounds down; with it the lesson would train on other slices.
    """
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count).round()]


def _leak(name: str, rows: Sequence[Mapping[str, Any]], how_reported: str, how_honest: str) -> Leak:
    reported, honest = (float(np.mean([row[key] for row in rows])) for key in ("reported", "honest"))
    return Leak(name, reported, honest, how_reported, how_honest, rows)


def _label(scan: Any) -> np.ndarray:
    if scan.label is None:
        raise DualTaskError(f"{scan.id}: has no label", "give labelled cases")
    label: np.ndarray = scan.label
    return label
