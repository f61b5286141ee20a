"""Measure time and memory of predicting a whole case, and compare with a plain call of MONAI's sliding windows."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualtask_lite import machine
from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.masks import Box, dice
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.bench.timing import four_digits, wait
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.inference import WINDOWS, flips, predict_heads
from dualtask_lite.engine.monai import sliding_window_inference
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.run import Model, build_network, load_model, peak_memory_mb
from dualtask_lite.engine.training.devices import autocast, pick_device
from dualtask_lite.resources import data_file

CASE, CASE_SPACING = (512, 512, 300), (0.8, 0.8, 1.0)  # voxels and mm of the predicted case
ENLARGED = 4  # factor along each axis: generating a phantom of full size takes minutes


def predict(settings: Settings) -> dict[str, Any]:
    """Predict a case with an untrained stage for the whole volume, in a new process, to measure its memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(predict_case, settings, CASE, CASE_SPACING, torch.get_num_threads()).result()


def predict_case(
    settings: Settings, shape: tuple[int, int, int], spacing: tuple[float, float, float], threads: int
) -> dict[str, Any]:
    """Measure seconds and memory of predicting a synthetic case."""
    torch.set_num_threads(threads)
    model, scan = untrained_model(settings), synthetic_scan(shape, spacing)
    device = next(model.net.parameters()).device
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    predict_scan([model], scan)
    return {
        "seconds": four_digits(time.perf_counter() - wall_start),
        "cpu_seconds": four_digits(time.process_time() - cpu_start),
        "voxels": scan.volume.size,
        "shape": list(shape),
        "flips": settings.prediction.flips,
        "host_memory_mb": machine.peak_memory_mb(),
        "device_memory_mb": peak_memory_mb(device) if device.type == "cuda" else None,
    }


def compare_with_monai(settings: Settings) -> dict[str, Any]:
    """Compare the sliding windows of that prediction with the same windows and flips by MONAI alone."""
    return _compare(untrained_model(settings), synthetic_scan(CASE, CASE_SPACING))


def compare_reference_with_monai(settings: Settings) -> dict[str, Any]:
    """The same comparison with the reference model of the pancreas as it was trained; the masks must agree."""
    model = load_model(data_file("models/pancreas-coarse"), pick_device(settings.machine.device))
    return _compare(model, synthetic_scan(CASE, CASE_SPACING))


def untrained_model(settings: Settings) -> Model:
    """An untrained stage for the whole volume; its segmentation head is scaled to give a mask of many parts."""
    torch.manual_seed(0)
    settings = settings.changed({"stage": "pancreas-coarse"})
    net = build_network(settings).to(pick_device(settings.machine.device)).eval()
    torch.nn.init.normal_(net.seg_head.weight)
    return Model(net, settings, (), Path("untrained"))


def synthetic_scan(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Scan:
    """A CT of this size: an enlarged phantom of hospital C, surrounded by air."""
    size = [-(-side // ENLARGED) for side in shape]
    small = make_case("C", 0, size=size, spacing=[ENLARGED * mm for mm in spacing]).image
    volume = np.asarray(small)
    for axis in range(3):
        volume = volume.repeat(ENLARGED, axis)
    volume = volume[tuple(slice(side) for side in shape)]
    return Case("synthetic", "C", volume, None, np.diag([*spacing, 1.0])).load()


@torch.no_grad()
def _compare(model: Model, scan: Scan) -> dict[str, Any]:
    device = next(model.net.parameters()).device
    image = cut_region(scan, model.settings, Box.whole(scan.shape), labelled=False).image.to(device)
    with autocast(model.settings, device):
        model.net(image.new_zeros(WINDOWS, 1, *model.settings.sample.patch))  # warm-up
    probability, seconds = _timed(lambda: predict_heads(model.net, image, model.settings)[0], device)
    expected, monai_seconds = _timed(lambda: monai_probability(model, image), device)
    masks = [(maps >= model.settings.prediction.threshold).cpu().numpy() for maps in (probability, expected)]
    return {
        "cpu_seconds": seconds,
        "cpu_seconds_monai": monai_seconds,
        "flips": model.settings.prediction.flips,
        "share_of_air": four_digits(float((image == 0).float().mean())),
        "dice_of_masks": round(float(dice(*masks)), 6),
        "mask_voxels": int(masks[1].sum()),
        "largest_difference": four_digits(float((probability - expected).abs().max())),
    }


@torch.no_grad()
def monai_probability(model: Model, image: torch.Tensor) -> torch.Tensor:
    """(1, X, Y, Z) -> (X, Y, Z): probability of the segmentation head by MONAI's ``sliding_window_inference`` alone."""
    settings, batch = model.settings, image[None]
    total = torch.zeros_like(batch)

    def by_segmentation(crops: torch.Tensor) -> torch.Tensor:
        with autocast(settings, crops.device):  # as exact as the prediction that it is compared with
            outputs = model.net(crops)
        return outputs.seg.float().sigmoid()

    for axes in flips(settings.prediction.flips):
        maps = sliding_window_inference(
            batch.flip(axes),
            settings.sample.patch,
            WINDOWS,
            by_segmentation,
            settings.prediction.overlap,
            mode="gaussian",
        )
        assert isinstance(maps, torch.Tensor)
        total += maps.flip(axes)
    return total[0, 0] / settings.prediction.flips


def _timed(action: Callable[[], torch.Tensor], device: torch.device) -> tuple[torch.Tensor, float]:
    """The result of an action and its seconds: CPU time, or wall time on a card."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait(device)
    started = clock()
    result = action()
    wait(device)
    return result, four_digits(clock() - started)
