"""Checks of a case that was read: its grid, its voxels and its label.

Each check yields its findings, with a remedy for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np

from dualtask_lite.cases.nifti import UNREADABLE

LABELS = {0: "background", 1: "pancreas", 2: "tumour"}
_SPACING = (0.05, 30.0)  # mm; smallest and largest side of a CT voxel
_WIDEST = 1000.0  # mm; no bore is wider, and only one extent, along the table, may be longer
_NARROW = 100.0  # mm; a body of 200 to 800 mm whose header counts in cm seems narrower,
_FINE = 0.5  # mm; and its pixels seem finer; a crop of a CT has coarser ones
_GAP = 1.5  # times their thickness; slices that are farther apart leave tissue out
_AFFINE_ROUNDING = 0.1  # of a voxel; sform and qform may differ by this much
_GRID_ROUNDING = 0.01  # of a voxel; label and image may differ by this much
_LABEL_ROUNDING = 1e-3  # a label may differ from a whole number by this much
_LOWEST = -1100.0  # HU; below it lies padding only
_STORED = 500.0  # HU; most tissue lies above in a CT of stored values, shifted by 1024
_HIGHEST = 10_000.0  # HU; metal reaches some thousands


@dataclass(frozen=True)
class Finding:
    """A problem that a check found: an ``error`` forbids the use of the case, a ``warning`` does not."""

    level: Literal["error", "warning"]
    what: str
    remedy: str


def check_grid(image: nib.Nifti1Image, name: str) -> Iterator[Finding]:
    """Check the size and shape of the voxels."""
    spacing = nib.affines.voxel_sizes(image.affine)
    shown = " x ".join(f"{s:.4g}" for s in spacing)
    low, high = _SPACING
    if (spacing < low).any() or (spacing > high).any():
        unit = _unit_of(image)
        stated = f" (its header gives them in {unit}s)" if unit in ("meter", "micron") else ""
        yield Finding(
            "error", f"{name}: voxels of {shown} mm are not plausible for a CT{stated}", "correct the spacing (in mm)"
        )
        return
    yield from _check_extent(image.shape * spacing, float(np.median(spacing)), name)
    thickness = image.extra.get("slice_thickness", 0)
    if 0 < thickness * _GAP < spacing[2]:
        yield Finding(
            "warning",
            f"{name}: its slices are {spacing[2]:.3g} mm apart, but {thickness:.3g} mm thick",
            "fetch the series again if slices between them were left out; else no action is needed",
        )
    directions = image.affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 0.02:
        yield Finding(
            "warning",
            f"{name}: its axes are not at right angles (gantry tilt?)",
            "resample it; distances in mm and volumes are off otherwise",
        )
    yield from _check_affines(image, name)


def _check_extent(extent: np.ndarray, pixel: float, name: str) -> Iterator[Finding]:
    """Check the size of the whole volume, by its second largest extent: a slab is thin, and a scan may be long.

    Args:
        extent: along each axis, mm.
        pixel: the median side of a voxel, mm; the side of a pixel whichever axis runs along the table.
        name: for messages.
    """
    shown = " x ".join(f"{side:.0f}" if side >= 10 else f"{side:.2g}" for side in extent)
    width = np.median(extent)
    if width > _WIDEST:
        yield Finding(
            "error",
            f"{name}: measures {shown} mm, wider than any CT scanner",
            "correct the spacing (in mm)",
        )
    elif width < _NARROW and pixel < _FINE:
        yield Finding(
            "warning",
            f"{name}: measures only {shown} mm; are its units cm?",
            "if so, correct the spacing (in mm): all distances and volumes are wrong otherwise; if it is a crop of a "
            "CT with fine pixels, no action is needed",
        )


def _unit_of(image: nib.Nifti1Image) -> str:
    """The unit of length that a header states."""
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that NIfTI does not define
        return "unknown"


def has_position(image: nib.Nifti1Image) -> bool:
    """Whether the header of an image positions its voxels in space; the affine of an array always does."""
    has_affine = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    return has_affine and not (_is_identity(image) and image.get_filename())


def _is_identity(image: nib.Nifti1Image) -> bool:
    """Whether an affine is the identity, in NIfTI's directions or in those of ITK: what is written without geometry."""
    return np.array_equal(np.abs(image.affine), np.eye(4))


def _check_affines(image: nib.Nifti1Image, name: str) -> Iterator[Finding]:
    """Check the two affines of a NIfTI header."""
    coded = [int(image.header[code]) > 0 for code in ("sform_code", "qform_code")]
    if not has_position(image):
        affine = "the identity" if _is_identity(image) else "missing (sform_code and qform_code are 0)"
        yield Finding(
            "warning",
            f"{name}: its affine is {affine}, so the directions of its axes are unknown",
            "convert the CT again with its geometry, say with dcm2niix; volumes in ml may be wrong",
        )
    elif all(coded):
        try:
            other = image.header.get_qform()
        except UNREADABLE:
            yield Finding("warning", f"{name}: its qform is damaged", "if its sform is right, no action is needed")
            return
        corners = _corners(image.shape)
        by_sform, by_qform = (nib.affines.apply_affine(affine, corners) for affine in (image.affine, other))
        apart = np.abs(by_sform - by_qform).max()
        if not apart <= _AFFINE_ROUNDING * nib.affines.voxel_sizes(image.affine).min():
            yield Finding(
                "warning",
                f"{name}: the positions by sform and qform are {apart:.3g} mm apart",
                "find out which is right; the sform is used here, and other programs may use the qform",
            )


