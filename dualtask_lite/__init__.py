"""Dual-Task Lite: how a medical segmentation model survives a new hospital, as a kit to teach with.

``cases`` says where a CT comes from, ``method`` is the paper, ``engine`` makes it run and ``show``
looks at it. For teaching and research, not for diagnosis.
"""

from dualtask_lite.errors import DualTaskError

__version__ = "0.1.0"
__all__ = ["DualTaskError", "__version__"]
