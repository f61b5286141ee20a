"""Dual-Task Lite: how a medical segmentation model survives a new hospital, as a kit to teach with.

``cases`` says where a CT comes from, ``method`` is the paper, ``engine`` makes it run and ``show``
looks at it. For teaching and research, not for diagnosis.
"""

import os

from dualtask_lite.errors import DualTaskError

__version__ = "0.1.0"
__all__ = ["DualTaskError", "__version__"]

# Between two operations torch's threads (GNU OpenMP) turn in circles for milliseconds, so as to be at hand at once.
# Where others want the cores too, they take them from whom they wait for. This is the patience that OpenMP itself has
# when it sees more threads than cores; it is read when torch is loaded, which is after this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
