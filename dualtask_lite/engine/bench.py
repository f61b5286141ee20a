"""How fast each part is on this machine: making samples, a training step, predicting a case.

Each measure repeats until it has enough or its seconds are spent, so that all of them together take minutes on a
card. It is written when it is done and not measured again: what was cut goes on. Wall time is what a user waits for;
CPU time, of all threads, is what a busy machine spoils less.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from cProfile import Profile
from pathlib import Path
from pstats import Stats
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from dualtask_lite import machine
from dualtask_lite.cases.case import Scan
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.dataset import Region, Samples
from dualtask_lite.engine.devices import make_fabric, pick_device, set_up
from dualtask_lite.engine.grid import Box
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.run import Model, build_network, peak_memory_mb, provenance, write_json
from dualtask_lite.engine.train import draw_views, make_objective, make_optimiser
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.distance import signed_distance
from dualtask_lite.method.losses import Target
from dualtask_lite.method.network import Outputs

SECONDS, REPEATS = 30.0, 30  # a measure ends with whichever comes first, after at least 3 repeats
CASE, CASE_SPACING = (512, 512, 300), (0.8, 0.8, 1.0)  # voxels and mm of the case that is predicted
# What a sample goes through; the rest of its time is the dataset's own.
_PIPELINE = ("draw_centre", "draw_change", "move", "recolour", "signed_distance", "core_and_shell")
_LAYERS = (
    *("stem", "encoder1", "encoder2", "encoder3", "encoder4", "context", "fuse"),
    *("decoder3", "decoder2", "decoder1", "seg_head", "distance_head", "projector", "slice_head"),
)


def bench(
    parts: Sequence[str], profile: str, overrides: Mapping[str, Any], path: Path, *, command: str = ""
) -> dict[str, Any]:
    """Measure what is not yet in the file, and write it as it goes.

    Args:
        parts: of ``PARTS``.
        profile: of the settings.
        overrides: settings by dotted name; the stage is tumour-fine, which has every term, and pancreas-coarse, which
            sees the whole volume, to predict.
        path: JSON file; one of the same settings, device and versions is gone on with.
        command: what was typed; kept in the file.

    Returns:
        What the file holds: ``settings``, where it was measured, and ``results``, one entry for each measure.

    Raises:
        DualTaskError: when the file holds measurements of something else.
    """
    settings = Settings.of(profile, {"stage": "tumour-fine", **overrides})
    here = provenance(pick_device(settings.machine.device))
    same = {"settings": settings.model_dump(mode="json"), **{key: here[key] for key in ("device", "versions")}}
    told: dict[str, Any] = {"command": command, **here, **same, "load_average": os.getloadavg()[0], "results": {}}
    if path.exists():
        told = json.loads(path.read_text(encoding="utf-8"))
        if any(told.get(key) != value for key, value in same.items()):
            raise DualTaskError(f"{path}: holds measurements of other settings or another machine", "choose another -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, measure in PARTS[part].items():
            if name not in told["results"]:
                told["results"][name] = measure(settings)
                write_json(path, told)
    return told


def rows(told: Mapping[str, Any]) -> list[dict[str, str]]:
    """The single numbers of a measurement as a table."""
    return [
        {"measure": name, "what": key.replace("_", " "), "value": f"{value:.4g}" if _is_number(value) else str(value)}
        for name, values in told["results"].items()
        for key, value in values.items()
        if not isinstance(value, (dict, list))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def repeat(action: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Median and smallest seconds of an action, after one call that warms up."""
    action()
    wall: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(wall) < 3 or (len(wall) < REPEATS and time.perf_counter() < end):
        _wait(device)
        started, used = time.perf_counter(), time.process_time()
        action()
        _wait(device)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {
        "seconds": _short(statistics.median(wall)),
        "seconds_min": _short(min(wall)),
        "cpu_seconds": _short(statistics.median(cpu)),
        "cpu_seconds_min": _short(min(cpu)),
        "repeats": len(wall),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


# -- pipeline -------------------------------------------------------------------------------------------------


def pipeline(settings: Settings) -> dict[str, Any]:
    """Samples with all augmentations, distance, core and shell: on one core, and by the loader's processes."""
    region = made_region(settings)
    samples = Samples([region], settings, range(1_000_000))
    numbers = iter(range(len(samples)))
    generator = torch.Generator().manual_seed(0)

    def one() -> torch.Tensor:
        sample = samples[next(numbers)]
        core_and_shell(sample["mask"][None], sample["distance_mm"][None], generator=generator)
        return sample["mask"]

    with _threads(1):
        found = repeat(one, torch.device("cpu"))
        with Profile() as profile:
            for _ in range(found["repeats"]):
                mask = one()
    calls: Any = Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in calls.values())
    spent = {name: sum(value[3] for (_, _, called), value in calls.items() if called == name) for name in _PIPELINE}
    share = {name: _short(seconds / total) for name, seconds in spent.items()}
    workers = min(max(1, settings.machine.workers), os.cpu_count() or 1)
    per_second = _loader_rate(samples, workers)
    return {
        **found,
        "samples_per_second_one_core": _short(1 / found["seconds"]),
        "loader_processes": workers,
        "loader_samples_per_second": per_second,
        "loader_samples_per_second_and_process": _short(per_second / workers),
        "distance_bit_equal_to_scipy": _equals_scipy(mask, region.spacing),
        "share": {**share, "rest": _short(1 - sum(share.values()))},
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
        if started and (made - first >= REPEATS * workers or time.perf_counter() - started > SECONDS):
            break
    return _short((made - first) / (time.perf_counter() - started))


def _equals_scipy(mask: torch.Tensor, spacing: Sequence[float]) -> bool:
    from scipy import ndimage

    inside = mask[0].numpy() > 0
    outside, depth = (ndimage.distance_transform_edt(side, spacing) for side in (~inside, inside))
    return bool((signed_distance(inside, spacing) == (outside - depth).astype(np.float32)).all())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- step -----------------------------------------------------------------------------------------------------


def eager_step(settings: Settings) -> dict[str, Any]:
    """A training step as PyTorch does it when nothing is tuned: fp32, channels first."""
    return _step(settings.changed({"machine.precision": "32-true", "machine.compile": False}), torch.contiguous_format)


def tuned_step(settings: Settings) -> dict[str, Any]:
    """A training step as ``dualtask train`` does it with these settings."""
    return _step(settings, torch.channels_last_3d)


def _step(settings: Settings, memory_format: torch.memory_format) -> dict[str, Any]:
    fabric = make_fabric(settings)
    device = fabric.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    net: Any = build_network(settings).to(memory_format=memory_format)  # type: ignore[call-overload]
    model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
    image, target = _batch(settings, device)
    objective, views = make_objective(settings), settings.views.count
    generator, numbers = torch.Generator().manual_seed(0), torch.arange(len(image))
    laps: dict[str, list[float]] = {}

    def one() -> None:
        clock = _Laps(laps, device)
        shown = draw_views(image, settings, numbers)
        clock.lap("views")
        outputs = model(shown)
        clock.lap("forward")
        parts: list[Any] = [[None] * views if part is None else part.chunk(views) for part in outputs]
        said = [Outputs(*fields) for fields in zip(*parts, strict=True)]
        total = objective.total(objective(said, target, generator=generator))
        clock.lap("objective")
        optimiser.zero_grad()
        fabric.backward(total)
        clock.lap("backward")
        fabric.clip_gradients(model, optimiser, max_norm=settings.optimiser.clip, error_if_nonfinite=False)
        optimiser.step()
        clock.lap("optimiser")

    try:
        found = repeat(one, device)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}
    voxels = views * image.numel()
    work = step_flop(settings) * voxels
    rate = matrix_rate(device, _DTYPES.get(fabric._precision.precision, torch.float32))
    medians = {name: statistics.median(times[1:]) for name, times in laps.items()}
    return {
        **found,
        "precision": fabric._precision.precision,
        "voxels": voxels,
        "voxels_per_second": _short(voxels / found["seconds"]),
        "tflop_per_second": _short(work / found["seconds"] / 1e12),
        "matrix_tflop_per_second": _short(rate / 1e12),
        "share_of_matrix_rate": _short(work / found["seconds"] / rate),
        "peak_memory_mb": peak_memory_mb(device),
        "share": {name: _short(seconds / sum(medians.values())) for name, seconds in medians.items()},
    }


