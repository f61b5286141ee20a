"""Digests of image files, cached in the cache folder until the modification time or the size of a file changes."""

from __future__ import annotations

import hashlib
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
    name = hashlib.sha256(f"{path.resolve()} {modified} {size}".encode()).hexdigest()
    cached = cache_folder() / "digests" / name
    if cached.is_file():
        voxels, grid = cached.read_text(encoding="ascii").split()
        return voxels, grid
    volume, affine = on_ras_grid(open_image(path, None, str(path)), str(path))
    voxels = digest_of_voxels(volume)
    grid = hashlib.sha256(voxels.encode() + affine.tobytes()).hexdigest()
    with suppress(DualTaskError), whole_file(cached) as temporary:  # an unwritable cache only costs time
        temporary.write_text(f"{voxels} {grid}", encoding="ascii")
    return voxels, grid
