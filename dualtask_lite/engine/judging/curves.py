"""Learning curves: Dice of training, validation and unseen cases at several points of one training.

The regions come from the labels (the stage's box around the true organ), so a curve says how a training goes, not how
good the model is. The unseen cases are recorded and never used: whatever is chosen is chosen on the validation cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import dice
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Region, training_region
from dualtask_lite.engine.predict import predict_region
from dualtask_lite.engine.run import METRICS, read_rows, write_rows
from dualtask_lite.method.network import DualTaskNet

CURVE = "curve.csv"
TRAINING_CASES = 10  # measured beside the validation and the unseen cases


class LearningCurve:
    """Measure a training each time it validates, and keep the rows in ``curve.csv`` of its run folder.

    Args:
        run: the run folder; rows of an earlier, interrupted part are kept.
        train: the training cases, of which ``TRAINING_CASES`` are measured.
        unseen: cases of the held-out centre.
        settings: of the run.
    """

    def __init__(self, run: Path, train: Sequence[Case], unseen: Sequence[Case], settings: Settings) -> None:
        self.path = run / CURVE
        some = [train[int(i)] for i in np.linspace(0, len(train) - 1, min(TRAINING_CASES, len(train)))]
        self.regions = {
            name: [training_region(case, settings) for case in cases]
            for name, cases in (("train", some), ("unseen", unseen))
        }
        self.measured: dict[str, float] = {}

    def measure(self, net: DualTaskNet, validation: Sequence[Region], settings: Settings) -> None:
        """Measure the three groups; give it to ``train`` as ``on_validation``."""
        groups = {"train": self.regions["train"], "validation": validation, "unseen": self.regions["unseen"]}
        self.measured = {f"{name}_dice": mean_dice(net, regions, settings) for name, regions in groups.items()}

    def record(self, row: Mapping[str, Any]) -> None:
        """Write what was measured at this step; give it to ``train`` as ``callback``."""
        if self.measured:
            earlier = [kept for kept in read_rows(self.path) if int(kept["step"]) < row["step"]]
            write_rows(self.path, [*earlier, {"step": row["step"], **self.measured}])
            self.measured = {}


def mean_dice(net: DualTaskNet, regions: Sequence[Region], settings: Settings) -> float:
    """Mean Dice on the working grid of the regions that hold the target; NaN when none does."""
    scores = []
    for region in regions:
        if region.mask is not None and region.mask.any():
            probability = predict_region(net, region.image, settings)[0].cpu().numpy()
            scores.append(dice(probability >= settings.prediction.threshold, region.mask[0].numpy() > 0))
    return round(float(np.mean(scores)), 4) if scores else float("nan")


def read_curve(run: Path) -> list[dict[str, float]]:
    """Rows of a run's curve: ``step``, the three Dice, and the mean of ``loss`` and terms since the row before."""
    steps = read_rows(run / METRICS)
    rows, before = [], 0
    for row in read_rows(run / CURVE):
        now = int(row["step"])
        part = [one for one in steps if before < int(one["step"]) <= now]
        terms = [name for name in steps[0] if name not in ("step", "lr", "val_dice", "seconds") and "grad_" not in name]
        means = {name: round(float(np.mean([float(one[name]) for one in part])), 4) for name in terms}
        means["loss"] = means.pop("total")
        rows.append({**{name: float(value) for name, value in row.items()}, "step": now, **means})
        before = now
    return rows
