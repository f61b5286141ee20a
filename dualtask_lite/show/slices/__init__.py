"""The slice browser: pictures of all slices and a slider, without a kernel."""

from dualtask_lite.show.slices.browser import slices
from dualtask_lite.show.slices.compare import compare

__all__ = ["compare", "slices"]
