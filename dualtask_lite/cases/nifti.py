"""A NIfTI file, an array or a DICOM series as an image, and its voxels on the RAS+ grid."""

from __future__ import annotations

import hashlib
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from dualtask_lite.cases import dicom
from dualtask_lite.errors import DualTaskError

RAS = axcodes2ornt(("R", "A", "S"))
UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError)  # what nibabel raises
_BLOCK = 2**16  # bytes of a gzip file that are unpacked at a time, to at most 68 MB
_GZIP = b"\x1f\x8b"  # what each member of a gzip file begins with
_GZIP_RATIO = 1032  # largest compression ratio of gzip


def open_image(source: Path | np.ndarray, affine: np.ndarray | None, name: str) -> nib.Nifti1Image:
    """Open a file or the folder of a DICOM series, or wrap an array, as an image of three axes.

    The voxels of a NIfTI file are not read yet. ``affine`` applies to arrays only.

    Raises:
        DualTaskError: when it is not the image of a CT or a label; the message calls it ``name``.
    """
    if isinstance(source, np.ndarray):
        _check_affine(affine, name)
        if source.dtype.kind not in "biuf":
            raise DualTaskError(f"{name}: is an array of {source.dtype}, not of HU", "give numbers, say int16")
        image: Any = nib.Nifti1Image(source.astype(np.float32), affine)
    elif source.is_dir():
        image = dicom.read_series(source)
    else:
        try:
            image = nib.load(source)
        except UNREADABLE as error:
            if "w2 should be positive" in str(error):  # of nibabel: the quaternion is longer than 1
                raise DualTaskError(
                    f"{name}: its qform is damaged", "convert the CT again, or set its sform"
                ) from error
            raise DualTaskError(
                f"{name}: is not a readable NIfTI file ({_first_line(error)})",
                "if it should be one, copy or fetch it again; else give .nii or .nii.gz",
            ) from error
        if not isinstance(image, nib.Nifti1Pair):
            convert = "convert it to NIfTI, with: nib-convert scan.img scan.nii.gz"
            raise DualTaskError(f"{name}: is {type(image).__name__}, not NIfTI", convert)
        _check_size(image, name)
        check_gzip(source, name)
    if image.get_data_dtype().fields or np.issubdtype(image.get_data_dtype(), np.complexfloating):
        raise DualTaskError(
            f"{name}: holds colours or complex numbers, not HU", "export the CT itself, not a picture of it"
        )
    if len(image.shape) < 3 or any(side != 1 for side in image.shape[3:]) or 0 in image.shape:
        raise DualTaskError(f"{name}: has the dimensions {image.shape}, not three", "give one volume (X, Y, Z) a file")
    if len(image.shape) == 3:
        return image
    volume = image.slicer[(..., *(0,) * (len(image.shape) - 3))]
    if file := image.get_filename():
        volume.set_filename(file)  # nibabel drops it, and it tells a file from an array
    return volume


def _check_size(image: nib.Nifti1Pair, name: str) -> None:
    """Refuse a header that declares more voxels than its file can hold, before memory is allocated for them."""
    file = Path(str(image.file_map["image"].filename))
    capacity = file.stat().st_size * (_GZIP_RATIO if file.suffix.lower() == ".gz" else 1)
    declared = math.prod(image.shape) * image.get_data_dtype().itemsize
    if min(image.shape, default=0) < 0 or declared > capacity:
        raise DualTaskError(
            f"{name}: is damaged or cut off (its header declares {image.shape} voxels, more than the file can hold)",
            "fetch or export it again",
        )


def check_gzip(file: Path, name: str) -> None:
    """Refuse a damaged gzip file: nibabel stops at the last voxel, before the checksum.

    Raises:
        DualTaskError: when the checksum or the length is wrong, or the file is cut off.
    """
    if file.suffix.lower() != ".gz":
        return
    try:
        with file.open("rb") as packed:
            block = packed.read(_BLOCK)
            while True:
                block = _after_member(packed, block)
                if not block.startswith(_GZIP):
                    return  # the end of the file, or what follows a whole one
    except (OSError, EOFError, zlib.error) as error:
        raise DualTaskError(
            f"{name}: is damaged or cut off ({_first_line(error)})", "fetch or export it again"
        ) from error


def _after_member(packed: BinaryIO, block: bytes) -> bytes:
    """Unpack a member of a gzip file, of which ``block`` was read already; return the first bytes behind it."""
    stream = zlib.decompressobj(wbits=31)  # 31: one gzip member, with its checksum
    while block and not stream.eof:
        stream.decompress(block)
        if not stream.eof:
            block = packed.read(_BLOCK)
    if not stream.eof:
        raise EOFError("its end is missing")
    behind = stream.unused_data
    return behind if len(behind) >= len(_GZIP) else behind + packed.read(_BLOCK)


def _check_affine(affine: Any, name: str) -> None:
    """Refuse an affine that is no matrix of voxel -> mm."""
    try:
        affine = np.asarray(affine, float)
    except (TypeError, ValueError):
        affine = np.empty(0)
    if affine.shape != (4, 4):
        raise DualTaskError(
            f"{name}: its affine is not a matrix of 4 x 4 numbers", "give voxel -> mm, say np.diag([*spacing, 1])"
        )
    singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12
    if singular or np.isnan(io_orientation(affine)).any():  # or nearly singular: two axes are parallel
        raise DualTaskError(
            f"{name}: its affine is singular, so its voxels have no size", "export it again with its geometry"
        )


def on_ras_grid(image: nib.Nifti1Image, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (float32) of an image on the RAS+ grid, and that grid's affine.

    Raises:
        DualTaskError: when the file is damaged, its affine is singular, or its voxels do not fit into memory.
    """
    affine = image.affine
    _check_affine(affine, name)
    try:
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except UNREADABLE as error:
        raise DualTaskError(
            f"{name}: is damaged or cut off ({_first_line(error)})", "fetch or export it again"
        ) from error
    except MemoryError as error:
        raise DualTaskError(
            f"{name}: its {image.shape} voxels do not fit into memory", "crop it, or use a machine with more memory"
        ) from error
    to_ras = ornt_transform(io_orientation(affine), RAS)
    reordered = np.ascontiguousarray(apply_orientation(voxels, to_ras))
    return reordered, affine @ nib.orientations.inv_ornt_aff(to_ras, image.shape)


def digest_of_voxels(voxels: np.ndarray) -> str:
    """SHA-256 of voxels (X, Y, Z) that lie on the RAS+ grid, rounded to whole HU."""
    whole = np.rint(np.nan_to_num(voxels)).clip(-2e9, 2e9).astype(np.int32)
    return hashlib.sha256(str(whole.shape).encode() + whole.tobytes()).hexdigest()


def _first_line(error: BaseException) -> Any:
    return (str(error).splitlines() or [type(error).__name__])[0]
