"""Where the files of the top-level ``data`` folder are, in a clone and in an installed wheel."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent
_CLONE = _PACKAGE.parent / "data"


def data_file(name: str) -> Path:
    """Path of a file that the package reads from ``data/`` (``centres.yaml``, ``sources.yaml``)."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.exists() else _CLONE / name


def cache_folder() -> Path:
    """Where made or fetched volumes go: ``DUALTASK_DATA``, else the clone's ``data/cache``, else the user's cache."""
    if chosen := os.environ.get("DUALTASK_DATA"):
        return Path(chosen).expanduser()
    if (_CLONE / "centres.yaml").exists():
        return _CLONE / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dualtask_lite"
