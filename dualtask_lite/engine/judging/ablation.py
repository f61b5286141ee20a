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

Equal work, in both senses: in each step every arm shows the network as many *images* as the profile does
(``optimiser.batch`` samples in ``views.count`` views), so an arm with two views sees half as many samples. Each such
arm exists a second time, as ``NAME-samples``, with as many *samples* as the baseline and twice its images. Compare with
``views`` to credit a term, not the augmentation.

Equal inference: all arms are compared on the mask of the segmentation head; what the distance head and the mean of both
give in the same forward pass stands beside it in the rows, and so does the Dice in the label's own box.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
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
from dualtask_lite.engine.judging.curves import LearningCurve, read_curve
from dualtask_lite.engine.judging.evaluation import evaluate, plain
from dualtask_lite.engine.judging.summary import summarise_cells
from dualtask_lite.engine.judging.table import ResultTable
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.run import (
    MANIFEST,
    MODEL,
    load_model,
    provenance,
    read_json,
    read_rows,
    write_json,
    write_rows,
)
from dualtask_lite.engine.training.devices import cards, pick_device, take_card
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.losses import PAPER_WEIGHTS

BASELINE = "segmentation"
CASES = "cases.csv"  # of a cell: its rows of the table
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
SAMPLES = "-samples"  # such an arm sees as many samples a step as one without views, and so twice as many images
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
    parts: Sequence[str] | None = None,
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
        out: folder of the table (see ``table``), written after each cell; the runs lie in its ``cells`` and ``common``.
        stages: the stages of the cascade, in order; the arms are about the last one.
        arms: names of ``ARMS``, each perhaps with changed settings (``full+objective.tau=6``).
        seeds: of the split, the weights and the samples.
        protocols: some of ``PROTOCOLS``.
        parts: only these centres or folds are tested; by default all.
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
    cells = {seed: cells_of(cases, arms, protocols, folds, seed, parts) for seed in seeds}
    for cell in (cell for of_seed in cells.values() for cell in of_seed):
        stage_settings(cell, plan, plan.stages[-1])  # refuse a wrong setting before anything is trained
    table = ResultTable(out, plain({**vars(plan), "cases": {case.id: case.digest() for case in cases}}))
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    summary: dict[str, Any] = {}
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_process, initargs=(context.Value("i", 0), cards())
    )
    with progress_bar(progress) as bar, pool:
        task = bar.add_task("cells", total=sum(map(len, cells.values())), note="")

        def work(run: Callable[..., None], some: Sequence[Cell], on_finish: Callable[[Cell], None]) -> None:
            futures = {pool.submit(run, cell, plan, list(cases), out, threads): cell for cell in some}
            try:
                for future in as_completed(futures):
                    future.result()
                    on_finish(futures[future])
            except BrokenProcessPool as error:
                raise DualTaskError(
                    "the process of a cell was killed, perhaps because the memory ran out",
                    "run it again: what is done is kept; fewer --jobs need less memory",
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

        def keep(cell: Cell) -> None:
            nonlocal summary
            table.add(vars(cell), **read_cell(cell, plan, out))
            summary = write_summary(table, plan, command, threads)
            bar.update(task, advance=1)

        for of_seed in cells.values():
            waiting = [cell for cell in of_seed if not table.has(vars(cell))]
            bar.update(task, advance=len(of_seed) - len(waiting))
            work(train_common, list({cell.common(out): cell for cell in waiting}.values()), lambda _: None)
            work(run_cell, waiting, keep)
    return summary or write_summary(table, plan, command, threads)


def write_summary(table: ResultTable, plan: Plan, command: str, threads: int) -> dict[str, Any]:
    """Sum up the rows of a table and write ``summary.json``."""
    rows = table.rows["cases"]
    summary = {
        "command": command,
        **vars(plan),
        "seeds": sorted({int(row["seed"]) for row in rows}),
        "threads_a_cell": threads,
        **provenance("cpu"),
        "mixed": table.mixed(),
        **summarise_cells(rows, STAGES[plan.stages[-1]].target, BASELINE),
    }
    write_json(table.folder / "summary.json", plain(summary))
    return summary


def read_cell(cell: Cell, plan: Plan, out: Path) -> dict[str, Any]:
    """What a finished cell measured, as ``ResultTable.add`` takes it."""
    run = cell.folder(out) / plan.stages[-1]
    manifest, settings = read_json(run / MANIFEST), stage_settings(cell, plan, plan.stages[-1])
    samples = settings.optimiser.batch
    return {
        "cases": read_rows(cell.folder(out) / CASES),
        "curves": read_curve(run),
        "cell": {
            "steps": manifest["steps"],
            "images_a_step": samples * settings.views.count,
            "samples_a_step": samples,
            "seconds": manifest["seconds"],
            "device": manifest["device"],
            "versions": "; ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
            "date": manifest["date"],
        },
    }


def cells_of(
    cases: Sequence[Case],
    arms: Sequence[str],
    protocols: Sequence[str],
    folds: int,
    seed: int,
    only: Sequence[str] | None = None,
) -> list[Cell]:
    """The cells of one seed, of all parts or ``only`` of some."""
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise DualTaskError(f"there is no protocol {unknown[0]!r}", f"choose from: {', '.join(PROTOCOLS)}")
    centres = sorted({case.centre for case in cases})
    parts = dict.fromkeys(PROTOCOLS, centres) | {"cross-validation": [str(fold) for fold in range(folds)]}
    known = {part for name in protocols for part in parts[name]}
    if wrong := sorted(set(only or ()) - known):
        raise DualTaskError(f"there is no part {wrong[0]!r}", f"choose from: {', '.join(sorted(known))}")
    wanted = known if only is None else set(only)
    return [Cell(arm, name, part, seed) for arm in arms for name in protocols for part in parts[name] if part in wanted]


def train_common(cell: Cell, plan: Plan, cases: Sequence[Case], out: Path, threads: int) -> None:
    """Train the stages before the last one, which all arms share."""
    for stage in plan.stages[:-1]:
        _train(Cell(BASELINE, cell.protocol, cell.part, cell.seed), plan, cases, stage, cell.common(out), threads)


def run_cell(cell: Cell, plan: Plan, cases: Sequence[Case], out: Path, threads: int) -> None:
    """Train the last stage of one cell, test the cascade, and write the cell's rows."""
    folder = cell.folder(out)
    if (folder / CASES).exists():  # finished, but the table was not written any more
        return
    *early, last = plan.stages
    _train(cell, plan, cases, last, folder, threads)
    device = pick_device(Settings.of(plan.profile, plan.overrides).machine.device)
    models = [load_model(path, device) for path in (*(cell.common(out) / stage for stage in early), folder / last)]
    result = evaluate(models, split_of(cell, cases, plan.folds, plan.validation).test, heads=True, progress=False)
    if result.failed:  # a case fewer would make the cells differ in what they were tested on
        raise DualTaskError(f"not evaluated: {result.failed}", "mend these cases, see dualtask data check")
    rows = [{name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()} for row in result.rows]
    write_rows(folder / CASES, rows)  # last: where it is, the cell is done


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
    images = shared.optimiser.batch * shared.views.count
    views = 1 if arm.endswith(SAMPLES) else ARMS[arm]["views.count"]
    if images % views:
        raise DualTaskError(
            f"{arm}: {images} images a step cannot be {views} views of each sample",
            "set optimiser.batch to an even number",
        )
    arm_changes = {**ARMS[arm], "prediction.heads": "segmentation"}  # the same inference in every arm
    if cell.protocol == "leave-one-centre-out":
        arm_changes["data.held_out"] = cell.part
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