_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class _Laps:
    """A stop-watch that notes how long each part of a step took."""

    def __init__(self, laps: dict[str, list[float]], device: torch.device) -> None:
        self.laps, self.device, self.last = laps, device, time.perf_counter()

    def lap(self, name: str) -> None:
        _wait(self.device)
        now = time.perf_counter()
        self.laps.setdefault(name, []).append(now - self.last)
        self.last = now


def _batch(settings: Settings, device: torch.device) -> tuple[torch.Tensor, Target]:
    samples = Samples([made_region(settings)], settings, range(settings.optimiser.batch))
    keys = ("image", "mask", "distance_mm")
    image, mask, distance = (torch.stack([samples[n][key] for n in range(len(samples))]).to(device) for key in keys)
    return image, Target(mask, distance)


def step_flop(settings: Settings) -> float:
    """FLOP of the network a voxel, forward and backward (2 for a multiply-add); counted on shapes alone."""
    with torch.device("meta"):
        net, image = build_network(settings), torch.empty(1, 1, *settings.sample.patch)
    with FlopCounterMode(display=False) as counter:
        sum(output.sum() for output in net(image) if output is not None).backward()
    return counter.get_total_flops() / image.numel()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of the best of several large matrix products: what the device can do at most."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / repeat(lambda: a @ b, device)["seconds_min"]


