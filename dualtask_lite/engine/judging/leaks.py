"""How a wrong protocol flatters: three leaks, each as the score that it reports against the honest one.

None of them changes the model's code, and each has been published with. What a case of the test tells the model, by
whatever way, is not there at the next hospital.
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
from dualtask_lite.engine.data.dataset import training_box
from dualtask_lite.engine.judging.evaluation import refuse_training_cases
from dualtask_lite.engine.predict import in_cascade_order, keep_large_components, predict_box, predict_scan
from dualtask_lite.engine.run import Model, load_model
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
SLICE_AREA = 50.0  # mm2; a slice that shows less of the target is not one of the data

SLICE_MARGIN = 20.0  # mm kept around the organ in each slice
_SIDE = 8  # voxels; the network halves each axis three times, so a slice is piled up as high as this

#: A network for single slices, small enough to be trained twice in a lesson; nothing moves a slice out of its plane.
SLICE_SETTINGS: dict[str, Any] = {
    "stage": "tumour-coarse",
    "sample.spacing": [4, 4, 2.5],
    "sample.patch": [32, 32, _SIDE],
    "augment.rotation": 0,
    "augment.scale": 0,
    "augment.gamma": 0,
    "augment.noise": 0,
    "objective.weights": {"seg": 1.0, "dist": 0.0, "conv_mask": 0.0, "conv_distance": 0.0},
    "optimiser.steps": 150,
}


@dataclass(frozen=True)
class Leak:
    """One leak, measured.

    Attributes:
        name: what was done wrong.
        reported: mean Dice that the wrong protocol reports.
        honest: mean Dice of the same cases by a right one.
        how_reported: how the first came about.
        how_honest: how the second did.
        cases: per case (or slice) of the test ``case``, ``reported`` and ``honest``.
    """

    name: str
    reported: float
    honest: float
    how_reported: str
    how_honest: str
    cases: Sequence[Mapping[str, Any]]

    @property
    def row(self) -> dict[str, Any]:
        """Its line in a table."""
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
    """The same, with what there was to choose from.

    Attributes:
        thresholds: all that were tried.
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
    """Choose the threshold of the last stage on the test cases (trap 4), or on validation cases.

    Args:
        models: of the cascade.
        validation: labelled cases of the training centres that did not train.
        test: labelled cases that the models never saw.
        thresholds: to choose from.

    Raises:
        DualTaskError: when a test case was seen, or no validation or no test case has the target.
    """
    refuse_training_cases(models, test)
    settings = in_cascade_order(models)[-1].settings
    default = settings.prediction.threshold
    every = sorted({*thresholds, default})
    tuning = _dice_by_threshold(models, validation, every, "validation")
    testing = _dice_by_threshold(models, test, every, "test")
    on_validation, on_test = (np.mean(list(dice.values()), axis=0) for dice in (tuning, testing))
    peeked, chosen = int(np.argmax(on_test)), int(np.argmax(on_validation))
    return ThresholdLeak(
        name="threshold tuned on the test centre",
        reported=float(on_test[peeked]),
        honest=float(on_test[chosen]),
        how_reported=f"threshold {every[peeked]:g}, the best of {len(every)} on the {len(testing)} test cases",
        how_honest=f"threshold {every[chosen]:g}, the best on {len(tuning)} validation cases",
        cases=[{"case": c, "reported": d[peeked], "honest": d[chosen]} for c, d in testing.items()],
        thresholds=every,
        on_test=on_test.tolist(),
        on_validation=on_validation.tolist(),
        default=float(on_test[every.index(default)]),
    )


def _dice_by_threshold(
    models: Sequence[Model], cases: Sequence[Case], thresholds: Sequence[float], part: str
) -> dict[str, list[float]]:
    """Dice of each case that has the target, at each threshold of the last stage's probability."""
    by_case: dict[str, list[float]] = {}
    for case in cases:
        scan = case.load()
        prediction = predict_scan(models, scan)
        truth = target_mask(_label(scan), prediction.target)
        if truth.any():
            masks = (keep_large_components(prediction.probability >= threshold) for threshold in thresholds)
            by_case[case.id] = [dice(mask, truth) for mask in masks]
    if not by_case:
        raise DualTaskError(f"no {part} case has the target", "give labelled cases that show it")
    return by_case


