"""Measure a training step, untuned and tuned, and which share of the time each part takes."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dualtask_lite.engine.bench import timing
from dualtask_lite.engine.bench.samples import synthetic_region
from dualtask_lite.engine.bench.timing import four_digits, repeat, wait
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Samples
from dualtask_lite.engine.run import build_network, peak_memory_mb, reset_peak_memory
from dualtask_lite.engine.training.devices import dtype_of, make_fabric, set_up
from dualtask_lite.engine.training.step import Steps, draw_views, make_objective, make_optimiser, per_view
from dualtask_lite.method.losses import Target

LAYERS = (
    *("stem", "encoder1", "encoder2", "encoder3", "encoder4", "context", "fuse"),
    *("decoder3", "decoder2", "decoder1", "seg_head", "distance_head", "projector", "slice_head"),
)


def eager_step(settings: Settings) -> dict[str, Any]:
    """A training step with the defaults of PyTorch: fp32, channels first, not compiled."""
    return _step(settings.changed({"machine.precision": "32-true", "machine.compile": False}), torch.contiguous_format)


def tuned_step(settings: Settings) -> dict[str, Any]:
    """A training step as ``dualtask train`` does it with these settings."""
    return _step(settings, torch.channels_last_3d)


def default_layout_step(settings: Settings) -> dict[str, Any]:
    """The same step with the network in PyTorch's default memory format."""
    return _step(settings, torch.contiguous_format)


def _step(settings: Settings, memory_format: torch.memory_format) -> dict[str, Any]:
    fabric = make_fabric(settings)
    device = fabric.device
    reset_peak_memory(device)
    net: Any = build_network(settings).to(memory_format=memory_format)  # type: ignore[call-overload]
    model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
    image, target = _batch(settings, device)
    objective, views = make_objective(settings), settings.views.count
    generator, indices = torch.Generator().manual_seed(0), torch.arange(len(image))
    times_of: dict[str, list[float]] = {}

    def training_step() -> None:
        clock = _StepTimer(times_of, device)
        stacked_views = draw_views(image, settings, indices)
        clock.lap("views")
        outputs = model(stacked_views)
        clock.lap("forward")
        total = objective.total(objective(per_view(outputs, views), target, generator=generator))
        clock.lap("objective")
        optimiser.zero_grad()
        fabric.backward(total)
        clock.lap("backward")
        fabric.clip_gradients(model, optimiser, max_norm=settings.optimiser.clip, error_if_nonfinite=False)
        optimiser.step()
        clock.lap("optimiser")

    try:
        times = repeat(training_step, device)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}
    voxels = views * image.numel()
    flop = step_flop(settings) * voxels
    rate = matrix_rate(device, dtype_of(fabric._precision.precision))
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times_of.items()}
    return {
        **times,
        "precision": fabric._precision.precision,
        "voxels": voxels,
        "voxels_per_second": four_digits(voxels / times["seconds"]),
        "tflop_per_second": four_digits(flop / times["seconds"] / 1e12),
        "matrix_tflop_per_second": four_digits(rate / 1e12),
        "share_of_matrix_rate": four_digits(flop / times["seconds"] / rate),
        "peak_memory_mb": peak_memory_mb(device),
        "share": {name: four_digits(seconds / sum(medians.values())) for name, seconds in medians.items()},
    }


