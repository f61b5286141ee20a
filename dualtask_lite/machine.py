"""Probes of the machine: processor, memory, card, and their use by this process. Nothing is changed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def processor() -> str:
    """Name of the processor; results of a training depend on it, because the order of summation does."""
    if sys.platform == "linux":  # platform.processor() is empty there
        lines = _lines(_PROC / "cpuinfo")
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:  # missing on ARM
            return names[0]
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16() -> bool:
    """Whether the card computes in bf16: from Ampere on; older cards, such as a T4 (7.5), only emulate it.

    Unknown newer cards are assumed to support it. So is the card of another machine, when this one only plans its run.
    """
    import torch  # here, because the doctor must also diagnose a machine whose torch is broken

    return not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] >= 8


def host_memory() -> tuple[int | None, int | None]:
    """Total and available bytes of memory for this process; ``None`` where the system does not report it.

    The smallest value counts: of the whole machine, and of each control group (container, batch job, hub) around it.
    """
    columns = zip(_system_memory(), *_group_memory(), strict=True)
    total, available = ([size for size in column if size is not None] for column in columns)
    return min(total, default=None), min(available, default=None)


def _system_memory() -> tuple[int | None, int | None]:
    """Total and available bytes of the whole machine."""
    known = {key: int(size) * 1024 for key, size, *_ in map(str.split, _lines(_PROC / "meminfo"))}
    if known:
        return known.get("MemTotal:"), known.get("MemAvailable:")
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None, None


def _group_memory() -> Iterator[tuple[int, int]]:
    """Limit and available bytes of each control group of this process."""
    files = {"": ("max", "current"), "memory": ("limit_in_bytes", "usage_in_bytes")}  # version 2 and 1
    for _, controller, path in (line.split(":", 2) for line in _lines(_PROC / "self/cgroup")):
        root = _CGROUPS / controller
        group = root / path.lstrip("/")
        for folder in (group, *group.parents) if controller in files else ():
            sizes = [_lines(folder / f"memory.{name}") for name in files[controller]]
            if folder.is_relative_to(root) and sizes[0] not in ([], ["max"]) and sizes[1]:
                (limit,), (used,) = sizes
                cached = dict(map(str.split, _lines(folder / "memory.stat"))).get("inactive_file", 0)
                yield int(limit), int(limit) - int(used) + int(cached)  # the cache is freed on demand


def peak_memory_mb() -> float | None:
    """Largest memory of this process so far; None where the system does not report it (Windows)."""
    # On Linux, getrusage would include the memory of the parent process; but some sandboxes do not report VmHWM.
    for line in _lines(_PROC / "self/status"):
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def load_average() -> float | None:
    """Number of processes that were running, as a mean over the last minute; None on Windows, which has no such."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
