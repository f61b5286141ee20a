"""How long a whole case takes to predict, and in how much memory."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from dualtask_lite import machine
from dualtask_lite.cases.case import Scan
from dualtask_lite.engine.bench.timing import short
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.run import Model, build_network, peak_memory_mb
from dualtask_lite.engine.training.devices import pick_device

CASE, CASE_SPACING = (512, 512, 300), (0.8, 0.8, 1.0)  # voxels and mm of the case that is predicted


def predict(settings: Settings) -> dict[str, Any]:
    """One whole case through an untrained stage that sees all of it, in a process of its own for its memory's sake."""
    whole = settings.changed({"stage": "pancreas-coarse"})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(predict_case, whole, CASE, CASE_SPACING, torch.get_num_threads()).result()


def predict_case(
    settings: Settings, shape: tuple[int, int, int], spacing: tuple[float, float, float], threads: int
) -> dict[str, Any]:
    """Seconds and memory of one case of noise."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = torch.device(pick_device(settings.machine.device))
    model = Model(build_network(settings).to(device).eval(), settings, (), Path("untrained"))
    affine = np.diag([*spacing, 1.0])
    volume = np.random.default_rng(0).standard_normal(shape, np.float32) * 100
    scan = Scan("noise", "none", volume, None, affine, nib.Nifti1Image(volume, affine))
    started, used = time.perf_counter(), time.process_time()
    predict_scan([model], scan)
    return {
        "seconds": short(time.perf_counter() - started),
        "cpu_seconds": short(time.process_time() - used),
        "voxels": volume.size,
        "shape": list(shape),
        "flips": settings.prediction.flips,
        "host_memory_mb": machine.peak_memory_mb(),
        "device_memory_mb": peak_memory_mb(device) if device.type == "cuda" else None,
    }
