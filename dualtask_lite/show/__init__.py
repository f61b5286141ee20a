"""Looking at it: figures and viewers.

One call each: ``slices``, ``volume3d``, ``compare`` and ``page``. Nothing of Jupyter is imported before it draws.
"""

from dualtask_lite.show.slices.browser import slices
from dualtask_lite.show.slices.compare import compare
from dualtask_lite.show.volume.volume3d import page, volume3d

__all__ = ["compare", "page", "slices", "volume3d"]
