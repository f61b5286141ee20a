"""The run folder: the files of a training, and the checkpoint that resumes it.

Weights and checkpoints are safetensors with JSON metadata, which execute no code when they are loaded. Every file is
written under a temporary name, flushed and renamed, so that a reader never finds half of it.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import StrictInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dualtask_lite import machine
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.records import read_json
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.method.network import DualTaskNet
from dualtask_lite.resources import run_folder

MODEL, CHECKPOINT, METRICS, CONFIG, MANIFEST = (
    "model.safetensors",
    "last.ckpt",
    "metrics.csv",
    "config.yaml",
    "manifest.json",
)
_RESTART = "start the run again with another --out"


@dataclass(frozen=True)
class TrainingCase:
    """A case that trained or validated a model; evaluation refuses it as a test case."""

    id: str
    centre: str
    digest: str
    role: str  # "train" or "validation"


@dataclass(frozen=True)
class Model:
    """A trained stage, ready to predict."""

    net: DualTaskNet
    settings: Settings
    training_cases: tuple[TrainingCase, ...]
    path: Path


def build_network(settings: Settings) -> DualTaskNet:
    """Build the network of the settings, with only those optional heads that a term trains."""
    objective = settings.objective
    net = DualTaskNet(
        settings.network.width,
        standardise=settings.network.standardise,
        projector=objective.on("feat"),
        distance_head=settings.has_distance,
        slice_head=objective.on("slice"),
        recompute=settings.machine.recompute,
    )
    # This memory format makes convolutions a third faster, also on a CPU.
    return net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def save_model(path: Path, net: torch.nn.Module, settings: Settings, cases: Sequence[TrainingCase]) -> None:
    """Write the weights, with the settings and the training and validation cases as metadata."""
    _write(path, net.state_dict(), {"settings": _settings_to_json(settings), "cases": _cases_to_json(cases)})


def load_model(path: str | Path, device: str | torch.device = "auto") -> Model:
    """Read a trained stage from a run folder or a ``.safetensors`` file.

    Args:
        path: of the run folder or file.
        device: for the network; ``auto`` selects a CUDA card if there is one.

    Raises:
        DualTaskError: when there is no model, or the file is not a model of this kit.
    """
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    remedy = "train one with dualtask train, or give a run folder or a name of dualtask models"
    tensors, info = _read(file, "a model", remedy)
    try:
        settings = _settings_from_json(info["settings"])
        cases = _cases_from_json(info["cases"])
        net = build_network(settings)
        net.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DualTaskError(f"{file}: is not a model of this kit", "give a run folder of dualtask train") from error
    return Model(net.to(pick_device("auto") if device == "auto" else device).eval(), settings, cases, file)


def steps_of_model(folder: Path) -> int | None:
    """Number of steps that the model of a run was trained for; ``None`` if there is no model yet.

    They are fewer than its settings say if a callback stopped the run, and fewer than its manifest says if a longer
    run was killed before it wrote its model.
    """
    if not (folder / MODEL).exists():
        return None
    manifest = read_json(folder / MANIFEST, {"steps": StrictInt})
    return min(load_model(folder, "cpu").settings.optimiser.steps, manifest["steps"])


def load_models(path: str | Path, device: str | torch.device = "auto") -> list[Model]:
    """Read one trained stage, or all stages in the folder of a cascade, or a reference model by its name.

    Raises:
        DualTaskError: when there is no model, a stage of the cascade is not finished, or a file is not a model.
    """
    path = run_folder(path)
    if path.is_file() or (path / MODEL).exists():
        return [load_model(path, device)]
    # The training writes the settings of every stage before the first step, so they name the stages still to come.
    stages = sorted({file.parent for name in (CONFIG, MODEL) for file in path.glob(f"*/{name}")})
    if unfinished := [stage for stage in stages if not (stage / MODEL).exists()]:
        raise DualTaskError(
            f"{path}: its stage {unfinished[0].name} is not finished",
            f"finish it with dualtask train --resume {shlex.quote(str(path))}, or give the folder of a finished stage",
        )
    return [load_model(stage, device) for stage in stages or [path]]


def save_checkpoint(
    path: Path,
    net: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    scaler: torch.amp.GradScaler | None = None,
    *,
    settings: Settings | None = None,
    cases: Sequence[TrainingCase] = (),
) -> None:
    """Write everything that is needed to resume after ``step`` finished steps.

    Args:
        path: of the checkpoint.
        net: the network.
        optimiser: of the network.
        step: number of finished steps.
        scaler: of the gradients, in fp16.
        settings: that the weights have their meaning from.
        cases: the training and validation cases, which a resumed run keeps.
    """
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
    info = {"step": str(step), "scaler": json.dumps(scaler.state_dict() if scaler else {})}
    info |= {"settings": _settings_to_json(settings)} if settings else {}
    _write(path, tensors, info | {"cases": _cases_to_json(cases)})


def load_checkpoint(
    path: Path, net: torch.nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> int:
    """Restore network, optimiser and scaler; returns the number of finished steps.

    Raises:
        DualTaskError: when the checkpoint is missing or damaged, or belongs to other settings.
    """
    tensors, info = _read(path, "a checkpoint", _RESTART)
    state: dict[int, dict[str, torch.Tensor]] = {}
    weights: dict[str, torch.Tensor] = {}
    parameters = list(net.parameters())
    try:
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "net":
                weights[rest] = tensor
            else:
                number, _, key = rest.partition(".")
                weight = parameters[int(number)]
                # A fused optimiser needs each moment in the memory layout of its weight, which the file does not keep.
                moment = torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
                state.setdefault(int(number), {})[key] = moment.detach()
        net.load_state_dict(weights)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        if scaler and (scaling := json.loads(info.get("scaler", "{}"))):
            scaler.load_state_dict(scaling)
        if (step := int(info["step"])) < 0:
            raise ValueError("no step has a negative number")
        return step
    except (LookupError, ValueError, RuntimeError) as error:
        raise DualTaskError(f"{path}: does not fit the settings of its run", _RESTART) from error


def cases_of_checkpoint(path: Path) -> tuple[TrainingCase, ...]:
    """The training and validation cases of a checkpoint; empty for checkpoints of older versions.

    Raises:
        DualTaskError: when the checkpoint is missing or damaged.
    """
    try:
        return _cases_from_json(_about_checkpoint(path).get("cases", "[]"))
    except (TypeError, ValueError) as error:
        raise DualTaskError(f"{path}: is damaged: its list of cases cannot be read", _RESTART) from error


def settings_of_checkpoint(path: Path) -> Settings | None:
    """The settings that a checkpoint was trained with; ``None`` for checkpoints of older versions.

    Raises:
        DualTaskError: when the checkpoint is missing or damaged.
    """
    try:
        text = _about_checkpoint(path).get("settings")
        return _settings_from_json(text) if text else None
    except (TypeError, ValueError) as error:
        raise DualTaskError(f"{path}: is damaged: its settings cannot be read", _RESTART) from error


def _about_checkpoint(path: Path) -> Mapping[str, str]:
    with _opened(path, "a checkpoint", _RESTART) as file:
        return file.metadata() or {}


def _settings_to_json(settings: Settings) -> str:
    return json.dumps(settings.model_dump(mode="json"))  # in ASCII: a path of a source may be no valid UTF-8


def _settings_from_json(text: str) -> Settings:
    return Settings.model_validate(json.loads(text))


def _cases_to_json(cases: Sequence[TrainingCase]) -> str:
    return json.dumps([vars(case) for case in cases])


def _cases_from_json(text: str) -> tuple[TrainingCase, ...]:
    cases = tuple(TrainingCase(**case) for case in json.loads(text))
    if any(case.role not in ("train", "validation") for case in cases):
        raise ValueError("a case neither trained nor validated")
    return cases


def _write(path: Path, tensors: Mapping[str, torch.Tensor], info: dict[str, str]) -> None:
    """Write safetensors from memory: the library's own function leaves a temporary file if the process is killed."""
    data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, info)
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _read(path: Path, kind: str, remedy: str) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    with _opened(path, kind, remedy) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def _opened(path: Path, kind: str, remedy: str) -> Iterator[Any]:
    """Open a safetensors file; a file that cannot be read raises a ``DualTaskError``."""
    if not path.is_file():
        raise DualTaskError(f"{path}: there is no such {kind.split()[-1]}", remedy)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DualTaskError(f"{path}: is damaged or not {kind} ({error})", remedy) from error


def provenance(device: torch.device | str) -> dict[str, Any]:
    """Versions, device and date, to record with a measurement."""
    device = torch.device(device)
    packages = ("dualtask-lite", "torch", "monai", "numpy", "edt")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": _name_of(device),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def _name_of(device: torch.device) -> str:
    """Name what a result depends on: the card; or the processor, its instructions and the threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Processors of one name may differ in their instructions, by which torch chooses how it sums.
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"cpu, {machine.processor()}, {instructions}, {torch.get_num_threads()} threads"


def reset_peak_memory(device: torch.device) -> None:
    """Measure the peak memory of a card from here on; that of the host cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory of this process: of the card since ``reset_peak_memory``, otherwise of the host since its start."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return machine.peak_memory_mb()