def layers(settings: Settings) -> dict[str, Any]:
    """Forward and backward of each group of layers alone, in the tuned setting: where a step's time goes."""
    fabric = make_fabric(settings)
    net = build_network(settings).to(fabric.device)
    image, _ = _batch(settings, fabric.device)
    seen: dict[str, torch.Tensor] = {}
    groups = [(name, module) for name in _LAYERS if (module := getattr(net, name)) is not None]
    for name, module in groups:
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0].detach()}))
    with torch.no_grad(), fabric.autocast():
        net(image.repeat(settings.views.count, 1, 1, 1, 1))
    found = {}
    for name, module in groups:
        x = seen[name].requires_grad_(name != "stem")

        def one(module: Any = module, x: torch.Tensor = x) -> None:
            with fabric.autocast():
                output = module(x)
            output.backward(torch.ones_like(output))
            x.grad = None

        with FlopCounterMode(display=False) as counter:
            one()
        times = repeat(one, fabric.device)
        rate = counter.get_total_flops() / times["seconds"]
        found[name] = {key: times[key] for key in ("seconds", "cpu_seconds")} | {
            "tflop_per_second": _short(rate / 1e12)
        }
    total = sum(times["seconds"] for times in found.values())
    return {
        "seconds": _short(total),
        "share": {name: _short(times["seconds"] / total) for name, times in found.items()},
        "layers": found,
    }


# -- predict --------------------------------------------------------------------------------------------------


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
        "seconds": _short(time.perf_counter() - started),
        "cpu_seconds": _short(time.process_time() - used),
        "voxels": volume.size,
        "shape": list(shape),
        "flips": settings.prediction.flips,
        "host_memory_mb": machine.peak_memory_mb(),
        "device_memory_mb": peak_memory_mb(device) if device.type == "cuda" else None,
    }


PARTS: dict[str, dict[str, Callable[[Settings], dict[str, Any]]]] = {
    "pipeline": {"pipeline": pipeline},
    "step": {"step, fp32 eager": eager_step, "step, tuned": tuned_step, "layers": layers},
    "predict": {"predict": predict},
}
