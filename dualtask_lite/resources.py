"""Paths of the files in the top-level ``data`` folder, in a clone and in an installed wheel."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from dualtask_lite.errors import DualTaskError

_PACKAGE = Path(__file__).parent
_CLONE = _PACKAGE.parent / "data"
_log = logging.getLogger(__name__)
#: Name of a reference model -> its stages in ``data/models``. ``reference`` is the recipe chosen for the exam.
CASCADES = {
    "reference": ("pancreas-coarse", "tumour-conversion"),
    "reference-segmentation": ("pancreas-coarse", "tumour-segmentation"),
    "reference-full": ("pancreas-coarse", "tumour-full"),
}

REFERENCE_NOTE = "the reference models are trained on made-up cases only; their prediction of a real CT is meaningless"


def data_file(name: str) -> Path:
    """Find a file that the package reads from ``data/``, such as ``centres.yaml`` or ``sources.yaml``."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.exists() else _CLONE / name


def lessons_folder() -> Path:
    """The folder that holds the lessons' notebooks, their glossary and ``solutions/``."""
    packaged = _PACKAGE / "_lessons"
    return packaged if packaged.exists() else _PACKAGE.parent / "notebooks"


def cache_folder() -> Path:
    """Find the folder of generated and downloaded volumes.

    It is ``DUALTASK_DATA`` if set, else ``data/cache`` of a clone, else the user's cache.
    """
    if chosen := os.environ.get("DUALTASK_DATA"):
        return expand_home(chosen)
    if (_CLONE / "centres.yaml").exists():
        return _CLONE / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualtask_lite"


def expand_home(path: str | Path) -> Path:
    """Replace ``~`` at the beginning of a path by the home folder; ``~name`` stays when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder of the cache, complete or not at all, unless it is there.

    Args:
        folder: its name must change with its content, because an existing folder is used as it is.
        make: writes the content into the new folder that it is given.

    Returns:
        The folder.

    Raises:
        DualTaskError: when the cache cannot be written.
    """
    try:
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as temporary:
            unfinished = Path(temporary) / folder.name
            make(unfinished)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.exists():  # else another process has made it, with the same content
                    raise
    except OSError as error:
        raise DualTaskError(
            f"{folder.parent}: cannot be written ({error.strerror or error})",
            "make room, or point DUALTASK_DATA at a folder that can be written",
        ) from error
    return folder


def is_reference(model: str | Path) -> bool:
    """Whether a text is the name of a reference model; ``./NAME`` or an existing ``Path`` is a folder of that name."""
    return str(model) in CASCADES and not (isinstance(model, Path) and model.exists())


def as_model(folder: Path) -> str:
    """Write a run folder as a model; ``./`` distinguishes it from the reference model of that name."""
    return f".{os.sep}{folder}" if str(folder) in CASCADES else str(folder)


def run_folder(model: str | Path) -> Path:
    """Turn the name of a reference model into a run folder in the cache; any other path is returned as it is.

    Raises:
        DualTaskError: when the models are missing, or the cache cannot be written.
    """
    if not is_reference(model):
        return Path(model)
    name = str(model)
    if Path(name).exists():
        _log.warning("%s means the reference model; write ./%s for the folder", name, name)
    sources = [data_file(f"models/{stage}") for stage in CASCADES[name]]
    weights = [source / "model.safetensors" for source in sources]
    if missing := [file for file in weights if not file.exists()]:
        raise DualTaskError(
            f"{missing[0]}: this file of a reference model is missing", "train it with make models, which takes hours"
        )
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in weights)).hexdigest()

    def copy(folder: Path) -> None:
        for source in sources:
            shutil.copytree(source, folder / source.name)

    return made_once(cache_folder() / "models" / digest[:12] / name, copy)
