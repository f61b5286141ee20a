"""Digests of image files, cached in the cache folder until the modification time or the size of a file changes."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from dualtask_lite.cases.nifti import digest_of_voxels, on_ras_grid, open_image
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.resources import cache_folder


@lru_cache(maxsize=8192)
def file_digests(path: Path, modified: int, size: int) -> tuple[str, str]:
    """SHA-256 of an image file's voxels, and of its voxels and affine.

    Args:
        path: of the file, or of the folder of a DICOM series.
        modified: its current modification time, ns.
        size: its current size, bytes.

    Raises:
        DualTaskError: when the file cannot be read as an image.
    """
    file = os.fsencode(path.resolve())  # a name need not be UTF-8
    cached = cache_folder() / "digests" / hashlib.sha256(file + f" {modified} {size}".encode()).hexdigest()
    if digests := _read(cached):
        return digests
    volume, affine = on_ras_grid(open_image(path, None, str(path)), str(path))
    voxels = digest_of_voxels(volume)
    grid = hashlib.sha256(voxels.encode() + affine.tobytes()).hexdigest()
    with suppress(DualTaskError), whole_file(cached) as temporary:  # an unwritable cache only costs time
        temporary.write_text(f"{voxels} {grid}", encoding="ascii")
    return voxels, grid


def _read(cached: Path) -> tuple[str, str] | None:
    """The two digests in a file of the cache; ``None`` when it is missing, unreadable or damaged."""
    try:
        content = cached.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    found = re.fullmatch(r"([0-9a-f]{64}) ([0-9a-f]{64})", content)
    return (found[1], found[2]) if found else None
