"""Check whether the kit runs on this machine: versions, device, memory, disk, viewers."""

from __future__ import annotations

import importlib.metadata as installed
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from dualtask_lite import machine
from dualtask_lite.resources import cache_folder
from dualtask_lite.viewers.extension import Status
from dualtask_lite.viewers.extension import status as itk_source

_PACKAGE = "dualtask-lite"
_EXTRAS = ("notebooks", "viewers")
_LEAST_MEMORY_GB = 2.0  # what a lesson needs
_LEAST_DISK_GB = 1.0  # for the embedded data and some runs
_LARGE_CARD_GB = 20.0  # least memory for the profile "gpu"
_LOCAL = "make it draw without network"


@dataclass(frozen=True)
class Check:
    """Result of one check: ``status`` is OK, WARN or FAIL; the remedy is empty if it is OK."""

    name: str
    status: str
    found: str
    remedy: str

    @classmethod
    def of(cls, name: str, found: str, remedy: str = "", *, otherwise: str = "WARN") -> Check:
        """Create a result that is OK if the remedy is empty, and ``otherwise`` if not."""
        return cls(name, otherwise if remedy else "OK", found, remedy)


@dataclass(frozen=True)
class Diagnosis:
    """Results of all checks, and the measured values by name (``None`` if unknown)."""

    checks: tuple[Check, ...]
    machine: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the core of the package runs here."""
        return all(check.status != "FAIL" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, "machine": self.machine, "checks": [asdict(check) for check in self.checks]}

    def as_text(self) -> str:
        """Format one aligned line for each check."""
        width = max(len(check.name) for check in self.checks)
        starts = [f"{check.status:<4}  {check.name:<{width}}" for check in self.checks]
        texts = ["; ".join(filter(None, (check.found, check.remedy))) for check in self.checks]
        return "\n".join(map("  ".join, zip(starts, texts, strict=True)))


def diagnose() -> Diagnosis:
    """Check this machine; nothing is changed, and Jupyter need not be installed."""
    device, *device_checks = _device()
    memory, memory_check = _memory()
    disk, disk_check = _disk()
    card_gb = device["gpu_memory_gb"]
    profile = "laptop" if card_gb is None else "gpu" if card_gb >= _LARGE_CARD_GB else "colab"
    fits = Check.of("profile", f"{profile} fits (dualtask train --profile {profile})")
    checks = (*_versions(), *device_checks, memory_check, disk_check, fits, _viewers())
    system = {"python": platform.python_version(), "system": platform.platform(), "profile": profile}
    return Diagnosis(checks, {**system, **device, **memory, **disk})


def _versions() -> Iterator[Check]:
    """Compare the installed versions with the requirements of the package."""
    python = platform.python_version()
    remedy = "" if Version(python) >= Version("3.10") else "install Python 3.10 or newer"
    yield Check.of("Python", python, remedy, otherwise="FAIL")
    version = _version(_PACKAGE)
    if version is None:
        yield Check.of(_PACKAGE, "not installed", "run pip install -e . in the clone", otherwise="FAIL")
        return
    yield Check.of(_PACKAGE, version)
    for requirement in map(Requirement, installed.requires(_PACKAGE) or ()):
        extra = next((name for name in _EXTRAS if f'"{name}"' in str(requirement.marker)), "")
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield _package(requirement, extra)


def _package(requirement: Requirement, extra: str) -> Check:
    version = _version(requirement.name)
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return Check.of(requirement.name, version)
    problem = "not installed" if version is None else f"{version} does not fit {requirement.specifier}"
    to_install = f"{_PACKAGE}[{extra}]" if extra else f"{requirement.name}{requirement.specifier}"
    remedy = f"run pip install '{to_install}'"
    return Check.of(requirement.name, problem, remedy, otherwise="WARN" if extra else "FAIL")


def _version(name: str) -> str | None:
    try:
        return installed.version(name)
    except installed.PackageNotFoundError:
        return None


def _device() -> tuple[dict[str, Any], Check, Check]:
    cores = machine.cores()
    unknown = dict.fromkeys(("cpu_threads", "gpu", "gpu_memory_gb", "bf16"))
    values: dict[str, Any] = {"cpu_cores": cores, **unknown}
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch links to is missing
        broken = Check.of("graphics card", f"torch fails: {error}", "install torch again", otherwise="FAIL")
        return values, Check.of("processor", f"{cores} cores"), broken
    values["cpu_threads"] = torch.get_num_threads()
    processor = Check.of("processor", f"{cores} cores, torch uses {values['cpu_threads']} threads")
    if not torch.cuda.is_available():
        return values, processor, _no_card(torch.__version__)
    card = torch.cuda.get_device_properties(0)
    bf16 = machine.has_bf16()
    values |= {"gpu": card.name, "gpu_memory_gb": round(card.total_memory / 1e9, 1), "bf16": bf16}
    precision = "bf16" if bf16 else "no bf16, so training uses fp16 with a scaler"
    description = f"{torch.cuda.device_count()} x {card.name}, {values['gpu_memory_gb']} GB, {precision}"
    return values, processor, Check.of("graphics card", description)


def _no_card(torch_version: str) -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check.of("graphics card", "none: the lessons run on the processor")
    remedy = "update the driver, or install the torch for your CUDA (https://pytorch.org/get-started/locally)"
    return Check.of("graphics card", f"nvidia-smi is installed, but torch {torch_version} finds no card", remedy)


def _memory() -> tuple[dict[str, Any], Check]:
    sizes = machine.host_memory()
    total, available = (None if size is None else round(size / 1e9, 1) for size in sizes)
    texts = ["unknown" if size is None else f"{size} GB" for size in (total, available)]
    enough = all(size is None or size >= _LEAST_MEMORY_GB for size in (total, available))
    remedy = "" if enough else f"close other programs, a lesson needs {_LEAST_MEMORY_GB:.0f} GB"
    values = {"memory_gb": total, "memory_available_gb": available}
    return values, Check.of("memory", ", available ".join(texts), remedy)


def _disk() -> tuple[dict[str, Any], Check]:
    folder = cache_folder().absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    values = {"cache_folder": str(folder), "disk_free_gb": round(free, 1)}
    elsewhere = "set DUALTASK_DATA to another folder"
    if not os.access(existing, os.W_OK):
        remedy = f"{elsewhere}, unless your course shares this one and its data are made"
        return values, Check.of("disk", f"{existing} cannot be written", remedy)
    remedy = "" if free >= _LEAST_DISK_GB else f"free some space or {elsewhere}"
    return values, Check.of("disk", f"{free:.1f} GB free for {folder}", remedy)


def _viewers() -> Check:
    """Check which viewers work; static pictures always do."""
    local = itk_source() if _version("itkwidgets") else Status("missing")
    if not _version("ipyniivue"):
        return Check.of("viewers", f"ipyniivue is not installed; {local}", f"run pip install '{_PACKAGE}[viewers]'")
    remedy = f"run dualtask viewers install to {_LOCAL}" if local.state == "undone" else ""
    more = f" (dualtask viewers install: {_LOCAL})" if local.state == "network" else ""
    return Check.of("viewers", f"niivue and html draw without network; {local}{more}", remedy)
