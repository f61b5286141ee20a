"""Read a DICOM series as one volume in HU, with its geometry and without any data on the patient.

pydicom reads the files: it is pure Python, has two megabytes, and gives access to all values that must be checked
before slices are stacked. MONAI's reader stacks any slices, even across a gap; SimpleITK needs 50 MB and reports a gap
on standard error only.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from dualtask_lite.cases.dicom_files import files_of, has_no_preamble, lost_slices, read_tags
from dualtask_lite.cases.paths import is_broken_link
from dualtask_lite.errors import DualTaskError

# Only these tags are read: no name, birth date, number or comment of a patient ever enters the program.
_HEADER = [
    *("Modality", "SeriesInstanceUID", "SeriesNumber", "ImageOrientationPatient", "ImagePositionPatient"),
    *("PixelSpacing", "SliceThickness", "Rows", "Columns", "NumberOfFrames", "ImageType", "SOPClassUID"),
    *("AcquisitionNumber", "ConvolutionKernel", "RescaleSlope", "RescaleIntercept"),
]
_CT_IMAGES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_PIXELS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("PlanarConfiguration", "PixelData"),
]
# Tag -> how many numbers it must hold, if it is present.
_NUMBERS = {"Rows": 1, "Columns": 1, "NumberOfFrames": 1, "SliceThickness": 1}
_NUMBERS |= {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
_UNEVEN = 0.05  # of the distance between slices; a larger deviation makes the stack uneven,
_ROUNDED = 0.101  # mm; unless no slice is farther from its place in an even stack: some scanners round to 0.1 mm
_SIDEWAYS = 1.0  # mm; a slice that is moved farther within its plane makes the stack uneven, too
_CONVERT = "convert the series with dcm2niix, and give the NIfTI file"
_REMOVE = f"remove this file if it is a localiser or a page of text; else {_CONVERT}"
_AIR = -1000.0  # HU
_NAMED = 3  # series that an error names


def read_series(folder: Path) -> nib.Nifti1Image:
    """Read the one CT series of a folder.

    Args:
        folder: with one file for each slice; other objects (reports, contours, masks, raw data) are ignored.

    Returns:
        Voxels (columns, rows, slices) in HU, float32, slices in the order of their positions; the affine maps them to
        mm in RAS+ (DICOM standard, part 3, C.7.6.2.1.1). A tilted gantry makes it sheared. ``extra`` holds the
        thickness of a slice in mm, 0 if it is unknown.

    Raises:
        DualTaskError: when there is no series or more than one, it is not CT, slices are missing or duplicated, their
            sizes or directions differ, or the pixels cannot be decoded.
    """
    slices = _one_series(folder)
    first = slices[0][1]
    row, column = _directions(first)
    normal = np.cross(row, column)
    slices.sort(key=lambda entry: float(normal @ _position(entry[1])))
    _check_one_volume(folder, slices)
    first = slices[0][1]
    affine = np.eye(4)
    affine[:3, 0] = row * float(first.PixelSpacing[1])
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    affine[:3, 2] = _step(folder, slices, normal)
    affine[:3, 3] = _position(first)
    affine[:2] *= -1  # DICOM counts towards the left and the back, NIfTI towards the right and the front
    pixels = _hu(slices[0][0])  # decoded before memory is allocated for the size in the headers
    volume: np.ndarray = np.empty((*pixels.T.shape, len(slices)), np.float32)
    for index, (path, _) in enumerate(slices):
        volume[..., index] = pixels.T if index == 0 else _hu(path).T
    thickness = float(first.get("SliceThickness") or 0)
    image = nib.Nifti1Image(volume, affine, extra={"slice_thickness": thickness})  # NIfTI has no field for it
    image.header.set_xyzt_units("mm")
    return image


def stamp(folder: Path) -> tuple[int, int]:
    """Latest modification time (ns) and total bytes of the files of a series: they change when a file does."""
    stats = [path.stat() for path in files_of(folder)]
    return max((stat.st_mtime_ns for stat in stats), default=0), sum(stat.st_size for stat in stats)


def _one_series(folder: Path) -> list[tuple[Path, Dataset]]:
    """File and header of each slice of the only series of a folder."""
    by_series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    localisers = 0
    files = files_of(folder)
    if lost := lost_slices(folder, files):
        what = "is a broken link" if is_broken_link(lost[0]) else "is empty or was cut off"
        raise DualTaskError(
            f"{lost[0]}: {what}, so a slice of the series may be missing",
            "fetch it again, or remove it if it is no slice",
        )
    for path in files:
        header = _read(path, _HEADER, pixels=False)
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            continue  # the index of a disc under another name
        if "LOCALIZER" in (header.get("ImageType") or ()):
            localisers += 1
            continue
        is_image = "Rows" in header and "Columns" in header
        if not is_image and _is_ct_image(header):
            raise DualTaskError(f"{path}: is a DICOM file that was cut off", "copy or fetch it again")
        if is_image:
            by_series[str(header.get("SeriesInstanceUID", ""))].append((path, header))
    # A segmentation or a dose is an image as well.
    by_series = {uid: slices for uid, slices in by_series.items() if _is_ct(slices)} or by_series
    if not by_series:
        found = "only localisers" if localisers else "no DICOM image"
        raise DualTaskError(f"{folder}: holds {found}", "give the folder that holds the slices of a CT series")
    if len(by_series) > 1:
        raise _several_series(folder, list(by_series.values()))
    (slices,) = by_series.values()
    for path, header in slices:
        if header.get("Modality") != "CT":
            raise DualTaskError(f"{path}: is {header.get('Modality')}, not CT", "give a CT series")
        _check_numbers(path, header)
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise DualTaskError(f"{path}: holds many slices in one file", _CONVERT)
        if missing := [tag for tag in _HEADER[3:6] if not header.get(tag)]:
            raise DualTaskError(f"{path}: has no {missing[0]}, so its position is unknown", _REMOVE)
    _check_one_grid(slices)
    _check_rescaled(slices)
    return slices


def _several_series(folder: Path, series: list[list[tuple[Path, Dataset]]]) -> DualTaskError:
    """The error for a folder of several series; it names the first three."""
    if len(series) > _NAMED and all(len(slices) == 1 for slices in series):
        what = f"each of its {len(series)} images has a SeriesInstanceUID of its own, as some anonymisers write it"
        return DualTaskError(
            f"{folder}: {what}", f"anonymise the series again with one for all its slices, or {_CONVERT}"
        )
    named = [
        f"{header.get('Modality')} number {header.get('SeriesNumber')} ({len(slices)} images, say {path.name})"
        for slices in series[:_NAMED]
        for path, header in slices[:1]
    ]
    more = [f"{len(series) - _NAMED} more"] if len(series) > _NAMED else []
    what = f"holds {len(series)} series: {', '.join(named + more)}"
    return DualTaskError(f"{folder}: {what}", "put each into a folder of its own")


def _is_ct_image(header: Dataset) -> bool:
    """Whether a header may be that of a CT image; where the file was cut off, its class or the end of it is missing."""
    read = str(header.get("SOPClassUID") or "")
    return header.get("Modality", "CT") == "CT" and any(known.startswith(read) for known in _CT_IMAGES)


def _is_ct(slices: list[tuple[Path, Dataset]]) -> bool:
    return any(header.get("Modality") == "CT" for _, header in slices)


def _check_one_grid(slices: list[tuple[Path, Dataset]]) -> None:
    """Refuse slices of different sizes or directions; the error names one that differs from the majority."""
    for reference in slices:
        different = [path for path, header in slices if not _on_same_grid(header, reference[1])]
        if len(different) <= len(slices) // 2:
            break
    if different:
        raise DualTaskError(f"{different[0]}: differs in size or direction from {reference[0].name}", _REMOVE)


def _on_same_grid(one: Dataset, other: Dataset) -> bool:
    same = (one.Rows, one.Columns) == (other.Rows, other.Columns)
    same &= np.allclose(one.PixelSpacing, other.PixelSpacing, rtol=1e-3)
    return bool(same and np.allclose(_directions(one), _directions(other), atol=1e-3))


def _check_rescaled(slices: list[tuple[Path, Dataset]]) -> None:
    """Refuse slices of which some tell how they become HU and others do not; the error names one of the fewer."""
    for tag in ("RescaleSlope", "RescaleIntercept"):
        without = [path for path, header in slices if header.get(tag) is None]
        having = [path for path, header in slices if header.get(tag) is not None]
        if without and having:
            odd, usual = sorted((without, having), key=len)
            has = "has no" if odd is without else "has a"
            raise DualTaskError(
                f"{odd[0]}: {has} {tag}, unlike {usual[0].name}, so its HU are unknown",
                f"copy or fetch the series again, or {_CONVERT}",
            )


def _check_one_volume(folder: Path, slices: list[tuple[Path, Dataset]]) -> None:
    """Refuse two times or two reconstructions whose slices lie between each other, where they seem one even stack.

    One acquisition after the other, each with a slice or a block of them, is one volume.

    Args:
        folder: for messages.
        slices: in the order of their positions.
    """
    for tag in ("AcquisitionNumber", "ConvolutionKernel"):
        places: dict[str, list[int]] = defaultdict(list)
        for place, (_, header) in enumerate(slices):
            places[str(header.get(tag))].append(place)
        groups = [(value, found) for value, found in places.items() if len(found) > 1]  # in the order of their begins
        for (one, below), (other, above) in pairwise(groups):
            if above[0] < below[-1]:
                named = f"{one} ({slices[below[0]][0].name}) and {other} ({slices[above[0]][0].name})"
                raise DualTaskError(
                    f"{folder}: slices of {tag} {named} lie between each other",
                    "they are two times or two reconstructions: put each into a folder of its own",
                )


def _check_numbers(path: Path, header: Dataset) -> None:
    for tag, count in _NUMBERS.items():
        if not (value := header.get(tag)):
            continue  # required tags are checked elsewhere
        try:
            numbers = np.atleast_1d(np.array(value, float))
        except (TypeError, ValueError):
            numbers = np.empty(0)
        damaged = len(numbers) != count or not np.isfinite(numbers).all()
        if tag == "ImageOrientationPatient" and not damaged:
            damaged = not np.allclose(np.linalg.norm(numbers.reshape(2, 3), axis=1), 1, atol=0.01)  # not unit vectors
        if tag == "PixelSpacing" and not damaged:
            damaged = not (numbers > 0).all()  # a negative one would mirror the patient
        if damaged:
            raise DualTaskError(f"{path}: its {tag} is damaged", f"copy or fetch the series again, or {_CONVERT}")


def _step(folder: Path, slices: list[tuple[Path, Dataset]], normal: np.ndarray) -> np.ndarray:
    """Vector from one slice to the next, mm in DICOM's directions; refuses an uneven stack."""
    if len(slices) == 1:
        thickness = float(slices[0][1].get("SliceThickness") or 0)
        return normal * (thickness if thickness > 0 else 1)  # a negative one would mirror the patient
    positions = np.array([_position(header) for _, header in slices])
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    median = float(np.median(distances))
    worst = int(np.abs(distances - median).argmax())
    if distances.min() < 1e-3:
        twin = int(distances.argmin())
        finding = f"{slices[twin][0].name} and {slices[twin + 1][0].name} show the same position"
        raise DualTaskError(f"{folder}: {finding}", "keep one volume: one time or one reconstruction")
    uneven = np.flatnonzero(np.abs(distances - median) > _UNEVEN * median)
    heights = positions @ normal
    from_even = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if not len(uneven) or from_even.max() <= _ROUNDED:
        _check_line(folder, slices, positions, heights)
        return np.asarray((positions[-1] - positions[0]) / (len(slices) - 1))
    if len(uneven) > 1 and np.ptp(distances[uneven]) <= _UNEVEN * median and np.ptp(uneven) == len(uneven) - 1:
        change_at = slices[uneven[0] or uneven[-1] + 1][0].name
        before, after = distances[0], distances[-1]
        raise DualTaskError(
            f"{folder}: slices are {before:.3g} mm apart up to {change_at}, then {after:.3g} mm",
            "convert the series with dcm2niix, and give the NIfTI file with _Eq in its name: its slices are even",
        )
    between = f"{slices[worst][0].name} and {slices[worst + 1][0].name}"
    raise DualTaskError(
        f"{folder}: slices are {median:.3g} mm apart, but {distances[worst]:.3g} mm between {between}",
        f"a slice is missing or too many: copy or fetch the series again, or {_CONVERT}",
    )


