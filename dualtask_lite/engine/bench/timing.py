"""Measure the time of an action by repetition: wall time and CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

SECONDS, REPEATS = 30.0, 30  # a measurement ends at whichever comes first, but after at least 3 repeats


def repeat(action: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Median and minimum of the seconds of an action, after one warm-up call."""
    action()
    wall: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(wall) < 3 or (len(wall) < REPEATS and time.perf_counter() < end):
        wait(device)
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        action()
        wait(device)
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    return {
        "seconds": four_digits(statistics.median(wall)),
        "seconds_min": four_digits(min(wall)),
        "cpu_seconds": four_digits(statistics.median(cpu)),
        "cpu_seconds_min": four_digits(min(cpu)),
        "repeats": len(wall),
    }


def wait(device: torch.device) -> None:
    """Wait until a card has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def four_digits(value: float) -> float:
    """Round to four significant digits; more would be noise."""
    return float(f"{value:.4g}")
