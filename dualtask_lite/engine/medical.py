"""What the engine takes from MONAI, imported in half the time.

Importing MONAI imports jsonschema, and where JupyterLab is installed that compiles a grammar of internationalised
addresses (``rfc3987-syntax``), which takes 2 to 6 s of every process. jsonschema goes without the grammar where it is
missing, and nothing here checks such an address, so it is hidden while jsonschema is imported.
"""

import importlib
import sys
from contextlib import suppress

GRAMMAR = "rfc3987_syntax"

if "jsonschema" not in sys.modules and GRAMMAR not in sys.modules:
    sys.modules[GRAMMAR] = None  # type: ignore[assignment]  # Python's way to make an import fail
    with suppress(ImportError):
        importlib.import_module("jsonschema")
    del sys.modules[GRAMMAR]

from monai.inferers import sliding_window_inference  # noqa: E402
from monai.metrics.utils import get_mask_edges, get_surface_distance  # noqa: E402

__all__ = ["get_mask_edges", "get_surface_distance", "sliding_window_inference"]
