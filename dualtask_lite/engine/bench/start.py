"""Measure time and memory until the first training step: with an empty and a filled cache, in one and two processes.

The cases are those of ``data.source``; their regions are stored in a temporary cache, which is empty at first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dualtask_lite import machine
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.bench.timing import four_digits
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.training.devices import rank
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError

PROCESSES = {
    1: (sys.executable,),
    2: (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
}


def first_step(settings: Settings) -> dict[str, Any]:
    """Seconds from the command to the end of its first step, and the peak memory of each process."""
    source = settings.data.source
    cases = find_cases(source)
    if not Path(source).exists():  # generated in the usual cache, and used from there
        source = os.path.commonpath([str(case.image) for case in cases])
    changes = {
        "data.source": os.path.abspath(source),
        "optimiser.steps": 2,  # the last step would validate before its callback; the first one stops the run
        "machine.validate_cases": 1,  # the run validates when it stops, which is not measured
        "optimiser.batch": max(PROCESSES),
        "machine.cache_regions": True,
    }
    results: dict[str, Any] = {"cases": len(cases)}
    for processes, launcher in PROCESSES.items():
        if processes > 1 and settings.machine.device == "cuda":
            continue  # two processes need two cards
        with tempfile.TemporaryDirectory() as name_of_folder:
            folder = Path(name_of_folder)
            settings.changed(changes).write(folder / "settings.yaml")
            for name in ("first", "again"):
                results[f"{name}, {processes} processes"] = _run(launcher, folder, name)
    return results


def _run(launcher: tuple[str, ...], folder: Path, name: str) -> dict[str, Any]:
    command = [*launcher, "-m", __spec__.name, str(folder), name]
    environment = {**os.environ, "DUALTASK_DATA": str(folder / "cache")}
    started = time.time()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        reason = finished.stderr.strip()[-500:]
        raise DualTaskError(f"the measured training failed: {reason}", "run it with dualtask train")
    records = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}-*.json"))]
    return {
        "seconds_to_first_step": four_digits(max(record["time"] for record in records) - started),
        "peak_memory_mb": [record["peak_memory_mb"] for record in records],
    }


def _train(folder: Path, name: str) -> None:
    """Do one training step; each process writes the time of its end and its peak memory."""
    settings = Settings.read(folder / "settings.yaml")
    end = 0.0  # remains 0 in other processes, since only process 0 calls the callback

    def stop(_: object) -> bool:
        nonlocal end
        end = time.time()
        return True

    train(settings, folder / name, progress=False, callback=stop)
    record = {"time": end, "peak_memory_mb": machine.peak_memory_mb()}
    (folder / f"{name}-{rank()}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    _train(Path(sys.argv[1]), sys.argv[2])
