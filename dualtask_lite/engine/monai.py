"""The functions of MONAI that the engine uses; this module imports them in half the time.

MONAI imports jsonschema. If JupyterLab is installed, jsonschema compiles a grammar of internationalised addresses
(``rfc3987-syntax``), which takes 2 to 6 s in every process. jsonschema also works without this optional package, and
the kit never checks such an address, so the package is hidden while jsonschema is imported.
"""

import importlib
import sys
from contextlib import suppress

GRAMMAR = "rfc3987_syntax"

if "jsonschema" not in sys.modules and GRAMMAR not in sys.modules:
    sys.modules[GRAMMAR] = None  # type: ignore[assignment]  # makes its import fail
    with suppress(ImportError):
        importlib.import_module("jsonschema")
    del sys.modules[GRAMMAR]

from monai.inferers import sliding_window_inference  # noqa: E402
from monai.metrics.utils import get_mask_edges, get_surface_distance  # noqa: E402

__all__ = ["get_mask_edges", "get_surface_distance", "sliding_window_inference"]
