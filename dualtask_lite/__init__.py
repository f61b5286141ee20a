"""Dual-Task Lite: a teaching kit for medical segmentation under domain shift.

``cases`` reads and makes CTs, ``method`` is the paper, ``engine`` trains, predicts and evaluates, and ``show`` draws.
For teaching and research, not for diagnosis.
"""

import os

from dualtask_lite.errors import DualTaskError

__version__ = "0.1.0"
__all__ = ["DualTaskError", "__version__"]

# Between two operations the threads of torch (GNU OpenMP) busy-wait for milliseconds, which slows down other processes
# on the same cores. This is the shorter wait of OpenMP with more threads than cores. It must be set before torch is
# loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