def _check_line(folder: Path, slices: list[tuple[Path, Dataset]], positions: np.ndarray, heights: np.ndarray) -> None:
    """Refuse a slice that is moved within its plane, away from the line through the first and the last."""
    share = (heights - heights[0]) / (heights[-1] - heights[0])
    moved = np.linalg.norm(positions - positions[0] - share[:, None] * (positions[-1] - positions[0]), axis=1)
    worst = int(moved.argmax())
    if moved[worst] > _SIDEWAYS:
        raise DualTaskError(
            f"{folder}: {slices[worst][0].name} is moved by {moved[worst]:.3g} mm within its plane",
            f"copy or fetch the series again, or {_CONVERT}",
        )


def _directions(header: Dataset) -> np.ndarray:
    """Unit vectors along a row and along a column."""
    return np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))


def _position(header: Dataset) -> np.ndarray:
    """Centre of the first pixel, mm in DICOM's directions."""
    return np.array(header.ImagePositionPatient, float)


def _hu(path: Path) -> np.ndarray:
    """Pixels (rows, columns) of one slice in HU."""
    content = _read(path, _PIXELS, pixels=True)
    slope, intercept = content.get("RescaleSlope"), content.get("RescaleIntercept")
    try:
        slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
        stored = content.pixel_array
        hu = stored.astype(np.float32) * slope + intercept
        padded = _padding(content, stored)
        hu[padded] = np.minimum(hu[padded], _AIR)
    except Exception as error:  # every decoder has its own exceptions
        syntax = content.file_meta.get("TransferSyntaxUID")
        raise DualTaskError(
            f"{path}: its pixels cannot be decoded ({getattr(syntax, 'name', syntax)})",
            f"fetch it again if it is damaged; if it is compressed, pip install pylibjpeg[all], or {_CONVERT}",
        ) from error
    if stored.ndim != 2:
        raise DualTaskError(f"{path}: holds colours, not HU", "give the slices of the CT itself, not pictures of them")
    return hu


def _padding(content: Dataset, stored: np.ndarray) -> np.ndarray:
    """Mask of the pixels with a padding value instead of a measurement (DICOM standard, part 3, C.7.5.1.1.2)."""
    if (value := content.get("PixelPaddingValue")) is None:
        return np.zeros(stored.shape, bool)
    other = content.get("PixelPaddingRangeLimit")
    # Some files omit the sign.
    ends = np.array([int(value), int(value if other is None else other)]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _read(path: Path, tags: list[str], *, pixels: bool) -> Dataset:
    try:
        content = read_tags(path, tags, pixels=pixels, force=has_no_preamble(path))
        list(content)  # decode each element now, not at its first use
    except Exception as error:  # pydicom's errors for damaged files have no common base class
        raise DualTaskError(f"{path}: is not a readable DICOM file", "copy or fetch it again, or remove it") from error
    if "TransferSyntaxUID" not in content.file_meta:
        implicit, little = content.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        content.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return content
