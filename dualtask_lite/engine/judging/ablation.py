"""Ablation: train and test every arm on the same cases and steps, to measure the domain gap and each term's effect.

The module ``plan`` says what the arms, the protocols and the cells are. Each cell trains a cascade and tests it, from
the whole volume, on the cases of its test part. All arms share the stages before the last, which are trained once, for
segmentation only; so a difference between arms never comes from a better region. No test uses the true box: a cascade
of one stage searches the whole volume.

Equal inference: all arms are compared on the mask of the segmentation head. The rows also hold the Dice of the distance
head and of the mean of both heads, from the same forward pass, and the Dice in the label's own box.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from pydantic import StrictFloat, StrictInt

from dualtask_lite.cases.case import Case
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.judging.curves import LearningCurve, read_curve
from dualtask_lite.engine.judging.evaluation import evaluate
from dualtask_lite.engine.judging.plan import (
    BASELINE,
    Cell,
    Plan,
    cells_of,
    refuse_settings_of_a_cell,
    split_of,
    stage_settings,
)
from dualtask_lite.engine.judging.summary import summarise_cells
from dualtask_lite.engine.judging.table import ResultTable
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.records import plain, read_json, read_rows, write_json, write_rows
from dualtask_lite.engine.run import MANIFEST, MODEL, load_model, provenance
from dualtask_lite.engine.training.devices import pick_device, select_card, visible_cards
from dualtask_lite.engine.training.selection import check_target_is_labelled
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError

CASES = "cases.csv"  # results of a cell


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
    """Train and test all cells, seed by seed; finished cells are not repeated.

    Args:
        profile: of the settings that all cells share.
        overrides: settings by dotted name, for all cells and stages; those of ``plan.OF_A_CELL`` are refused.
        cases: labelled cases, of at least two centres except for ``cross-validation``.
        out: folder of the table (see ``table``), written after each cell; its ``cells`` and ``common`` hold the runs.
        stages: the stages of the cascade, in order; the arms differ in the last one.
        arms: names of ``ARMS``, optionally with changed settings (``full+objective.tau=6``).
        seeds: of the split, the weights and the samples.
        protocols: some of ``PROTOCOLS``.
        parts: test only these centres or folds; by default all.
        folds: number of folds of ``cross-validation``.
        jobs: number of cells that run at the same time, each in its own process; they share the cards evenly.
        command: the command that makes the same table; written to ``summary.json``.
        progress: show a bar on a terminal or in a notebook.

    Returns:
        See ``summary.summarise_cells``.

    Raises:
        DualTaskError: when an arm, protocol or setting is unknown, a setting is a cell's own, no label of a cell's
            training cases contains the target, ``out`` holds a table of another plan or other cases, or a cell's
            process was killed.
    """
    if not cases:
        raise DualTaskError("there is no labelled case", "list the content of the folder with dualtask data check")
    if list(stages) != [name for name in STAGES if name in stages]:
        raise DualTaskError(
            f"{', '.join(stages)} are not the stages of a cascade in their order", f"use some of: {', '.join(STAGES)}"
        )
    refuse_settings_of_a_cell(overrides)
    validation = Settings.of(profile, overrides).data.validation
    plan = Plan(profile, dict(overrides), tuple(stages), folds, validation)
    cells = {seed: cells_of(cases, arms, protocols, folds, seed, parts) for seed in seeds}
    for cell in chain.from_iterable(cells.values()):
        stage_settings(cell, plan, plan.stages[-1])  # check settings and cases before anything is written
    for cell in {cell.common(out): cell for cell in chain.from_iterable(cells.values())}.values():
        split = split_of(cell, cases, folds, validation)
        for stage in plan.stages:
            check_target_is_labelled(split.train, stage_settings(cell, plan, stage))
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    summary: dict[str, Any] = {}
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_process, initargs=(context.Value("i", 0), visible_cards())
    )
    with progress_bar(progress) as bar, pool:
        contents = {case.id: _digests(case) for case in bar.track(cases, description="comparing images")}
        images, labels = ({name: both[part] for name, both in contents.items()} for part in (0, 1))
        table = ResultTable(out, plain({**vars(plan), "cases": images, "labels": labels}))
        task = bar.add_task("cells", total=sum(map(len, cells.values())), note="")
        arguments = (plan, list(cases), out, threads)

        def add_to_table(cell: Cell) -> None:
            nonlocal summary
            table.add(vars(cell), **read_cell(cell, plan, out))
            summary = write_summary(table, plan, command, threads)
            bar.update(task, advance=1)

        for seed_cells in cells.values():
            waiting = [cell for cell in seed_cells if not table.has(vars(cell))]
            bar.update(task, advance=len(seed_cells) - len(waiting))
            one_per_folder = {cell.common(out): cell for cell in waiting}
            _run_in_pool(pool, train_common, list(one_per_folder.values()), arguments, lambda _: None)
            _run_in_pool(pool, run_cell, waiting, arguments, add_to_table)
    return summary or write_summary(table, plan, command, threads)


def _digests(case: Case) -> tuple[str, str]:
    """Digests of the image and of the label of a case: a repaired label would give other results in one table."""
    assert case.label is not None
    label = replace(case, image=case.label, label=None).digest()
    if case.label_map:
        label = hashlib.sha256(f"{label} {sorted(case.label_map.items())}".encode()).hexdigest()
    return case.digest(), label


def _run_in_pool(
    pool: ProcessPoolExecutor,
    function: Callable[..., None],
    cells: Sequence[Cell],
    arguments: tuple[Any, ...],
    on_finish: Callable[[Cell], None],
) -> None:
    """Call a function for each cell in a process of the pool, and ``on_finish`` here when a cell is finished."""
    futures = {pool.submit(function, cell, *arguments): cell for cell in cells}
    try:
        for future in as_completed(futures):
            future.result()
            on_finish(futures[future])
    except BrokenProcessPool as error:
        raise DualTaskError(
            "the process of a cell was killed, perhaps because the memory ran out",
            "repeat the command: finished cells are kept; fewer --jobs need less memory",
        ) from error
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def write_summary(table: ResultTable, plan: Plan, command: str, threads: int) -> dict[str, Any]:
    """Summarise the rows of a table and write ``summary.json``."""
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


#: The entries of a manifest that the table keeps of a cell, for ``read_json``.
_RECORDED = {"steps": StrictInt, "seconds": StrictFloat, "device": str, "versions": dict[str, str], "date": str}


def read_cell(cell: Cell, plan: Plan, out: Path) -> dict[str, Any]:
    """Read the results of a finished cell, as arguments of ``ResultTable.add``."""
    run = cell.folder(out) / plan.stages[-1]
    manifest, settings = read_json(run / MANIFEST, _RECORDED), stage_settings(cell, plan, plan.stages[-1])
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


def train_common(cell: Cell, plan: Plan, cases: Sequence[Case], out: Path, threads: int) -> None:
    """Train the earlier stages, which all arms share."""
    for stage in plan.stages[:-1]:
        _train(Cell(BASELINE, cell.protocol, cell.part, cell.seed), plan, cases, stage, cell.common(out), threads)


def run_cell(cell: Cell, plan: Plan, cases: Sequence[Case], out: Path, threads: int) -> None:
    """Train the last stage of one cell, test the cascade, and write the results of the cell."""
    folder = cell.folder(out)
    if (folder / CASES).exists():  # finished, but interrupted before the table was written
        return
    *early, last = plan.stages
    _train(cell, plan, cases, last, folder, threads)
    device = pick_device(Settings.of(plan.profile, plan.overrides).machine.device)
    models = [load_model(path, device) for path in (*(cell.common(out) / stage for stage in early), folder / last)]
    result = evaluate(models, split_of(cell, cases, plan.folds, plan.validation).test, heads=True, progress=False)
    if result.failed:  # all cells must be tested on the same cases
        raise DualTaskError(f"not evaluated: {result.failed}", "repair these cases, see dualtask data check")
    rows = [{name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()} for row in result.rows]
    write_rows(folder / CASES, rows)  # written last: its existence marks the cell as finished


def _start_process(started: Synchronized[int], card_ids: Sequence[str]) -> None:
    """Give a process of the pool its card, and end the process when its parent is killed."""
    select_card(started, card_ids)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


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
