"""Where a run computes: which card, in which precision, alone or as one of several processes.

``torchrun --nproc-per-node=N -m dualtask_lite train ...`` starts N equal processes and gives each its number in the
environment. Process 0 writes; all of them see the same run folder.
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


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them; process 0 writes files and prints."""
    return int(os.environ.get("RANK", "0"))


def pick_device(wanted: str) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes a CUDA card when there is one.

    Raises:
        DualTaskError: when a card is asked for and there is none, or fewer than processes.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DualTaskError("device is cuda, but no CUDA device can be used here", "choose auto or cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return "cpu"
    cards, processes = torch.cuda.device_count(), _local_processes()
    if processes > cards:
        raise DualTaskError(f"{processes} processes share {cards} CUDA devices", f"use --nproc-per-node={cards}")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # what "cuda" means from here on
    return "cuda"


def cards() -> list[str]:
    """The CUDA cards of this process, by the names that ``CUDA_VISIBLE_DEVICES`` knows them by."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",")[:count] if chosen else [str(number) for number in range(count)]


def take_card(started: Synchronized[int], of: Sequence[str]) -> None:
    """Let this process of a pool see one card, the next one in turn; call it before CUDA is used.

    Args:
        started: shared by the pool, how many of its processes have taken a card.
        of: the cards, see :func:`cards`; without any, nothing is done.
    """
    with started.get_lock():
        number = started.value
        started.value += 1
    if of:
        os.environ["CUDA_VISIBLE_DEVICES"] = of[number % len(of)]


def precision_of(wanted: str, device: str) -> str:
    """Resolve ``auto``: bf16 where the card has it, fp16 with a scaler on older cards, fp32 on a CPU."""
    if wanted != "auto":
        return wanted
    return "32-true" if device == "cpu" else "bf16-mixed" if has_bf16() else "16-mixed"


def dtype_of(precision: str) -> torch.dtype:
    """What convolutions and matrix products compute in, of a precision by Fabric's name."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """Let a trained network compute in the precision that suits the device; on a CPU always in fp32."""
    dtype = dtype_of(precision_of(settings.machine.precision, device.type))
    mixed = device.type != "cpu" and dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if mixed else None, enabled=mixed)


def make_fabric(settings: Settings) -> Fabric:
    """Device, precision and processes of a training."""
    from lightning_fabric import Fabric  # takes 2 s, and a prediction goes without

    device, world, local = pick_device(settings.machine.device), world_size(), _local_processes()
    if settings.optimiser.batch % world:
        raise DualTaskError(
            f"{world} processes cannot share the {settings.optimiser.batch} samples of a step evenly",
            f"set optimiser.batch to a multiple of {world}",
        )
    torch.backends.cudnn.benchmark = device == "cuda"  # every patch has the same size, so that the search pays
    strategy = "auto"
    if world > 1:
        # A kernel of one voxel lies in memory in the same way whatever its strides are.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        strategy = "ddp" if settings.trains_segmentation_head else "ddp_find_unused_parameters_true"
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=precision_of(settings.machine.precision, device),  # type: ignore[arg-type]
    )
    if os.environ.get("LT_CLI_USED") != "1":  # `fabric run` has launched already
        fabric.launch()
    return fabric


def scaler_of(fabric: Fabric) -> torch.amp.GradScaler | None:
    """The scaler that keeps small gradients alive in fp16; ``None`` in other precisions."""
    return getattr(fabric.strategy.precision, "scaler", None)


def set_up(
    fabric: Fabric, net: torch.nn.Module, optimiser: torch.optim.Optimizer, settings: Settings
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Bring network and optimiser to the device; compile the network where the settings ask for it.

    ``net`` itself stays as it is, so that its state has plain names; what is returned computes with its weights. If
    compilation fails, this warns, and the network trains without it.
    """
    if not settings.machine.compile:
        return fabric.setup(net, optimiser)
    torch._functorch.config.donated_buffer = False  # a graph is walked more than once to measure gradients
    compiled: Any = torch.compile(net, dynamic=False)
    model, prepared = fabric.setup(compiled, optimiser)
    samples = settings.views.count * settings.optimiser.batch // fabric.world_size
    try:  # it compiles at the first call
        outputs = model(torch.rand(samples, 1, *settings.sample.patch, device=fabric.device))
        fabric.backward(sum(out.float().mean() for out in outputs if out is not None))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(f"the network is not compiled ({reason}); it trains without", stacklevel=2)
        model, prepared = fabric.setup(net, optimiser)
    prepared.zero_grad()
    return model, prepared


def gather(value: T) -> list[T]:
    """What every process has, in their order, at each of them; call it in all of them."""
    if world_size() == 1:
        return [value]
    everything: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everything, value)
    return everything


def join_processes() -> None:
    """Let the processes of a prediction, which otherwise work on their own, gather what they have at the end."""
    if world_size() > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))  # one may have much more to do


def _local_processes() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
