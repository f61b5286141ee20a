"""The same data, steps and test cases for every arm: what the domain gap is, and what each term buys.

A cell is one arm, protocol, test centre and seed. It trains a cascade and tests it, from the whole volume, on the
same cases of the test centre whatever the protocol:

* ``in-domain``: trained on other cases of that centre;
* ``unseen``: trained on as many cases of the other centres.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.splits import Split, leave_one_centre_out, within_centre
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.devices import pick_device
from dualtask_lite.engine.evaluate import evaluate, plain
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.run import MODEL, load_model, provenance, read_rows, write_json, write_rows
from dualtask_lite.engine.train import train
from dualtask_lite.errors import DualTaskError

_ONLY = {
    "seg": 1.0,
    "dist": 0.0,
    "conv_mask": 0.0,
    "conv_distance": 0.0,
    "out": 0.0,
    "feat": 0.0,
    "slice": 0.0,
}


def _arm(views: int = 1, **weights: float) -> dict[str, Any]:
    return {
        "views.count": views,
        **{f"objective.weights.{name}": value for name, value in (_ONLY | weights).items()},
    }


ARMS: dict[str, dict[str, Any]] = {
    "segmentation": _arm(),
    "distance": _arm(dist=1.0),
    "conversion": _arm(dist=1.0, conv_mask=1.0, conv_distance=1.0),
}
PROTOCOLS = ("in-domain", "unseen")


@dataclass(frozen=True)
class Cell:
    """One training and test of the matrix."""

    arm: str
    protocol: str
    centre: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where the cell's runs and rows are kept."""
        return out / "cells" / self.arm / f"{self.protocol}-{self.centre}-{self.seed}"


def ablate(
    profile: str,
    overrides: Mapping[str, Any],
    cases: Sequence[Case],
    out: Path,
    *,
    stages: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    jobs: int = 1,
    command: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Train and test all cells; those that are done already are kept.

    Args:
        profile: of the settings that all cells share.
        overrides: settings by dotted name, for all cells and stages; seed, views and weights are the cells' own.
        cases: labelled cases of at least two centres.
        out: folder for the cells, ``cases.csv`` and ``summary.json``.
        stages: the stages of the cascade, in order.
        arms: names of ``ARMS``.
        seeds: of the split, the weights and the samples.
        jobs: cells at a time, each in its own process.
        command: what to type to get the same table; kept in ``summary.json``.
        progress: show a bar when standard error is a terminal.

    Returns:
        The summary: per target, arm and protocol the mean over cases and the spread over seeds, and the gap.
    """
    centres = sorted({case.centre for case in cases})
    cells = [Cell(a, p, c, s) for s in seeds for a in arms for c in centres for p in PROTOCOLS]
    waiting = [cell for cell in cells if not (cell.folder(out) / "cases.csv").exists()]
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    with progress_bar(progress) as bar, ProcessPoolExecutor(jobs, mp_context=context) as pool:
        task = bar.add_task("cells", total=len(cells), completed=len(cells) - len(waiting), note="")
        shared = (profile, overrides, list(cases), out, stages, threads)
        futures = [pool.submit(run_cell, cell, *shared) for cell in waiting]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(task, advance=1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = [row for cell in cells for row in _rows(cell, out)]
    write_rows(out / "cases.csv", rows)
    summary = summarise_cells(rows)
    how = {"command": command, "stages": list(stages), "seeds": list(seeds), "threads_a_cell": threads}
    asked = {"profile": profile, "overrides": dict(overrides)}
    device = pick_device(Settings.of(profile, overrides).machine.device)
    write_json(out / "summary.json", plain({**how, **asked, **provenance(device), "results": summary}))
    return summary


def run_cell(
    cell: Cell,
    profile: str,
    overrides: Mapping[str, Any],
    cases: Sequence[Case],
    out: Path,
    stages: Sequence[str],
    threads: int,
) -> None:
    """Train the stages of one cell, test them, and write the cell's rows."""
    torch.set_num_threads(threads)
    folder = cell.folder(out)
    split = split_of(cell, cases)
    for stage in stages:
        run = folder / stage
        if not (run / MODEL).exists():
            train(stage_settings(cell, profile, overrides, stage), run, split=split, resume=True, progress=False)
    device = pick_device(Settings.of(profile, overrides).machine.device)
    models = [load_model(folder / stage, device) for stage in stages]
    result = evaluate(models, split.test, progress=False)
    if result.failed:  # a case fewer would make the cells differ in what they were tested on
        raise DualTaskError(f"not evaluated: {result.failed}", "mend these cases, see dualtask data check")
    write_rows(folder / "cases.csv", result.rows)


def stage_settings(cell: Cell, profile: str, overrides: Mapping[str, Any], stage: str) -> Settings:
    """Settings of one stage of a cell: what all cells share, under the cell's arm and seed."""
    shared = Settings.of(profile, {**overrides, "stage": stage})
    return shared.changed({"seed": cell.seed, **ARMS[cell.arm]})


def split_of(cell: Cell, cases: Sequence[Case]) -> Split:
    """Both protocols test on the same cases and train on equally many; only where those come from differs."""
    inside = within_centre(cases, cell.centre, test=0.5, validation=0.0, seed=cell.seed)
    if cell.protocol == "in-domain":
        return inside
    outside = leave_one_centre_out(cases, cell.centre, validation=0.0, seed=cell.seed).train
    order = np.random.default_rng(cell.seed).permutation(len(outside))[: len(inside.train)]
    return Split(train=tuple(outside[i] for i in sorted(order)), validation=(), test=inside.test)


def _rows(cell: Cell, out: Path) -> Iterator[dict[str, Any]]:
    for row in read_rows(cell.folder(out) / "cases.csv"):
        yield {"arm": cell.arm, "protocol": cell.protocol, "seed": cell.seed, **row}


def summarise_cells(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = ("dice", "nsd_2mm")) -> dict[str, Any]:
    """Mean over cases in each seed, then mean and standard deviation over seeds; ``gap`` is in-domain minus unseen."""
    summary: dict[str, Any] = {}
    for target in dict.fromkeys(row["target"] for row in rows):
        for arm in dict.fromkeys(row["arm"] for row in rows):
            of_arm = [row for row in rows if row["target"] == target and row["arm"] == arm]
            for metric in metrics:
                means = {p: _seed_means([r for r in of_arm if r["protocol"] == p], metric) for p in PROTOCOLS}
                gap = {seed: value - means["unseen"][seed] for seed, value in means["in-domain"].items()}
                summary.setdefault(target, {}).setdefault(arm, {})[metric] = {
                    name: _spread(list(values.values())) for name, values in {**means, "gap": gap}.items()
                }
    return summary


def _seed_means(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(int(row["seed"]), []).append(float(row[metric]))
    return {seed: float(np.nanmean(of_seed)) for seed, of_seed in values.items()}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {
        "mean": round(float(np.mean(values)), 4),
        "sd_over_seeds": sd and round(sd, 4),
        "seeds": len(values),
    }
