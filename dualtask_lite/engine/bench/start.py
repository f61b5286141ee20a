"""How long a training takes to its first step and in how much memory: the first time and again, in one process and two.

The cases are those of ``data.source``; their regions are kept in a cache of its own, which is empty at first.
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
from dualtask_lite.engine.bench.timing import short
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
    if not Path(source).exists():  # made once in the cache that is left behind
        source = os.path.commonpath([str(case.image) for case in cases])
    changes = {
        "data.source": os.path.abspath(source),
        "optimiser.steps": 1,
        "optimiser.batch": max(PROCESSES),
        "machine.cache_regions": True,
    }
    found: dict[str, Any] = {"cases": len(cases)}
    for processes, launcher in PROCESSES.items():
        if processes > 1 and settings.machine.device == "cuda":
            continue  # two processes need two cards
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder)
            settings.changed(changes).write(where / "settings.yaml")
            for name in ("first", "again"):
                found[f"{name}, {processes} processes"] = _run(launcher, where, name)
    return found


def _run(launcher: tuple[str, ...], folder: Path, name: str) -> dict[str, Any]:
    command = [*launcher, "-m", __spec__.name, str(folder), name]
    environment = {**os.environ, "DUALTASK_DATA": str(folder / "cache")}
    began = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DualTaskError(f"the training that is measured failed: {done.stderr.strip()[-500:]}", "run it by itself")
    records = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}-*.json"))]
    return {
        "seconds_to_first_step": short(max(one["time"] for one in records) - began),
        "peak_memory_mb": [one["peak_memory_mb"] for one in records],
    }


def _train(folder: Path, name: str) -> None:
    """One step of a training; each process writes when it was done, and in how much memory."""
    settings = Settings.read(folder / "settings.yaml")
    done = 0.0  # stays 0 in the other processes, since only process 0 has a callback

    def stop(_: object) -> bool:
        nonlocal done
        done = time.time()
        return True

    train(settings, folder / name, progress=False, callback=stop)
    record = {"time": done, "peak_memory_mb": machine.peak_memory_mb()}
    (folder / f"{name}-{rank()}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    _train(Path(sys.argv[1]), sys.argv[2])
