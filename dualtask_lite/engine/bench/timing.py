"""How long something takes: repeated until it is known well enough, in wall and in CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

SECONDS, REPEATS = 30.0, 30  # a measure ends with whichever comes first, after at least 3 repeats


def repeat(action: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Median and smallest seconds of an action, after one call that warms up."""
    action()
    wall: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(wall) < 3 or (len(wall) < REPEATS and time.perf_counter() < end):
        wait(device)
        started, used = time.perf_counter(), time.process_time()
        action()
        wait(device)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {
        "seconds": short(statistics.median(wall)),
        "seconds_min": short(min(wall)),
        "cpu_seconds": short(statistics.median(cpu)),
        "cpu_seconds_min": short(min(cpu)),
        "repeats": len(wall),
    }


def wait(device: torch.device) -> None:
    """Wait until a card has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def short(value: float) -> float:
    """Four digits: more are noise."""
    return float(f"{value:.4g}")
