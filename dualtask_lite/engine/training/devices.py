"""Device, precision and processes of a run.

``torchrun --nproc-per-node=N -m dualtask_lite train ...`` starts N equal processes and gives each its number in the
environment. Only process 0 writes files; all processes use the same run folder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from dualtask_lite.engine.config import Settings
from dualtask_lite.errors import DualTaskError
from dualtask_lite.machine import has_bf16

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda")


def world_size() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, counted from 0; process 0 writes files and prints."""
    return int(os.environ.get("RANK", "0"))


def pick_device(requested: str) -> str:
    """Return ``cuda`` or ``cpu``; ``auto`` selects a CUDA card if there is one.

    Raises:
        DualTaskError: when another device is requested, ``cuda`` without a CUDA card, or when there are fewer cards
            than processes.
    """
    if requested not in DEVICES:
        raise DualTaskError(f"there is no device {requested!r}", f"choose one of: {', '.join(DEVICES)}")
    if requested == "cuda" and not torch.cuda.is_available():
        raise DualTaskError("device is cuda, but no CUDA device can be used here", "choose auto or cpu")
    if requested == "cpu" or not torch.cuda.is_available():
        return "cpu"
    card_count, processes = torch.cuda.device_count(), _local_processes()
    if processes > card_count:
        raise DualTaskError(
            f"{processes} processes share {card_count} CUDA devices", f"use --nproc-per-node={card_count}"
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # "cuda" now means this card
    return "cuda"


def visible_cards() -> list[str]:
    """Identifiers of the CUDA cards of this process, as ``CUDA_VISIBLE_DEVICES`` uses them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def select_card(started: Synchronized[int], card_ids: Sequence[str]) -> None:
    """Restrict this process of a pool to one card, in rotation; call it before the process uses CUDA.

    Args:
        started: number of processes that have selected a card; shared by the pool.
        card_ids: see :func:`visible_cards`; if it is empty, nothing happens.
    """
    with started.get_lock():
        number = started.value
        started.value += 1
    if card_ids:
        os.environ["CUDA_VISIBLE_DEVICES"] = card_ids[number % len(card_ids)]


def resolve_precision(requested: str, device: str) -> str:
    """Resolve ``auto``: bf16 if the card supports it, fp16 with a scaler on older cards, fp32 on a CPU."""
    if requested != "auto":
        return requested
    return "32-true" if device == "cpu" else "bf16-mixed" if has_bf16() else "16-mixed"


def dtype_of(precision: str) -> torch.dtype:
    """Data type of convolutions and matrix products for a precision, given by Fabric's name for it."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which a trained network predicts in the precision of the device; always fp32 on a CPU."""
    dtype = dtype_of(resolve_precision(settings.machine.precision, device.type))
    mixed = device.type != "cpu" and dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if mixed else None, enabled=mixed)


def make_fabric(settings: Settings) -> Fabric:
    """Set up the device, the precision and the processes of a training."""
    from lightning_fabric import Fabric  # imported here, because it takes 2 s and a prediction does not need it

    device, world, local = pick_device(settings.machine.device), world_size(), _local_processes()
    if settings.optimiser.batch % world:
        raise DualTaskError(
            f"{world} processes cannot share the {settings.optimiser.batch} samples of a step evenly",
            f"set optimiser.batch to a multiple of {world}",
        )
    torch.backends.cudnn.benchmark = device == "cuda"  # patches have one size: a search pays off
    strategy = "auto"
    if world > 1:
        # The warning is about kernels of one voxel, whose memory layout is the same for all strides.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        strategy = "ddp" if settings.trains_segmentation_head else "ddp_find_unused_parameters_true"
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=resolve_precision(settings.machine.precision, device),  # type: ignore[arg-type]
    )
    if os.environ.get("LT_CLI_USED") != "1":  # otherwise `fabric run` has launched the processes
        fabric.launch()
    return fabric


def scaler_of(fabric: Fabric) -> torch.amp.GradScaler | None:
    """The scaler that prevents underflow of small gradients in fp16; ``None`` in other precisions."""
    return getattr(fabric.strategy.precision, "scaler", None)


def set_up(
    fabric: Fabric, net: torch.nn.Module, optimiser: torch.optim.Optimizer, settings: Settings
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Move network and optimiser to the device, and compile the network if ``machine.compile`` is set.

    ``net`` is not wrapped, so its parameters keep their names; the returned model shares its weights. If compilation
    fails, warn and train without it.
    """
    if not settings.machine.compile:
        return fabric.setup(net, optimiser)
    torch._functorch.config.donated_buffer = False  # measuring gradients reuses the graph
    compiled: Any = torch.compile(net, dynamic=False)
    model, prepared = fabric.setup(compiled, optimiser)
    samples = settings.views.count * settings.optimiser.batch // fabric.world_size
    try:  # PyTorch compiles at the first call
        outputs = model(torch.rand(samples, 1, *settings.sample.patch, device=fabric.device))
        fabric.backward(sum(out.float().mean() for out in outputs if out is not None))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(
            f"the network is not compiled ({reason}); the training continues without compilation", stacklevel=2
        )
        model, prepared = fabric.setup(net, optimiser)
    prepared.zero_grad()
    return model, prepared


def gather(value: T) -> list[T]:
    """Collect one value from every process, in the order of their ranks; every process must call it."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def join_processes() -> None:
    """Connect the processes of a prediction, so that they can gather their results at the end."""
    if world_size() > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))  # one may take much longer


def _local_processes() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
