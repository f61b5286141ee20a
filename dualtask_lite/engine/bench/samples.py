"""How fast samples are made, and what of their time each part takes."""

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
from dualtask_lite.engine.bench.timing import REPEATS, repeat, short
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Region, Samples
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.distance import signed_distance

# What a sample goes through; the rest of its time is the dataset's own.
CALLS = ("draw_centre", "draw_change", "move", "recolour", "signed_distance", "core_and_shell")


def pipeline(settings: Settings) -> dict[str, Any]:
    """Samples with all augmentations, distance, core and shell: on one core, and by the loader's processes."""
    region = made_region(settings)
    samples = Samples([region], settings, range(1_000_000))
    numbers = iter(range(len(samples)))
    generator = torch.Generator().manual_seed(0)

    def one() -> None:
        sample = samples[next(numbers)]
        core_and_shell(sample["mask"][None], sample["distance_mm"][None], generator=generator)

    with _threads(1):
        found = repeat(one, torch.device("cpu"))
        with Profile() as profile:
            for _ in range(found["repeats"]):
                one()
    calls: Any = Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in calls.values())
    spent = {name: sum(value[3] for (_, _, called), value in calls.items() if called == name) for name in CALLS}
    share = {name: short(seconds / total) for name, seconds in spent.items()}
    workers = min(max(1, settings.machine.workers), os.cpu_count() or 1)
    per_second = _loader_rate(samples, workers)
    return {
        **found,
        "samples_per_second_one_core": short(1 / found["seconds"]),
        "loader_processes": workers,
        "loader_samples_per_second": per_second,
        "loader_samples_per_second_and_process": short(per_second / workers),
        "distance_bit_equal_to_scipy": _equals_scipy(region),
        "share": {**share, "rest": short(1 - sum(share.values()))},
    }


def made_region(settings: Settings) -> Region:
    """A noisy region with a ball in its middle, on the working grid, as large as a tumour-fine stage may see."""
    shape = tuple(side * 3 // 2 for side in settings.sample.patch)
    away = np.meshgrid(*((np.arange(n) - n / 2) * s for n, s in zip(shape, settings.sample.spacing, strict=True)))
    ball = (
        sum(axis**2 for axis in away) < (0.2 * settings.sample.patch[0] * settings.sample.spacing[0]) ** 2
    ).swapaxes(0, 1)
    image = np.random.default_rng(0).normal(0.4 + 0.2 * ball, 0.05).clip(0, 1).astype(np.float32)
    mask = torch.from_numpy(ball.astype(np.uint8))[None]
    return Region("made", torch.from_numpy(image)[None], mask, settings.sample.spacing, Box.whole(shape))


def _loader_rate(samples: Samples, workers: int) -> float:
    """Samples a second from so many processes, each on one core."""
    made, started, first = 0, 0.0, 0
    for made, _ in enumerate(DataLoader(samples, batch_size=None, num_workers=workers), start=1):
        if made == 2 * workers:  # all processes have begun
            started, first = time.perf_counter(), made
        if started and (made - first >= REPEATS * workers or time.perf_counter() - started > timing.SECONDS):
            break
    return short((made - first) / (time.perf_counter() - started))


def _equals_scipy(region: Region) -> bool:
    from scipy import ndimage

    inside = np.asarray(region.mask)[0] > 0
    outside, depth = (ndimage.distance_transform_edt(side, region.spacing) for side in (~inside, inside))
    return bool((signed_distance(inside, region.spacing) == (outside - depth).astype(np.float32)).all())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