def check_voxels(volume: np.ndarray, name: str) -> Iterator[Finding]:
    """Check the values of the CT."""
    if not np.isfinite(volume).all():
        share = 100 * (1 - np.isfinite(volume).mean())
        yield Finding(
            "error",
            f"{name}: {share:.2g} % of its voxels are not finite",
            "replace NaN and infinite by -1000 HU (air)",
        )
        return
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        yield Finding("error", f"{name}: every voxel is {low:g}", "export the CT again; this one is empty")
        return
    if high >= _LOWEST:
        low = float(volume[volume >= _LOWEST].min())  # not of the padding outside the scanner's circle
    within = float(volume.min(where=volume > low, initial=high))  # not of a frame, which may have the value of air
    if high > low and within > -200 and np.percentile(volume[volume > low], 90) > _STORED:
        low = within
    if low > -200 or high < 100:
        yield Finding(
            "warning",
            f"{name}: values from {low:g} to {high:g} do not look like HU (air is -1000)",
            "rescale to HU with the slope and intercept of the scanner, or leave it out if it is a mask",
        )
    if high > _HIGHEST:
        yield Finding(
            "warning",
            f"{name}: values up to {high:g} are above the range of CT",
            "if this value fills the frame around the patient, set it to -1000 HU (air)",
        )


def meanings_of(label_map: Mapping[int, int] | None) -> dict[int, int]:
    """Our value for each value that a label file may hold: the map of its case, or else ours; 0 is background."""
    return {0: 0, **(label_map or {value: value for value in LABELS})}


def check_label(
    label: np.ndarray,
    label_affine: np.ndarray,
    volume: np.ndarray,
    affine: np.ndarray,
    name: str,
    *,
    meanings: Mapping[int, int],
    positioned: bool = True,
) -> Iterator[Finding]:
    """Check the label, with the values of its file, and its grid.

    Args:
        label: on the RAS+ grid.
        label_affine: its voxel -> mm.
        volume: the CT.
        affine: voxel -> mm of the CT.
        name: of the label, for messages.
        meanings: see ``meanings_of``; any other value is unknown.
        positioned: the result of ``has_position`` for its file.
    """
    same_shape = label.shape == volume.shape
    corners = _corners(volume.shape)
    image_mm, label_mm = (nib.affines.apply_affine(to_mm, corners) for to_mm in (affine, label_affine))
    apart = np.abs(label_mm - image_mm).max()
    voxels = np.abs(nib.affines.apply_affine(np.linalg.inv(affine), label_mm) - corners).max()
    if not positioned and (not same_shape or voxels > _GRID_ROUNDING):
        yield Finding(
            "error",
            f"{name}: its affine is missing or the identity, so its position on its image is unknown",
            "do not resample it; if its voxels are in the order of the image file, save it with the affine of the "
            "image and check both in a viewer",
        )
        return
    if not same_shape:
        yield Finding(
            "error",
            f"{name}: has the shape {label.shape}, its image {volume.shape}",
            "resample the label to the grid of the image",
        )
        return
    if voxels > 0.5:
        yield Finding(
            "error",
            f"{name}: lies {apart:.3g} mm from its image",
            "resample the label to the grid of the image",
        )
        return
    if voxels > _GRID_ROUNDING:
        yield Finding(
            "warning",
            f"{name}: lies {apart:.3g} mm from its image, less than half a voxel",
            "if its voxels correspond to those of the image, no action is needed; else resample the label",
        )
    values = np.unique(label)
    unknown = [value for value in values.tolist() if meanings.get(value) not in LABELS]
    known = ", ".join(f"{value} {LABELS[ours]}" for value, ours in meanings.items() if ours in LABELS)
    shown = ", ".join(f"{value:.7g}" for value in unknown[:5])
    if not all(float(value).is_integer() for value in unknown):
        yield Finding(
            "error", f"{name}: holds values that are not whole numbers: {shown}", f"save it as uint8, with {known}"
        )
    elif unknown:
        remedy = f"map the labels to {known}; or declare their names in dataset.json"
        yield Finding("error", f"{name}: holds the unknown label {shown}", remedy)
    elif not any(meanings[value] for value in values.tolist()):
        yield Finding(
            "warning",
            f"{name}: is empty",
            "fine when the CT shows no pancreas; else label it or leave it out",
        )


def round_labels(label: np.ndarray) -> np.ndarray:
    """Round the values of a label that float arithmetic moved slightly off a whole number."""
    nearest = np.rint(label)
    return np.where(np.abs(label - nearest) <= _LABEL_ROUNDING, nearest, label)


def check_source(contents: Mapping[str, str], labels: Mapping[str, Iterable[int]]) -> Iterator[Finding]:
    """Check all cases of a source together: duplicate images, and labels that no case has.

    Args:
        contents: digest of each image, by the id of its case.
        labels: the values that each label holds, by the id of its case.
    """
    cases_of: dict[str, list[str]] = {}
    for name, digest in contents.items():
        cases_of.setdefault(digest, []).append(name)
    for names in (names for names in cases_of.values() if len(names) > 1):
        yield Finding(
            "warning",
            f"{' and '.join(names)} hold the same image",
            "no action is needed: a split keeps them together, as one patient; data.cases can list one of them alone",
        )
    found = {value for values in labels.values() for value in values}
    for value in (value for value in LABELS if value and labels and value not in found):
        yield Finding(
            "warning",
            f"none of the {len(labels)} labels holds {LABELS[value]} ({value})",
            f"train no {LABELS[value]} stage on these cases",
        )


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) voxel indices of a volume's corners."""
    return np.stack(np.meshgrid(*((0, side - 1) for side in shape), indexing="ij"), -1).reshape(-1, 3)
