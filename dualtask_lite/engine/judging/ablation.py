"""The same data, steps and test cases for every arm: what the domain gap is, and what each term buys.

A cell is one arm, protocol, test part and seed. It trains a cascade and tests it, from the whole volume, on the
cases of the test part:

* ``in-domain``: half the cases of a centre test, the other half train;
* ``unseen``: the same half tests, and as many cases of the other centres train. The gap between these two is what
  another hospital costs, not what fewer cases cost;
* ``leave-one-centre-out``: all cases of a centre test, all of the others train;
* ``cross-validation``: the cases of one fold test, the others train, whatever their centre.

An arm is what is asked of the *last* stage. The stages before it say where to look; they learn the segmentation
only, once for all arms, so that a difference between arms is never a luckier box. No true box is used in a test: a
cascade of one stage looks in the whole volume.

Equal work: in each step every arm shows the network as many images as the profile does (``optimiser.batch`` samples in
``views.count`` views). An arm with two views of a sample shows half as many samples twice; an arm without views would
see twice the same, which teaches nothing, and so sees other samples instead. What the views cost in samples is part
of what they must earn. The arm ``views`` pays for them too: compare with it to credit a term, not the augmentation.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.splits import Split, cross_validation, leave_one_centre_out, within_centre
from dualtask_lite.engine.config import STAGES, Settings, parse_assignments
from dualtask_lite.engine.judging.curves import LearningCurve
from dualtask_lite.engine.judging.evaluation import evaluate, plain
from dualtask_lite.engine.judging.summary import summarise_cells
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.run import MODEL, load_model, provenance, read_json, read_rows, write_json, write_rows
from dualtask_lite.engine.training.devices import cards, pick_device, take_card
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.losses import PAPER_WEIGHTS

BASELINE = "segmentation"
#: Terms of each arm, and whether they see a sample in two views; a term has the weight that METHOD gives it.
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
ARMS: dict[str, dict[str, Any]] = {
    name: {
        "views.count": views,
        "objective.weights": {term: w if term in terms else 0.0 for term, w in PAPER_WEIGHTS.items()},
    }
    for name, (terms, views) in _TERMS.items()
}
PROTOCOLS = ("in-domain", "unseen", "leave-one-centre-out", "cross-validation")


@dataclass(frozen=True)
class Cell:
    """One training and test of the matrix."""

    arm: str  # a name of ARMS, or one with changed settings: full+objective.tau=6
    protocol: str
    part: str  # the centre, or the number of the fold, that is tested
    seed: int

    def folder(self, out: Path) -> Path:
        """Where the run and the rows of its last stage are kept."""
        return out / "cells" / self.arm / f"{self.protocol}-{self.part}-{self.seed}"

    def common(self, out: Path) -> Path:
        """Where the runs of the stages before it are kept, which all arms share."""
        return out / "common" / f"{self.protocol}-{self.part}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What all cells share."""

    profile: str
    overrides: Mapping[str, Any]  # settings by dotted name, for all stages
    stages: Sequence[str]  # of the cascade, in order
    folds: int  # of cross-validation
    validation: float = 0.0  # share of the training cases of leave-one-centre-out that a learning curve watches


