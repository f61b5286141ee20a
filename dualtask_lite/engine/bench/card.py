"""Run all measurements that need a card within a time limit, the most important first, with one command.

The order is: the tests that need a card, if the repository is available; a training step and a prediction, untuned and
tuned; the memory of each profile; and in the remaining time the table of arms. Each result is written when it is
finished, and the same command continues with the missing ones. It needs the package and torch, but no network.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import dualtask_lite
from dualtask_lite.cases.exam import make_exam
from dualtask_lite.engine.bench import ALL, PARTS, bench
from dualtask_lite.engine.bench.step import tuned_step
from dualtask_lite.engine.bench.timing import four_digits
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging.plan import option_of
from dualtask_lite.engine.records import read_json, read_rows, write_json
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.engine.training.memory import release_memory, step_bytes

ARMS = ("segmentation", "conversion", "full")
STAGES = ("pancreas-coarse", "tumour-coarse")
EXAM_SEED = 1  # of the patients of the exam; the committed tables use 0
TESTS = Path(dualtask_lite.__file__).parents[1] / "tests" / "gpu"
_STEP_KEYS = ("seconds", "precision", "peak_memory_mb", "failed")  # of a measured step, for the memory of profiles
FEWEST_STEPS = 50  # minimum for each training run of the table
BENCH, REPORT, TABLE = "bench.json", "card.json", "table"


def measure_card(
    profile: str,
    overrides: Mapping[str, Any],
    folder: Path,
    *,
    minutes: float,
    arms: Sequence[str] = ARMS,
    seeds: int = 5,
    source: str = "phantom-48",
    exam_cases: int | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Run all measurements that fit into the time; repeating the call continues an unfinished one.

    Args:
        profile: of the settings.
        overrides: settings by dotted name.
        folder: for ``bench.json``, ``card.json``, the cases of the exam and the table.
        minutes: time limit; a training that it interrupts continues in the next call.
        arms: of the table, the most important first.
        seeds: number of seeds of the table.
        source: the training cases of the table.
        exam_cases: number of test cases, from the hospital of the exam; by default as many as in the embedded exam.
        command: the command line, recorded in ``bench.json``.

    Returns:
        Content of ``card.json``: ``results`` by name, and ``bench``, see ``engine.bench.bench``.
    """
    end = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / REPORT
    report: dict[str, Any] = read_json(file) if file.exists() else {"results": {}, "bench": {"results": {}}}
    results = report["results"]

    def once(name: str, measure: Callable[[], Any]) -> None:
        if name not in results and time.monotonic() < end:
            results[name] = measure()
            write_json(file, report)

    once("tests", lambda: run_tests(max(60.0, end - time.monotonic())))
    for part in ALL:
        for name in PARTS[part]:
            if time.monotonic() < end:
                report["bench"] = bench([part], profile, overrides, folder / BENCH, command=command, only=name)
    once("memory", lambda: memory_of_profiles(overrides))
    once("exam", lambda: str(make_exam(folder / "exam", seed=EXAM_SEED, shift=0, cases=exam_cases).name))
    if "exam" in results:
        remaining = end - time.monotonic()
        step_seconds = report["bench"]["results"].get("step, tuned", {}).get("seconds")
        settings = Settings.of(profile, overrides)
        once("steps", lambda: steps_of_table(settings, remaining, step_seconds, len(arms), seeds))
    if "steps" in results:
        changed = {**overrides, "optimiser.steps": results["steps"]}
        results["table"] = train_table(
            profile, changed, folder, f"{source},{folder / 'exam'}", arms, seeds, end - time.monotonic()
        )
    write_json(file, report)
    return report


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests that need a card, if they and pytest are available."""
    if not TESTS.is_dir() or importlib.util.find_spec("pytest") is None:
        return {"not_run": "the tests of the repository, or pytest, are not available"}
    command = [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "-q", "-m", "gpu", str(TESTS)]
    try:
        finished = subprocess.run(
            command, cwd=TESTS.parents[1], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"not_finished": f"after {seconds:.0f} s"}
    return {"exit_code": finished.returncode, "last_lines": finished.stdout.splitlines()[-30:]}


def memory_of_profiles(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Estimated memory of a tumour-fine step for each profile, and on a card the measured peak, in MB."""
    memory = {}
    for profile in ("laptop", "colab", "gpu", "paper"):
        settings = Settings.of(profile, {"stage": "tumour-fine", **overrides})
        device = torch.device(pick_device(settings.machine.device))
        memory[profile] = {"estimated_mb": four_digits(step_bytes(settings, device.type) / 2**20)}
        if device.type == "cuda":
            release_memory(device)
            memory[profile] |= {key: value for key, value in tuned_step(settings).items() if key in _STEP_KEYS}
    return memory


def steps_of_table(settings: Settings, seconds: float, step_seconds: float | None, arms: int, seeds: int) -> int:
    """Steps of each training run so that all fit into the time; each seed also trains a stage that all arms share."""
    if not step_seconds:
        return FEWEST_STEPS
    return max(FEWEST_STEPS, min(settings.optimiser.steps, int(0.7 * seconds / ((arms + 1) * seeds * step_seconds))))


def train_table(
    profile: str,
    overrides: Mapping[str, Any],
    folder: Path,
    source: str,
    arms: Sequence[str],
    seeds: int,
    seconds: float,
) -> dict[str, Any]:
    """Continue the table for a number of seconds; returns how many of its cells are finished."""
    arguments = ["ablate", "--profile", profile, "--source", source]
    arguments += ["--protocol", "leave-one-centre-out", "--part", "D"]
    arguments += [argument for stage in STAGES for argument in ("--stage", stage)]
    arguments += [argument for arm in arms for argument in ("--arm", arm)]
    shared = {name: value for name, value in overrides.items() if option_of(name) is None}  # ablate refuses the others
    arguments += [argument for name, value in shared.items() for argument in ("--set", f"{name}={value}")]
    arguments += ["--seeds", str(seeds), "-o", str(folder / TABLE)]
    record: dict[str, Any] = {"command": " ".join(["dualtask", *arguments])}
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "dualtask_lite", *arguments],
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            check=False,
        )
        if finished.returncode:
            record["failed"] = finished.stderr.splitlines()[-5:]
    except subprocess.TimeoutExpired:
        record["cut"] = "the time was over; the same command continues"
    cells = {(row["arm"], row["seed"]) for row in read_rows(folder / TABLE / "cases.csv")}
    return {**record, "cells_done": len(cells), "cells": len(arms) * seeds}
