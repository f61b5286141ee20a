"""Estimate the memory of a training step before the first step.

The step runs on torch's ``meta`` device, whose tensors have a shape and a type but no values, and the bytes of all live
tensors are counted. This takes about a second at any size, once for equal settings, and the estimate needs no update
when the network changes.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import build_network
from dualtask_lite.engine.training.devices import dtype_of, resolve_precision, world_size
from dualtask_lite.errors import DualTaskError
from dualtask_lite.machine import host_memory
from dualtask_lite.method import losses
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.network import Outputs

# Factor for what the simulation misses: workspaces of convolutions, and fragmentation. Not measured on a card.
MARGIN = 1.15
# The settings that change the memory of a step.
_OF_A_STEP: Any = {
    "sample": {"patch"},
    "views": {"count"},
    "network": True,
    "objective": True,
    "optimiser": {"batch", "average"},
    "machine": {"recompute"},
}


class MemoryCounter(TorchDispatchMode):
    """Count the bytes of all live tensors; ``peak`` is the maximum so far."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its outputs."""
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return outputs

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._counted:  # views and in-place operations allocate nothing
            return
        self._counted.add(storage._cdata)
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, storage_id: int, size: int) -> None:
        self._counted.discard(storage_id)
        self.current -= size


def step_bytes(settings: Settings, device: str) -> int:
    """Peak memory of a step in one process: weights, optimiser state, activations, terms.

    Args:
        settings: of the run.
        device: ``cpu`` or ``cuda``; it determines the precision that ``auto`` stands for.
    """
    dtype = dtype_of(resolve_precision(settings.machine.precision, device))
    return _simulated_bytes(settings.model_dump_json(include=_OF_A_STEP), dtype, world_size())


@lru_cache
def _simulated_bytes(settings_of_a_step: str, dtype: torch.dtype, processes: int) -> int:
    """``step_bytes``, simulated once in a process for all runs of a table, which differ in seed and cases only."""
    settings = Settings.model_validate_json(settings_of_a_step)
    samples, views = settings.optimiser.batch // processes, settings.views.count
    with MemoryCounter() as counter, torch.device("meta"):
        net = build_network(settings).to(dtype)
        image = torch.empty(samples, 1, *settings.sample.patch)
        target = losses.Target(torch.empty_like(image), torch.empty_like(image))
        outputs = net(torch.cat([image] * views).to(dtype))
        _total(settings, [output if output is None else output.float() for output in outputs], target).backward()
    # In addition, in float32: the gradients and the two moments of the optimiser; in mixed precision, a copy of the
    # weights; with several processes, a buffer to exchange gradients.
    copies = 3 + (dtype != torch.float32) + (processes > 1) + (settings.optimiser.average > 0)
    return counter.peak + 4 * copies * sum(weight.numel() for weight in net.parameters())


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device for this process, or ``None`` if it is unknown.

    On a card, memory that torch has reserved but not allocated counts as free, although the driver counts it as used.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return host_memory()[1]


def release_memory(device: torch.device) -> None:
    """Free the memory of the previous stage: the next one cannot reuse blocks of those sizes."""
    gc.collect()  # needed because a network and its optimiser refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_memory(settings: Settings, device: torch.device) -> str:
    """Compare the memory that a step needs with the free memory; ``machine.check_memory=false`` skips it.

    On a card, a step that seems too large only gives a warning, because the estimate was not validated on a card. On a
    CPU it is refused, because the system kills a process that uses too much memory without any message.

    Returns:
        A sentence for the user.

    Raises:
        DualTaskError: when a step on a CPU needs more than the free memory; the remedy names settings that need less.
    """
    if not settings.machine.check_memory:
        return "the memory of a step was not estimated (machine.check_memory=false)"
    release_memory(device)
    needed, free = MARGIN * step_bytes(settings, device.type), free_bytes(device)
    text = f"a step takes about {_gb(needed)} of memory"
    if free is None or needed <= free:
        return text + ("" if free is None else f", {_gb(free)} are free")
    problem, remedy = f"{text}, but the device has {_gb(free)} free", suggest_reduction(settings, device.type, free)
    if device.type != "cuda":
        raise DualTaskError(problem, f"{remedy}, or skip this check with --set machine.check_memory=false")
    warnings.warn(f"{problem}; if it runs out of memory, {remedy}", stacklevel=2)
    return problem


def suggest_reduction(settings: Settings, device: str, free: float) -> str:
    """Suggest the smallest change of the settings with which a step fits, as command-line options."""
    for options, changed in _reductions(settings):
        needed = MARGIN * step_bytes(changed, device)
        if needed <= free:
            return f"add {options} (about {_gb(needed)})"
    return "lower sample.patch and network.width, or choose a smaller profile"


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error reports that memory ran out: on a card, in torch's CPU allocator, or in NumPy."""
    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


@contextmanager
def report_out_of_memory(problem: str, remedy: str) -> Iterator[None]:
    """Convert an out-of-memory error into a readable message.

    Raises:
        DualTaskError: with ``problem`` and ``remedy``, in place of the error of torch or NumPy.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DualTaskError(problem, remedy) from error


def first_reduction(settings: Settings) -> str:
    """The first change of the settings to try after a step ran out of memory, as command-line options."""
    return next((options for options, _ in _reductions(settings)), "a smaller --profile")


def _reductions(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Settings that need less and less memory: first recomputation, which changes no result, then batch, then patch."""
    changes: dict[str, Any] = {}
    if not settings.machine.recompute:
        changes["machine.recompute"] = True
        yield _options(changes), settings.changed(changes)
    for batch in range(settings.optimiser.batch - 1, 0, -1):
        if batch % world_size() == 0:
            changes["optimiser.batch"] = batch
            yield _options(changes), settings.changed(changes)
    patch = settings.sample.patch
    while max(patch) > 16:
        patch = tuple(max(8, side * 3 // 4 // 8 * 8) for side in patch)  # type: ignore[assignment]
        changes["sample.patch"] = list(patch)
        yield _options(changes), settings.changed(changes)


def _options(changes: dict[str, Any]) -> str:
    """The changes as ``--set`` options of the command line."""
    return " ".join(f"--set {name}={str(value).lower().replace(' ', '')}" for name, value in changes.items())


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _total(settings: Settings, outputs: list[torch.Tensor | None], target: losses.Target) -> torch.Tensor:
    """Sum of all terms that training computes from the outputs of stacked views."""
    objective, views = settings.objective, settings.views.count
    weights = {term: weight for term, weight in objective.weights.items() if term != "feat"}
    halves = [(None,) * views if output is None else output.chunk(views) for output in outputs]
    generator = torch.Generator()
    compute = losses.Objective(weights=weights, tau=objective.tau, band=objective.band)
    terms = compute([Outputs(*view) for view in zip(*halves, strict=True)], target, generator=generator)
    if objective.on("feat") and outputs[2] is not None:  # sampling voxels needs values; the rest does not
        mask, distance = (truth.repeat(views, 1, 1, 1, 1) for truth in target)
        core_and_shell(mask, distance, generator=generator)
        terms["feat"] = outputs[2].mean()
    return torch.stack(list(terms.values())).sum()