def ablate(
    profile: str,
    overrides: Mapping[str, Any],
    cases: Sequence[Case],
    out: Path,
    *,
    stages: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    protocols: Sequence[str] = ("in-domain", "unseen"),
    folds: int = 5,
    jobs: int = 1,
    command: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Train and test all cells, seed by seed; those that are done already are kept.

    Args:
        profile: of the settings that all cells share.
        overrides: settings by dotted name, for all cells and stages; seed, views and weights are the cells' own.
        cases: labelled cases; of at least two centres, but for ``cross-validation``.
        out: folder for the cells, ``cases.csv`` and ``summary.json``, which are written anew after each seed.
        stages: the stages of the cascade, in order; the arms are about the last one.
        arms: names of ``ARMS``, each perhaps with changed settings (``full+objective.tau=6``).
        seeds: of the split, the weights and the samples.
        protocols: some of ``PROTOCOLS``.
        folds: parts of ``cross-validation``.
        jobs: cells at a time, each in its own process; the processes share the cards evenly.
        command: what to type to get the same table; kept in ``summary.json``.
        progress: show a bar on a terminal or in a notebook.

    Returns:
        See ``summary.summarise_cells``.

    Raises:
        DualTaskError: when an arm, protocol or setting is unknown, ``out`` holds a table of another plan, or a cell's
            process was killed.
    """
    if not cases:
        raise DualTaskError("there is no labelled case", "see dualtask data check for what is in the folder")
    watched = Settings.of(profile, overrides).data.validation
    plan = Plan(profile, dict(overrides), tuple(stages), folds, watched)
    cells = {seed: cells_of(cases, arms, protocols, folds, seed) for seed in seeds}
    for cell in (cell for of_seed in cells.values() for cell in of_seed):
        stage_settings(cell, plan, plan.stages[-1])  # a slip is told before anything is trained
    _check_same_plan(plan, cases, out)
    threads = max(1, torch.get_num_threads() // jobs)
    device = pick_device(Settings.of(profile, overrides).machine.device)
    context = multiprocessing.get_context("spawn")
    done: list[Cell] = []
    summary: dict[str, Any] = {}
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_process, initargs=(context.Value("i", 0), cards())
    )
    with progress_bar(progress) as bar, pool:
        task = bar.add_task("cells", total=sum(map(len, cells.values())), note="")

        def work(run: Callable[..., None], some: Sequence[Cell], advance: int) -> None:
            futures = [pool.submit(run, cell, plan, list(cases), out, threads) for cell in some]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update(task, advance=advance)
            except BrokenProcessPool as error:
                raise DualTaskError(
                    "the process of a cell was killed, perhaps because the memory ran out",
                    "run it again: what is done is kept; fewer --jobs need less memory",
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

        for of_seed in cells.values():
            waiting = [cell for cell in of_seed if not (cell.folder(out) / "cases.csv").exists()]
            bar.update(task, advance=len(of_seed) - len(waiting))
            work(train_common, list({cell.common(out): cell for cell in waiting}.values()), 0)
            work(run_cell, waiting, 1)
            done += of_seed
            rows = [row for cell in done for row in _rows(cell, out)]
            summary = summarise_cells(rows, STAGES[plan.stages[-1]].target, BASELINE)
            write_rows(out / "cases.csv", rows)
            seeds_done = sorted({cell.seed for cell in done})
            told = {"command": command, **vars(plan), "seeds": seeds_done, "threads_a_cell": threads}
            write_json(out / "summary.json", plain({**told, **provenance(device), **summary}))
    return summary


def cells_of(cases: Sequence[Case], arms: Sequence[str], protocols: Sequence[str], folds: int, seed: int) -> list[Cell]:
    """The cells of one seed."""
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise DualTaskError(f"there is no protocol {unknown[0]!r}", f"choose from: {', '.join(PROTOCOLS)}")
    centres = sorted({case.centre for case in cases})
    parts = dict.fromkeys(PROTOCOLS, centres) | {"cross-validation": [str(fold) for fold in range(folds)]}
    return [Cell(arm, name, part, seed) for arm in arms for name in protocols for part in parts[name]]


def train_common(cell: Cell, plan: Plan, cases: Sequence[Case], out: Path, threads: int) -> None:
    """Train the stages before the last one, which all arms share."""
    for stage in plan.stages[:-1]:
        _train(Cell(BASELINE, cell.protocol, cell.part, cell.seed), plan, cases, stage, cell.common(out), threads)


def run_cell(cell: Cell, plan: Plan, cases: Sequence[Case], out: Path, threads: int) -> None:
    """Train the last stage of one cell, test the cascade, and write the cell's rows."""
    folder = cell.folder(out)
    *early, last = plan.stages
    _train(cell, plan, cases, last, folder, threads)
    device = pick_device(Settings.of(plan.profile, plan.overrides).machine.device)
    models = [load_model(path, device) for path in (*(cell.common(out) / stage for stage in early), folder / last)]
    result = evaluate(models, split_of(cell, cases, plan.folds, plan.validation).test, heads=True, progress=False)
    if result.failed:  # a case fewer would make the cells differ in what they were tested on
        raise DualTaskError(f"not evaluated: {result.failed}", "mend these cases, see dualtask data check")
    rows = [{name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()} for row in result.rows]
    write_rows(folder / "cases.csv", rows)  # last: where it is, the cell is done


def _start_process(started: Synchronized[int], of_cards: Sequence[str]) -> None:
    """Give a process of the pool its card; end it when its parent was killed, or it would wait for work for ever."""
    take_card(started, of_cards)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(cell: Cell, plan: Plan, cases: Sequence[Case], stage: str, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    run = folder / stage
    if not (run / MODEL).exists():
        split, settings = split_of(cell, cases, plan.folds, plan.validation), stage_settings(cell, plan, stage)
        curve = LearningCurve(run, split.train, split.test, settings) if split.validation else None
        train(
            settings,
            run,
            split=split,
            resume=True,
            progress=False,
            callback=curve.record if curve else None,
            on_validation=curve.measure if curve else None,
        )


def stage_settings(cell: Cell, plan: Plan, stage: str) -> Settings:
    """Settings of one stage of a cell: what all cells share, under the cell's arm and seed, at equal work.

    Raises:
        DualTaskError: when the arm is unknown, or a step cannot be divided into its views.
    """
    arm, *assignments = cell.arm.split("+")
    if arm not in ARMS:
        raise DualTaskError(f"there is no arm {arm!r}", f"choose from: {', '.join(ARMS)}")
    shared = Settings.of(plan.profile, {**plan.overrides, "stage": stage})
    images, views = shared.optimiser.batch * shared.views.count, ARMS[arm]["views.count"]
    if images % views:
        raise DualTaskError(
            f"{arm}: {images} images a step cannot be {views} views of each sample",
            "set optimiser.batch to an even number",
        )
    arm_changes = {**ARMS[arm], "prediction.heads": "segmentation"}  # the same inference in every arm
    changes = {"seed": cell.seed, "optimiser.batch": images // views, **arm_changes, **parse_assignments(assignments)}
    return shared.changed(changes)


def split_of(cell: Cell, cases: Sequence[Case], folds: int = 5, validation: float = 0.0) -> Split:
    """Who trains and who tests in a cell (see this module's head)."""
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


def _check_same_plan(plan: Plan, cases: Sequence[Case], out: Path) -> None:
    """Keep in ``plan.json`` what a table was begun with: cells of other settings or cases are never mixed into it."""
    file = out / "plan.json"
    now = plain({**vars(plan), "cases": {case.id: case.digest() for case in cases}})
    if not file.exists():
        write_json(file, now)
    elif (before := read_json(file)) != now:
        other = next(key for key in now if now[key] != before.get(key))
        raise DualTaskError(f"{out}: holds a table of other {other}", "choose another --out, or repeat its own command")


def _rows(cell: Cell, out: Path) -> Iterator[dict[str, Any]]:
    for row in read_rows(cell.folder(out) / "cases.csv"):
        yield {"arm": cell.arm, "protocol": cell.protocol, "seed": cell.seed, **row}
