"""What half an hour with a card can answer, by one command: most important first, written as it goes, gone on with.

In this order: the tests that need a card, where the repository is there; a step and a prediction, plain and tuned; the
memory of each profile; and with the rest of the time the reference table. It needs the package and torch, no network.
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
from dualtask_lite.engine.bench.timing import short
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import read_json, read_rows, write_json
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.engine.training.memory import release_memory, step_bytes

ARMS = ("segmentation", "conversion", "full")
STAGES = ("pancreas-coarse", "tumour-coarse")
EXAM_SEED = 1  # of the patients of the exam; the committed tables have 0
TESTS = Path(dualtask_lite.__file__).parents[1] / "tests" / "gpu"
FEWEST_STEPS = 50  # of a training of the table
BENCH, REPORT, TABLE = "bench.json", "card.json", "table"


def half_hour(
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
    """Run everything that the time allows; what is done is kept, so that the same command goes on.

    Args:
        profile: of the settings.
        overrides: settings by dotted name.
        folder: gets ``bench.json``, ``card.json``, the exam's cases and the table.
        minutes: from now; what is being trained then is cut and goes on with the next call.
        arms: of the table, the most important first.
        seeds: of the table.
        source: the cases that the table trains on.
        exam_cases: cases of the exam's hospital that it tests on; by default as many as the embedded exam has.
        command: what was typed.

    Returns:
        What ``card.json`` holds: ``results`` by name, and ``bench``, see ``engine.bench.bench``.
    """
    end = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / REPORT
    report: dict[str, Any] = read_json(file) if file.exists() else {"results": {}, "bench": {"results": {}}}
    done = report["results"]

    def once(name: str, measure: Callable[[], Any]) -> None:
        if name not in done and time.monotonic() < end:
            done[name] = measure()
            write_json(file, report)

    once("tests", lambda: run_tests(max(60.0, end - time.monotonic())))
    for part in ALL:
        for name in PARTS[part]:
            if time.monotonic() < end:
                report["bench"] = bench([part], profile, overrides, folder / BENCH, command=command, only=name)
    once("memory", lambda: memory_of_profiles(overrides))
    once("exam", lambda: str(make_exam(folder / "exam", seed=EXAM_SEED, shift=0, cases=exam_cases).name))
    if "exam" in done:
        left = end - time.monotonic()
        seconds = report["bench"]["results"].get("step, tuned", {}).get("seconds")
        once("steps", lambda: steps_of_table(Settings.of(profile, overrides), left, seconds, len(arms), seeds))
    if "steps" in done:
        changed = {**overrides, "optimiser.steps": done["steps"]}
        done["table"] = train_table(
            profile, changed, folder, f"{source},{folder / 'exam'}", arms, seeds, end - time.monotonic()
        )
    write_json(file, report)
    return report


def run_tests(seconds: float) -> dict[str, Any]:
    """The tests that need a card, where they and pytest are there."""
    if not TESTS.is_dir() or importlib.util.find_spec("pytest") is None:
        return {"not_run": "the tests of the repository, or pytest, are not here"}
    command = [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "-q", "-m", "gpu", str(TESTS)]
    try:
        ran = subprocess.run(
            command, cwd=TESTS.parents[1], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"not_finished": f"after {seconds:.0f} s"}
    return {"exit_code": ran.returncode, "last_lines": ran.stdout.splitlines()[-30:]}


def memory_of_profiles(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Estimated memory of a tumour-fine step by profile, and on a card the peak of a real one, in MB."""
    found = {}
    for profile in ("laptop", "colab", "gpu", "paper"):
        settings = Settings.of(profile, {"stage": "tumour-fine", **overrides})
        device = torch.device(pick_device(settings.machine.device))
        found[profile] = {"estimated_mb": short(step_bytes(settings, device.type) / 2**20)}
        if device.type == "cuda":
            release_memory(device)
            found[profile] |= {key: value for key, value in tuned_step(settings).items() if key in _OF_A_STEP}
    return found


_OF_A_STEP = ("seconds", "precision", "peak_memory_mb", "failed")


def steps_of_table(settings: Settings, seconds: float, a_step: float | None, arms: int, seeds: int) -> int:
    """Steps of each training, so that all of them fill the time; each seed also trains a stage that all arms share."""
    if not a_step:
        return FEWEST_STEPS
    return max(FEWEST_STEPS, min(settings.optimiser.steps, int(0.7 * seconds / ((arms + 1) * seeds * a_step))))


def train_table(
    profile: str,
    overrides: Mapping[str, Any],
    folder: Path,
    source: str,
    arms: Sequence[str],
    seeds: int,
    seconds: float,
) -> dict[str, Any]:
    """Go on with the table for so many seconds; returns how many of its cells are done."""
    words = ["ablate", "--profile", profile, "--source", source, "--protocol", "leave-one-centre-out", "--part", "D"]
    words += [word for stage in STAGES for word in ("--stage", stage)]
    words += [word for arm in arms for word in ("--arm", arm)]
    words += [word for name, value in overrides.items() for word in ("--set", f"{name}={value}")]
    words += ["--seeds", str(seeds), "-o", str(folder / TABLE)]
    record: dict[str, Any] = {"command": " ".join(["dualtask", *words])}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "dualtask_lite", *words],
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            check=False,
        )
        if ran.returncode:
            record["failed"] = ran.stderr.splitlines()[-5:]
    except subprocess.TimeoutExpired:
        record["cut"] = "the time was over; the same command goes on"
    cells = {(row["arm"], row["seed"]) for row in read_rows(folder / TABLE / "cases.csv")}
    return {**record, "cells_done": len(cells), "cells": len(arms) * seeds}