def data_wait(settings: Settings) -> dict[str, Any]:
    """Share of a training step spent waiting for samples, with the loader of a training, on a synthetic region."""
    fabric = make_fabric(settings)
    net = build_network(settings)
    model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
    steps = Steps(fabric, net, model, optimiser, settings, [synthetic_region(settings)])
    times_of: dict[str, list[float]] = {}
    clock, end = _StepTimer(times_of, fabric.device), time.perf_counter() + timing.SECONDS
    for step, batch in enumerate(steps.batches(0)):
        clock.lap("data")
        steps.optimise(step, batch)
        clock.lap("step")
        if step >= 3 and time.perf_counter() > end:
            break
    # Only the second half of the steps counts: by then, all loader processes run.
    data, compute = (sum(times_of[part][len(times_of[part]) // 2 :]) for part in ("data", "step"))
    return {
        "loader_processes": settings.machine.workers,
        "steps": len(times_of["step"]),
        "share_waiting_for_data": four_digits(data / (data + compute)),
    }


class _StepTimer:
    """Record the seconds of each part of a step."""

    def __init__(self, times_of: dict[str, list[float]], device: torch.device) -> None:
        self.times_of, self.device, self.last = times_of, device, time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last call to those of a part."""
        wait(self.device)
        now = time.perf_counter()
        self.times_of.setdefault(name, []).append(now - self.last)
        self.last = now


def _batch(settings: Settings, device: torch.device) -> tuple[torch.Tensor, Target]:
    samples = Samples([synthetic_region(settings)], settings, range(settings.optimiser.batch))
    keys = ("image", "mask", "distance_mm")
    image, mask, distance = (torch.stack([samples[n][key] for n in range(len(samples))]).to(device) for key in keys)
    return image, Target(mask, distance)


def step_flop(settings: Settings) -> float:
    """FLOP of the network for each voxel, forward and backward (2 for a multiply-add), counted without computing."""
    with torch.device("meta"):
        net, image = build_network(settings), torch.empty(1, 1, *settings.sample.patch)
    with FlopCounterMode(display=False) as counter:
        sum(output.sum() for output in net(image) if output is not None).backward()
    return counter.get_total_flops() / image.numel()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Maximal FLOP per second of the device: that of a large matrix product or a wide convolution, whichever is faster.

    Both are measured, because they use different libraries: on an AMD processor, MKL's fp32 matrix products reach less
    than half of the rate of oneDNN's convolutions.
    """
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = 2 * side**3 / repeat(lambda: a @ b, device)["seconds_min"]
    image = torch.randn(1, 256, 32, 32, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last_3d)
    kernels = torch.randn(256, 256, 3, 3, 3, device=device, dtype=dtype)
    seconds = repeat(lambda: F.conv3d(image, kernels, padding=1), device)["seconds_min"]
    return max(product, 2 * kernels.numel() * image[0, 0].numel() / seconds)


def layers(settings: Settings) -> dict[str, Any]:
    """Measure forward and backward of each group of layers separately, with the settings of a training."""
    fabric = make_fabric(settings)
    net = build_network(settings).to(fabric.device)
    image, _ = _batch(settings, fabric.device)
    inputs_of: dict[str, torch.Tensor] = {}
    groups = [(name, module) for name in LAYERS if (module := getattr(net, name)) is not None]
    for name, module in groups:
        module.register_forward_pre_hook(lambda _, inputs, name=name: inputs_of.update({name: inputs[0].detach()}))
    with torch.no_grad(), fabric.autocast():
        net(image.repeat(settings.views.count, 1, 1, 1, 1))
    times_of = {}
    for name, module in groups:
        x = inputs_of[name].requires_grad_(name != "stem")

        def forward_backward(module: Any = module, x: torch.Tensor = x) -> None:
            with fabric.autocast():
                output = module(x)
            output.backward(torch.ones_like(output))
            x.grad = None

        with FlopCounterMode(display=False) as counter:
            forward_backward()
        times = repeat(forward_backward, fabric.device)
        rate = counter.get_total_flops() / times["seconds"]
        times_of[name] = {key: times[key] for key in ("seconds", "cpu_seconds")}
        times_of[name]["tflop_per_second"] = four_digits(rate / 1e12)
    total = sum(times["seconds"] for times in times_of.values())
    return {
        "seconds": four_digits(total),
        "share": {name: four_digits(times["seconds"] / total) for name, times in times_of.items()},
        "layers": times_of,
    }
