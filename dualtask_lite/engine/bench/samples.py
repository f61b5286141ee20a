"""Measure how fast samples are generated, and which share of the time each function takes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from cProfile import Profile
from pstats import Stats
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dualtask_lite.cases.masks import Box
from dualtask_lite.engine.bench import timing
from dualtask_lite.engine.bench.timing import REPEATS, four_digits, repeat
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Region, Samples
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.distance import signed_distance

# Functions whose share of the time is reported; the rest is the code of the dataset itself.
CALLS = ("draw_centre", "draw_change", "move", "recolour", "signed_distance", "core_and_shell")


def pipeline(settings: Settings) -> dict[str, Any]:
    """Time of samples with all augmentations, distance, core and shell: on one core, and in the loader's processes."""
    region = synthetic_region(settings)
    samples = Samples([region], settings, range(1_000_000))
    indices = iter(range(len(samples)))
    generator = torch.Generator().manual_seed(0)

    def generate_sample() -> None:
        sample = samples[next(indices)]
        core_and_shell(sample["mask"][None], sample["distance_mm"][None], generator=generator)

    with _threads(1):
        times = repeat(generate_sample, torch.device("cpu"))
        with Profile() as profile:
            for _ in range(times["repeats"]):
                generate_sample()
    calls: Any = Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in calls.values())
    # Entry 3 of a profile is the cumulative time, with that of called functions.
    seconds_of = {name: sum(entry[3] for (_, _, called), entry in calls.items() if called == name) for name in CALLS}
    share = {name: four_digits(seconds / total) for name, seconds in seconds_of.items()}
    workers = min(max(1, settings.machine.workers), os.cpu_count() or 1)
    per_second = _loader_rate(samples, workers)
    return {
        **times,
        "samples_per_second_one_core": four_digits(1 / times["seconds"]),
        "loader_processes": workers,
        "loader_samples_per_second": per_second,
        "loader_samples_per_second_and_process": four_digits(per_second / workers),
        "distance_bit_equal_to_scipy": _equals_scipy(region),
        "share": {**share, "rest": four_digits(1 - sum(share.values()))},
    }


def synthetic_region(settings: Settings) -> Region:
    """A noisy region with a ball in its centre, on the working grid, as large as the largest region of tumour-fine."""
    shape = tuple(side * 3 // 2 for side in settings.sample.patch)
    offsets = np.meshgrid(*((np.arange(n) - n / 2) * s for n, s in zip(shape, settings.sample.spacing, strict=True)))
    ball = (
        sum(axis**2 for axis in offsets) < (0.2 * settings.sample.patch[0] * settings.sample.spacing[0]) ** 2
    ).swapaxes(0, 1)
    image = np.random.default_rng(0).normal(0.4 + 0.2 * ball, 0.05).clip(0, 1).astype(np.float32)
    mask = torch.from_numpy(ball.astype(np.uint8))[None]
    return Region("synthetic", torch.from_numpy(image)[None], mask, settings.sample.spacing, Box.whole(shape))


def _loader_rate(samples: Samples, workers: int) -> float:
    """Samples per second of several loader processes, each on one core."""
    count, started, first = 0, 0.0, 0
    for count, _ in enumerate(DataLoader(samples, batch_size=None, num_workers=workers), start=1):
        if count == 2 * workers:  # all processes have started
            started, first = time.perf_counter(), count
        if started and (count - first >= REPEATS * workers or time.perf_counter() - started > timing.SECONDS):
            break
    return four_digits((count - first) / (time.perf_counter() - started))


def _equals_scipy(region: Region) -> bool:
    """Whether the signed distance is identical to that of SciPy."""
    from scipy import ndimage

    inside = np.asarray(region.mask)[0] > 0
    outside, depth = (ndimage.distance_transform_edt(side, region.spacing) for side in (~inside, inside))
    return bool((signed_distance(inside, region.spacing) == (outside - depth).astype(np.float32)).all())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use a number of threads, and restore the previous number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
