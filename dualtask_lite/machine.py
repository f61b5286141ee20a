"""What the machine says of this process."""

from __future__ import annotations

import sys


def peak_memory_mb() -> float | None:
    """Tell the largest memory of this process so far, or None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
