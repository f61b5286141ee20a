"""What the machine says of itself and of this process."""

from __future__ import annotations

import platform
import sys
from pathlib import Path


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, without importing IPython where nobody did."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def processor() -> str:
    """Name the processor: a training on another kind differs, because sums are formed in another order."""
    if sys.platform == "linux":  # platform.processor() is empty there
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:  # ARM does not tell
            return names[0]
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float | None:
    """Tell the largest memory of this process so far, or None where the system does not say (Windows)."""
    if sys.platform == "linux":  # getrusage would start a child at what its parent held
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10, 1)
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
