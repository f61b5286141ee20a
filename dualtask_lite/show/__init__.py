"""Figures and viewers.

The main calls are ``slices``, ``volume3d``, ``compare`` and ``page``. They import Jupyter only when they draw.
"""

from dualtask_lite.show.slices.browser import slices
from dualtask_lite.show.slices.compare import compare
from dualtask_lite.show.volume.volume3d import page, volume3d

__all__ = ["compare", "page", "slices", "volume3d"]