def box_leak(models: Sequence[Model], test: Sequence[Case]) -> Leak:
    """Show the last stage the box around the true organ, which at a hospital nobody has, or around the predicted one.

    Args:
        models: of the cascade; the last stage must look around an organ.
        test: labelled cases that the models never saw.

    Raises:
        DualTaskError: when a test case was seen, none has the target, or the last stage sees the whole volume.
    """
    refuse_training_cases(models, test)
    model = in_cascade_order(models)[-1]
    stage = STAGES[model.settings.stage]
    if stage.region == "volume":
        raise DualTaskError(
            f"{model.settings.stage} looks at the whole volume, so no box can leak", "give a cascade with a later stage"
        )
    rows = []
    for case in test:
        scan = case.load()
        truth = target_mask(_label(scan), stage.target)
        if not truth.any():
            continue
        maps = predict_box(model, scan, training_box(scan, stage))  # the leak: this box is made from the label
        leaked = keep_large_components(maps.probability >= model.settings.prediction.threshold)
        found = predict_scan(models, scan).targets[stage.target].mask
        reported, honest = (dice(mask, truth) for mask in (leaked, found))
        rows.append({"case": case.id, "reported": reported, "honest": honest})
    if not rows:
        raise DualTaskError("no test case has the target", "give labelled cases that show it")
    return _leak(
        "ground-truth box at test time",
        rows,
        f"{stage.margin:g} mm around the true {stage.region}",
        f"{stage.margin:g} mm around the {stage.region} that the cascade found",
    )


def slice_leak(
    cases: Sequence[Case], folder: str | Path, *, settings: Settings | None = None, progress: bool = True
) -> Leak:
    """Split slices instead of patients: the neighbours of each test slice are in the training set.

    Half of the patients are tested, on every second slice of theirs. The same network learns once from the slices in
    between, and once from as many of the other patients. So both tests are on the same slices, cut to the
    surroundings of the organ alike, and all that differs is whether the patient was met before. No check of ids or
    contents notices, as every slice is another image; only one that knows whose slice it is would.

    Args:
        cases: labelled cases of one centre, at least two that show the target.
        folder: for the two runs.
        settings: of a network for slices; by default those of ``SLICE_SETTINGS``.
        progress: show a bar on a terminal or in a notebook.

    Raises:
        DualTaskError: when fewer than two cases show the target.
    """
    settings = settings or Settings.of("laptop", SLICE_SETTINGS)
    target = STAGES[settings.stage].target
    patients = [cut for case in cases if len(cut := slices_of(case, target)) > 1]
    if len(patients) < 2:
        raise DualTaskError("fewer than two cases show the target on two slices", "give more labelled cases")
    half = len(patients) // 2
    tested, others = patients[:half], patients[half : 2 * half]
    test = [one for patient in tested for one in patient[1::2]]
    between = [one for patient in tested for one in patient[0::2]]
    elsewhere = [one for patient in others for one in patient[0::2]]
    count = min(len(between), len(elsewhere))
    scores: dict[str, list[float]] = {}
    for name, learned in (("by-slice", between), ("by-patient", elsewhere)):
        split = Split(train=tuple(_spread(learned, count)), validation=(), test=tuple(test))
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


def slices_of(case: Case, target: str) -> list[Case]:
    """Cut a case into axial slices around its organ, each a case of its own: the same slice, piled up to a slab.

    Slices that hardly show the target are dropped.
    """
    scan = case.load()
    label = _label(scan)
    box = Box.around(label > 0, SLICE_MARGIN, scan.spacing)
    if box is None:
        return []
    areas = target_mask(label, target).sum(axis=(0, 1)) * scan.spacing[0] * scan.spacing[1]  # mm2
    cut = []
    for z in np.flatnonzero(areas >= SLICE_AREA).tolist():
        affine = scan.affine.copy()
        affine[:3, 3] = (scan.affine @ [*box.start[:2], z, 1])[:3]
        affine[:3, 2] *= SLICE_SETTINGS["sample.spacing"][2] / scan.spacing[2]
        slab = (*box.slices[:2], [z] * _SIDE)
        cut.append(Case(f"{case.id}_slice{z:03}", case.centre, scan.volume[slab], label[slab], affine))
    return cut


def _dice_of_slice(model: Model, case: Case) -> float:
    scan = case.load()
    target = STAGES[model.settings.stage].target
    found = predict_scan([model], scan).targets[target].mask
    return dice(found, target_mask(_label(scan), target))


def _spread(items: Sequence[Case], count: int) -> list[Case]:
    """So many of the items, evenly spread over them."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count).round()]


def _leak(name: str, rows: Sequence[Mapping[str, Any]], how_reported: str, how_honest: str) -> Leak:
    reported, honest = (float(np.mean([row[key] for row in rows])) for key in ("reported", "honest"))
    return Leak(name, reported, honest, how_reported, how_honest, rows)


def _label(scan: Any) -> np.ndarray:
    if scan.label is None:
        raise DualTaskError(f"{scan.id}: has no label", "give labelled cases")
    label: np.ndarray = scan.label
    return label
