"""What the machine says of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, without importing IPython where nobody did."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


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
