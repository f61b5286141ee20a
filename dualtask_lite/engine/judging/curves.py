"""Learning curves: Dice of training, validation and unseen cases at several points of one training run.

The regions come from the labels (the stage's box around the true organ), so a curve describes the progress of a
training, not the quality of the model. The Dice of the unseen cases is recorded only: every choice uses the validation
cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases.case import Case
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Region, training_region
from dualtask_lite.engine.records import read_rows, write_rows
from dualtask_lite.engine.run import METRICS
from dualtask_lite.engine.training.train import evenly, region_scores
from dualtask_lite.method.network import DualTaskNet

CURVE = "curve.csv"
TRAINING_CASES = 10  # number of training cases that are measured


class LearningCurve:
    """Measure the Dice at each validation of a training, and write it to ``curve.csv`` of the run folder.

    Args:
        run: the run folder; rows of an earlier, interrupted part are kept.
        train: the training cases, of which ``TRAINING_CASES`` are measured.
        unseen: cases of the held-out centre.
        settings: of the run.
    """

    def __init__(self, run: Path, train: Sequence[Case], unseen: Sequence[Case], settings: Settings) -> None:
        self.path = run / CURVE
        self.regions = {
            name: [training_region(case, settings) for case in cases]
            for name, cases in (("train", evenly(train, TRAINING_CASES)), ("unseen", unseen))
        }
        self.dice: dict[str, float] = {}  # measured since the last row

    def measure(self, net: DualTaskNet, validation: Sequence[Region], settings: Settings) -> None:
        """Measure the three groups of cases: the ``on_validation`` of ``train``."""
        groups = {"train": self.regions["train"], "validation": validation, "unseen": self.regions["unseen"]}
        self.dice = {f"{name}_dice": mean_dice(net, regions, settings) for name, regions in groups.items()}

    def record(self, row: Mapping[str, Any]) -> None:
        """Write the Dice that was measured at this step: the ``callback`` of ``train``."""
        if self.dice:
            earlier = [one for one in read_rows(self.path) if int(one["step"]) < row["step"]]
            write_rows(self.path, [*earlier, {"step": row["step"], **self.dice}])
            self.dice = {}


def mean_dice(net: DualTaskNet, regions: Sequence[Region], settings: Settings) -> float:
    """Mean of ``region_scores``; NaN if no region contains the target."""
    scores = region_scores(net, regions, settings)
    return round(float(np.mean(scores)), 4) if scores else float("nan")


def read_curve(run: Path) -> list[dict[str, float]]:
    """Read the learning curve of a run: step, three Dice, and the mean of loss and terms since the previous row."""
    steps = read_rows(run / METRICS)
    rows, previous = [], 0
    for row in read_rows(run / CURVE):
        now = int(row["step"])
        since = [one for one in steps if previous < int(one["step"]) <= now]
        terms = [name for name in steps[0] if name not in ("step", "lr", "val_dice", "seconds") and "grad_" not in name]
        means = {name: round(float(np.mean([float(one[name]) for one in since])), 4) for name in terms}
        means["loss"] = means.pop("total")
        rows.append({**{name: float(value) for name, value in row.items()}, "step": now, **means})
        previous = now
    return rows
