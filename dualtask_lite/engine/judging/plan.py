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

from collections.abc import Iterator, Mapping, Sequence
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
#: Settings that each cell has for itself, and the options of ``dualtask ablate`` that choose them.
OF_A_CELL = {
    "stage": "--stage",
    "seed": "--seeds",
    "data.held_out": "--protocol leave-one-centre-out and --part",
    "views.count": "--arm NAME+views.count=...",
    "objective.weights": "--arm NAME+objective.weights.TERM=...",
    "prediction.heads": "--arm NAME+prediction.heads=...",
}
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


def option_of(setting: str) -> str | None:
    """The option of ``dualtask ablate`` that chooses a setting for each cell; None for a setting that all share."""
    return next((option for own, option in OF_A_CELL.items() if f"{setting}.".startswith(f"{own}.")), None)


def refuse_settings_of_a_cell(overrides: Mapping[str, Any]) -> None:
    """Refuse settings for all cells that each cell replaces by its own.

    Raises:
        DualTaskError: for the first of them; it names the option that chooses it.
    """
    for name in _names(overrides):
        if option := option_of(name):
            raise DualTaskError(f"{name}: each cell has its own, which would replace this one", f"use {option}")


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of settings, also of those in nested mappings."""
    for key, value in settings.items():
        yield from (f"{key}.{name}" for name in _names(value)) if isinstance(value, Mapping) else (key,)


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
