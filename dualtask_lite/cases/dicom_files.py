"""Which files are DICOM, and which slices of a series were lost."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from dualtask_lite.cases.paths import folders_in, is_broken_link, is_nifti, visible

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # what a file without preamble begins with
_PREAMBLE = 132  # bytes before the first element, with the mark DICM


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its name, its first bytes or, without a preamble, by the class that pydicom reads."""
    if is_index(path):
        return False
    if path.suffix.lower() == ".dcm":
        return True
    return _head(path)[128:] == b"DICM" or has_no_preamble(path)


def is_index(path: Path) -> bool:
    """Whether a file is the index of a DICOM disc."""
    return path.name.upper() in ("DICOMDIR", "DICOMDIR.")


def files_of(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, without hidden files and without the index of a disc."""
    return [path for path in visible(folder) if path.is_file() and not is_nifti(path) and is_dicom(path)]


def lost_slices(folder: Path, slices: Iterable[Path]) -> list[Path]:
    """The broken links and the files cut off before their first element in a folder that are named like its slices."""
    endings = {path.suffix.lower() for path in slices}
    named = [path for path in visible(folder) if path.suffix.lower() in endings or not path.suffix[1:].isalpha()]
    return [path for path in named if is_broken_link(path) or _is_cut_off(path)] if endings else []


def _is_cut_off(path: Path) -> bool:
    """Whether a file is too short for DICOM, and empty or not text."""
    if is_index(path) or not path.is_file() or (size := path.stat().st_size) >= _PREAMBLE:
        return False
    return size == 0 or b"\0" in _head(path)


def series_below(folder: Path) -> list[Path]:
    """The folders that hold DICOM files: the given one, or else those below it."""
    if files_of(folder):
        return [folder]
    return [series for subfolder in folders_in(folder) for series in series_below(subfolder)]


def has_no_preamble(path: Path) -> bool:
    """Whether a file is DICOM without the preamble that the standard requires."""
    head = _head(path)
    if head[128:] == b"DICM" or head[:2] not in _FIRST_GROUPS:
        return False
    try:
        return str(read_tags(path, ["SOPClassUID"], force=True).get("SOPClassUID", "")).startswith("1.2.840.10008.")
    except Exception:  # pydicom's errors for other files have no common base class
        return False


def read_tags(path: Path, tags: Sequence[str], *, pixels: bool = False, force: bool = False) -> Dataset:
    """Read some elements of a DICOM file, with pydicom's errors; nothing of the file reaches a log.

    Args:
        path: of the file.
        tags: keywords of the elements.
        pixels: whether to read on to the pixels.
        force: whether to read a file without preamble.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")  # warnings quote values of the file, as does the log of the validation
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=list(tags), force=force)


def _head(path: Path) -> bytes:
    """The first bytes of a file; none of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE)
    except OSError:
        return b""
