"""How much memory a step of training will take, before it is tried.

The step is rehearsed with tensors that have a shape and a type but no values (torch's ``meta`` device), at the real
size and in milliseconds, while the bytes that are alive are counted. So the figure follows the network and the
settings by itself.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import build_network
from dualtask_lite.engine.training.devices import dtype_of, precision_of, world_size
from dualtask_lite.errors import DualTaskError
from dualtask_lite.machine import host_memory
from dualtask_lite.method import losses
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.network import Outputs

# What no rehearsal sees: workspaces of the convolutions and gaps between the blocks of memory. Not measured on a card.
MARGIN = 1.15


class Alive(TorchDispatchMode):
    """Count the bytes of the tensors that are alive; ``peak`` is the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:  # a view of a tensor, or a change in place, takes nothing
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, known: int, size: int) -> None:
        self._known.discard(known)
        self.now -= size


def step_bytes(settings: Settings, device: str) -> int:
    """Peak memory of a step in one process: weights, optimiser, features kept for the backward pass, terms.

    Args:
        settings: of the run.
        device: ``cpu`` or ``cuda``, which decides what precision ``auto`` is.
    """
    features = dtype_of(precision_of(settings.machine.precision, device))
    samples, views = settings.optimiser.batch // world_size(), settings.views.count
    with Alive() as alive, torch.device("meta"):
        net = build_network(settings).to(features)
        image = torch.empty(samples, 1, *settings.sample.patch)
        target = losses.Target(torch.empty_like(image), torch.empty_like(image))
        outputs = net(torch.cat([image] * views).to(features))
        _total(settings, [output if output is None else output.float() for output in outputs], target).backward()
    # Beside it in float32: gradients and two moments; the weights where the features are not; a copy to exchange.
    copies = 3 + (features != torch.float32) + (world_size() > 1)
    return alive.peak + 4 * copies * sum(weight.numel() for weight in net.parameters())


def free_bytes(device: torch.device) -> int | None:
    """What a device has left for this process, or ``None`` where that is not known.

    On a card the blocks that torch keeps for its next tensors count as free, although the driver counts them as used.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return host_memory()[1]


def release_memory(device: torch.device) -> None:
    """Give the memory of the stage before back: blocks of its sizes are of no use to the next one."""
    gc.collect()  # a network and its optimiser refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_memory(settings: Settings, device: torch.device) -> str:
    """Describe what a step needs, in words; ``machine.check_memory=false`` skips it.

    On a card a step that seems too large is only warned of, because the estimate was never compared with one. A
    machine without card refuses it: the system kills a process that takes too much, without a word.

    Raises:
        DualTaskError: when it is more than the host has; the remedy names the setting that helps.
    """
    if not settings.machine.check_memory:
        return "the memory of a step was not estimated (machine.check_memory=false)"
    release_memory(device)
    needed, free = MARGIN * step_bytes(settings, device.type), free_bytes(device)
    text = f"a step takes about {_gb(needed)} of memory"
    if free is None or needed <= free:
        return text + ("" if free is None else f", {_gb(free)} are free")
    problem, remedy = f"{text}, but the device has {_gb(free)} free", advice(settings, device.type, free)
    if device.type != "cuda":
        raise DualTaskError(problem, f"{remedy}, or skip this check with --set machine.check_memory=false")
    warnings.warn(f"{problem}; if it runs out of memory, {remedy}", stacklevel=2)
    return problem


def advice(settings: Settings, device: str, free: float) -> str:
    """The least change of the settings after which a step fits, as words of the command line."""
    for words, changed in _smaller(settings):
        needed = MARGIN * step_bytes(changed, device)
        if needed <= free:
            return f"add {words} (about {_gb(needed)})"
    return "lower sample.patch and network.width, or choose a smaller profile"


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error says that memory ran out: on a card, in torch's own CPU memory, or in NumPy."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


@contextmanager
def report_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn a device or a machine that runs out of memory into a message.

    Raises:
        DualTaskError: with ``what`` and ``remedy``, in place of what torch and NumPy raise.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DualTaskError(what, remedy) from error


def next_smaller(settings: Settings) -> str:
    """The first change of the settings to try when a step did not fit, as words of the command line."""
    return next((words for words, _ in _smaller(settings)), "a smaller --profile")


def _smaller(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Settings that need less and less memory: first what changes no result, then the batch, then the patch."""
    changes: dict[str, Any] = {}
    if not settings.machine.recompute:
        changes["machine.recompute"] = True
        yield _words(changes), settings.changed(changes)
    for batch in range(settings.optimiser.batch - 1, 0, -1):
        if batch % world_size() == 0:
            changes["optimiser.batch"] = batch
            yield _words(changes), settings.changed(changes)
    patch = settings.sample.patch
    while max(patch) > 16:
        patch = tuple(max(8, side * 3 // 4 // 8 * 8) for side in patch)  # type: ignore[assignment]
        changes["sample.patch"] = list(patch)
        yield _words(changes), settings.changed(changes)


def _words(changes: dict[str, Any]) -> str:
    return " ".join(f"--set {name}={str(value).lower().replace(' ', '')}" for name, value in changes.items())


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _total(settings: Settings, outputs: list[torch.Tensor | None], target: losses.Target) -> torch.Tensor:
    """Everything that training computes from the outputs of stacked views."""
    objective, views = settings.objective, settings.views.count
    weights = {term: weight for term, weight in objective.weights.items() if term != "feat"}
    halves = [(None,) * views if output is None else output.chunk(views) for output in outputs]
    generator = torch.Generator()
    compute = losses.Objective(weights=weights, tau=objective.tau, band=objective.band)
    terms = compute([Outputs(*view) for view in zip(*halves, strict=True)], target, generator=generator)
    if objective.on("feat") and outputs[2] is not None:  # which voxels it draws needs values; how it finds them, none
        mask, distance = (truth.repeat(views, 1, 1, 1, 1) for truth in target)
        core_and_shell(mask, distance, generator=generator)
        terms["feat"] = outputs[2].mean()
    return torch.stack(list(terms.values())).sum()
