"""The slice browser: images of all slices and a slider; it needs no kernel."""

from dualtask_lite.show.slices.browser import slices
from dualtask_lite.show.slices.compare import compare

__all__ = ["compare", "slices"]
