"""What an ablation trains and tests: its arms, its protocols, and the settings and cases of each cell.

A cell is one arm, protocol, test part and seed. The protocols:

* ``in-domain``: half the cases of a centre are test cases, the other half training cases;
* ``unseen``: the same test cases, and as many training cases from the other centres. The gap between these two is the
  effect of another hospital, not of fewer cases;
* ``leave-one-centre-out``: all cases of a centre are test cases, all others training cases;
* ``cross-validation``: the cases of one fold are test cases, all others training cases, whatever their centre.

An arm is an objective of the *last* stage. Equal work, counted in two units: in each step every arm processes as many
*images* as the profile does (``optimiser.batch`` samples in ``views.count`` views), so an arm with two views uses half
as many samples. Each such arm exists a second time, as ``NAME-samples``, with as many *samples* as the baseline and
twice its images. Compare with the arm ``views`` to separate the effect of a term from that of the augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.splits import Split, cross_validation, leave_one_centre_out, within_centre
from dualtask_lite.engine.config import STAGES, Settings, parse_assignments
from dualtask_lite.engine.profiles import TUMOUR_TERMS
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.losses import PAPER_WEIGHTS

BASELINE = "segmentation"
#: Terms of each arm, with the paper's weights, and the number of views of a sample.
_BOTH = ("seg", "dist", "conv_mask", "conv_distance")
_TERMS: dict[str, tuple[tuple[str, ...], int]] = {
    BASELINE: (("seg",), 1),
    "distance": (("seg", "dist"), 1),
    "to-mask": (("seg", "dist", "conv_mask"), 1),
    "to-distance": (("seg", "dist", "conv_distance"), 1),
    "conversion": (_BOTH, 1),
    "views": (("seg",), 2),
    "consistency": ((*_BOTH, "out"), 2),
    "contrast": ((*_BOTH, "feat"), 2),
    "full": (tuple(PAPER_WEIGHTS), 2),
}
SAMPLES = "-samples"  # suffix of an arm with as many samples a step as one without views, so twice as many images
ARMS: dict[str, dict[str, Any]] = {
    name: {
        "views.count": views,
        "objective.weights": {term: w if term in terms else 0.0 for term, w in PAPER_WEIGHTS.items()},
    }
    for name, (terms, views) in _TERMS.items()
}
ARMS |= {name + SAMPLES: changes for name, changes in ARMS.items() if changes["views.count"] == 2}
PROTOCOLS = ("in-domain", "unseen", "leave-one-centre-out", "cross-validation")


@dataclass(frozen=True)
class Cell:
    """One training and test of the matrix."""

    arm: str  # a name of ARMS, or one with changed settings: full+objective.tau=6
    protocol: str
    part: str  # the tested centre, or the number of the tested fold
    seed: int

    def folder(self, out: Path) -> Path:
        """Folder of the last stage's run and results."""
        return out / "cells" / self.arm / f"{self.protocol}-{self.part}-{self.seed}"

    def common(self, out: Path) -> Path:
        """Folder of the runs of the earlier stages, which all arms share."""
        return out / "common" / f"{self.protocol}-{self.part}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The settings that all cells share."""

    profile: str
    overrides: Mapping[str, Any]  # settings by dotted name, for all stages
    stages: Sequence[str]  # of the cascade, in order
    folds: int  # of cross-validation
    validation: float = 0.0  # share of the training cases kept for learning curves; leave-one-centre-out only


def cells_of(
    cases: Sequence[Case],
    arms: Sequence[str],
    protocols: Sequence[str],
    folds: int,
    seed: int,
    only: Sequence[str] | None = None,
) -> list[Cell]:
    """List the cells of one seed, each once, for all parts or ``only`` for some."""
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise DualTaskError(f"there is no protocol {unknown[0]!r}", f"choose from: {', '.join(PROTOCOLS)}")
    centres = sorted({case.centre for case in cases})
    parts = dict.fromkeys(PROTOCOLS, centres) | {"cross-validation": [str(fold) for fold in range(folds)]}
    known = {part for name in protocols for part in parts[name]}
    if wrong := sorted(set(only or ()) - known):
        raise DualTaskError(f"there is no part {wrong[0]!r}", f"choose from: {', '.join(sorted(known))}")
    wanted = known if only is None else set(only)
    return [
        Cell(arm, name, part, seed)
        for arm in dict.fromkeys(arms)
        for name in dict.fromkeys(protocols)
        for part in parts[name]
        if part in wanted
    ]


def stage_settings(cell: Cell, plan: Plan, stage: str) -> Settings:
    """Settings of one stage of a cell: those of the plan, with the arm and seed of the cell, at equal work.

    Raises:
        DualTaskError: when the arm is unknown, or the images of a step cannot be divided into views.
    """
    arm, *assignments = cell.arm.split("+")
    if arm not in ARMS:
        raise DualTaskError(f"there is no arm {arm!r}", f"choose from: {', '.join(ARMS)}")
    shared = Settings.of(plan.profile, {**plan.overrides, "stage": stage})
    images = shared.optimiser.batch * shared.views.count
    views = 1 if arm.endswith(SAMPLES) else ARMS[arm]["views.count"]
    if images % views:
        raise DualTaskError(
            f"{arm}: {images} images a step cannot be {views} views of each sample",
            "set optimiser.batch to an even number",
        )
    arm_changes = {**ARMS[arm], "prediction.heads": "segmentation"}  # the same inference in every arm
    if STAGES[stage].target == "pancreas":
        arm_changes["objective.weights"] = ARMS[arm]["objective.weights"] | dict.fromkeys(TUMOUR_TERMS, 0.0)
    if cell.protocol == "leave-one-centre-out":
        arm_changes["data.held_out"] = cell.part
    changes = {"seed": cell.seed, "optimiser.batch": images // views, **arm_changes, **parse_assignments(assignments)}
    return shared.changed(changes)


def split_of(cell: Cell, cases: Sequence[Case], folds: int = 5, validation: float = 0.0) -> Split:
    """Training and test cases of a cell by its protocol."""
    if cell.protocol == "cross-validation":
        return cross_validation(cases, int(cell.part), folds=folds, seed=cell.seed)
    if cell.protocol == "leave-one-centre-out":
        return leave_one_centre_out(cases, cell.part, validation=validation, seed=cell.seed)
    inside = within_centre(cases, cell.part, test=0.5, validation=0.0, seed=cell.seed)
    if cell.protocol == "in-domain":
        return inside
    outside = leave_one_centre_out(cases, cell.part, validation=0.0, seed=cell.seed).train
    order = np.random.default_rng(cell.seed).permutation(len(outside))[: len(inside.train)]
    return Split(train=tuple(outside[i] for i in sorted(order)), validation=(), test=inside.test)
