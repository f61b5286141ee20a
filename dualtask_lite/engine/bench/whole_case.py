"""How long a whole case takes to predict, in how much memory, and beside MONAI's sliding windows called plainly."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualtask_lite import machine
from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.masks import Box, dice
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.bench.timing import short, wait
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.medical import sliding_window_inference
from dualtask_lite.engine.predict import WINDOWS, flips, predict_heads, predict_scan
from dualtask_lite.engine.run import Model, build_network, load_model, peak_memory_mb
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.resources import data_file

CASE, CASE_SPACING = (512, 512, 300), (0.8, 0.8, 1.0)  # voxels and mm of the case that is predicted
ENLARGED = 4  # times along each axis: a phantom of the full size takes minutes to make


def predict(settings: Settings) -> dict[str, Any]:
    """One whole case through an untrained stage that sees all of it, in a process of its own for its memory's sake."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(predict_case, settings, CASE, CASE_SPACING, torch.get_num_threads()).result()


def predict_case(
    settings: Settings, shape: tuple[int, int, int], spacing: tuple[float, float, float], threads: int
) -> dict[str, Any]:
    """Seconds and memory of one made-up case."""
    torch.set_num_threads(threads)
    model, scan = untrained(settings), made_scan(shape, spacing)
    device = next(model.net.parameters()).device
    started, used = time.perf_counter(), time.process_time()
    predict_scan([model], scan)
    return {
        "seconds": short(time.perf_counter() - started),
        "cpu_seconds": short(time.process_time() - used),
        "voxels": scan.volume.size,
        "shape": list(shape),
        "flips": settings.prediction.flips,
        "host_memory_mb": machine.peak_memory_mb(),
        "device_memory_mb": peak_memory_mb(device) if device.type == "cuda" else None,
    }


def beside_monai(settings: Settings) -> dict[str, Any]:
    """The network's part of that prediction, and the same windows and flips by MONAI alone."""
    return _beside(untrained(settings), made_scan(CASE, CASE_SPACING))


def reference_beside_monai(settings: Settings) -> dict[str, Any]:
    """The same with the shipped model of the pancreas on its own grid, whose mask must stay."""
    model = load_model(data_file("models/pancreas-coarse"), pick_device(settings.machine.device))
    changes = {"prediction.overlap": settings.prediction.overlap, "prediction.flips": settings.prediction.flips}
    return _beside(replace(model, settings=model.settings.changed(changes)), made_scan(CASE, CASE_SPACING))


def untrained(settings: Settings) -> Model:
    """A stage that sees the whole volume; its head has weights large enough for a mask of many parts."""
    torch.manual_seed(0)
    whole = settings.changed({"stage": "pancreas-coarse"})
    net = build_network(whole).to(pick_device(settings.machine.device)).eval()
    torch.nn.init.normal_(net.seg_head.weight)
    return Model(net, whole, (), Path("untrained"))


def made_scan(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Scan:
    """A patient of hospital C in the middle of a CT of this size, with air around."""
    size = [-(-side // ENLARGED) for side in shape]
    small = make_case("C", 0, size=size, spacing=[ENLARGED * mm for mm in spacing]).image
    volume = np.asarray(small)
    for axis in range(3):
        volume = volume.repeat(ENLARGED, axis)
    volume = volume[tuple(slice(side) for side in shape)]
    return Case("made", "C", volume, None, np.diag([*spacing, 1.0])).load()


@torch.no_grad()
def _beside(model: Model, scan: Scan) -> dict[str, Any]:
    device = next(model.net.parameters()).device
    image = cut_region(scan, model.settings, Box.whole(scan.shape), labelled=False).image.to(device)
    model.net(image.new_zeros(WINDOWS, 1, *model.settings.sample.patch))  # warms up
    ours, seconds = _timed(lambda: predict_heads(model.net, image, model.settings)[0], device)
    plain, plain_seconds = _timed(lambda: plain_probability(model, image), device)
    masks = [(maps >= model.settings.prediction.threshold).cpu().numpy() for maps in (ours, plain)]
    return {
        "cpu_seconds": seconds,
        "cpu_seconds_monai": plain_seconds,
        "flips": model.settings.prediction.flips,
        "share_of_air": short(float((image == 0).float().mean())),
        "dice_of_masks": round(float(dice(*masks)), 6),
        "mask_voxels": int(masks[1].sum()),
        "largest_difference": short(float((ours - plain).abs().max())),
    }


@torch.no_grad()
def plain_probability(model: Model, image: torch.Tensor) -> torch.Tensor:
    """(1, X, Y, Z) -> (X, Y, Z): the segmentation's probability, as MONAI's ``sliding_window_inference`` gives it."""
    settings, batch = model.settings, image[None]
    total = torch.zeros_like(batch)
    for axes in flips(settings.prediction.flips):
        maps = sliding_window_inference(
            batch.flip(axes),
            settings.sample.patch,
            WINDOWS,
            lambda crops: model.net(crops).seg.sigmoid(),
            settings.prediction.overlap,
            mode="gaussian",
        )
        assert isinstance(maps, torch.Tensor)
        total += maps.flip(axes)
    return total[0, 0] / settings.prediction.flips


def _timed(action: Callable[[], torch.Tensor], device: torch.device) -> tuple[torch.Tensor, float]:
    """The result and its seconds: of the CPU, or of the clock where a card works."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait(device)
    started = clock()
    result = action()
    wait(device)
    return result, short(clock() - started)
