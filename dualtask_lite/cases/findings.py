"""What is wrong with a case: rules about its grid, its voxels and its label.

A rule yields what it finds; reading the case is done before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np

from dualtask_lite.cases.nifti import UNREADABLE

LABELS = {0: "background", 1: "pancreas", 2: "tumour"}
_SPACING = (0.05, 30.0)  # mm; what a CT voxel may measure
_DISAGREE = 0.1  # of a voxel; more between sform and qform is no rounding
_ROUNDED = 0.01  # of a voxel; less between label and image is rounding
_NOISE = 1e-3  # off a whole number; more is no label
_HIGHEST = 10_000.0  # HU; metal reaches some thousands


@dataclass(frozen=True)
class Finding:
    """Something that a check found: an ``error`` forbids the use of the case, a ``warning`` does not."""

    level: Literal["error", "warning"]
    what: str
    remedy: str


def of_grid(image: nib.Nifti1Image, name: str) -> Iterator[Finding]:
    """Findings about the size and shape of the voxels."""
    spacing = nib.affines.voxel_sizes(image.affine)
    shown = " x ".join(f"{s:.4g}" for s in spacing)
    low, high = _SPACING
    if (spacing < low).any() or (spacing > high).any():
        yield Finding("error", f"{name}: voxels of {shown} mm cannot be a CT's", "correct the header: spacing is in mm")
        return
    directions = image.affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 0.02:
        yield Finding(
            "warning",
            f"{name}: its axes are not at right angles (gantry tilt?)",
            "resample it; distances in mm are off otherwise",
        )
    yield from _of_geometry(image, name)


def is_placed(image: nib.Nifti1Image) -> bool:
    """Whether an image's header says where its voxels lie; an array is where its affine says."""
    has_affine = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    return has_affine and not (np.array_equal(image.affine, np.eye(4)) and image.get_filename())


def _of_geometry(image: nib.Nifti1Image, name: str) -> Iterator[Finding]:
    """Findings about the two affines of a NIfTI header."""
    coded = [int(image.header[code]) > 0 for code in ("sform_code", "qform_code")]
    if not is_placed(image):
        is_identity = np.array_equal(image.affine, np.eye(4))
        yield Finding(
            "warning",
            f"{name}: its affine is {'the identity' if is_identity else 'missing (sform_code and qform_code are 0)'}, "
            "so which way its axes run is not known",
            "convert the CT again with its geometry, say with dcm2niix; volumes in ml may be wrong",
        )
    elif all(coded):
        try:
            other = image.header.get_qform()
        except UNREADABLE:
            yield Finding("warning", f"{name}: its qform is damaged", "nothing, if its sform is right: that is used")
            return
        here, there = (nib.affines.apply_affine(one, _corners(image.shape)) for one in (image.affine, other))
        apart = np.abs(here - there).max()
        if not apart <= _DISAGREE * nib.affines.voxel_sizes(image.affine).min():
            yield Finding(
                "warning",
                f"{name}: its sform and qform place it {apart:.3g} mm apart",
                "see which is right; the sform is used here, and other programs may use the qform",
            )


def of_voxels(volume: np.ndarray, name: str) -> Iterator[Finding]:
    """Findings about the values of the CT."""
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
        yield Finding("error", f"{name}: every voxel is {low:g}", "export the CT again; this one shows nothing")
    elif low > -200 or high < 100:
        yield Finding(
            "warning",
            f"{name}: values from {low:g} to {high:g} do not look like HU (air is -1000)",
            "rescale to HU with the slope and intercept of the scanner, or leave it out if it is a mask",
        )
    if high > _HIGHEST:
        yield Finding(
            "warning",
            f"{name}: values up to {high:g} are above the range of CT",
            "set the value that fills the frame, if it is that, to -1000 HU (air)",
        )


def of_label(
    label: np.ndarray,
    label_affine: np.ndarray,
    volume: np.ndarray,
    affine: np.ndarray,
    name: str,
    *,
    placed: bool = True,
) -> Iterator[Finding]:
    """Findings about the label and its grid; ``placed`` says whether its header holds an affine."""
    same_shape = label.shape == volume.shape
    corners = _corners(volume.shape)
    image_mm, label_mm = (nib.affines.apply_affine(one, corners) for one in (affine, label_affine))
    apart = np.abs(label_mm - image_mm).max()
    voxels = np.abs(nib.affines.apply_affine(np.linalg.inv(affine), label_mm) - corners).max()
    if not placed and (not same_shape or voxels > _ROUNDED):
        yield Finding(
            "error",
            f"{name}: its affine is missing or the identity, so where it lies on its image is not known",
            "do not resample it; if it holds its voxels in the order of the image file, save it with the affine of the "
            "image and look at both in a viewer",
        )
        return
    if not same_shape:
        yield Finding(
            "error",
            f"{name}: is {label.shape}, its image {volume.shape}",
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
    if voxels > _ROUNDED:
        yield Finding(
            "warning",
            f"{name}: lies {apart:.3g} mm from its image, less than half a voxel",
            "nothing, if its voxels are those of the image: they are used so; else resample the label",
        )
    values = np.unique(label)
    unknown = [value for value in values.tolist() if value not in LABELS]
    known = ", ".join(f"{value} {what}" for value, what in LABELS.items())
    shown = ", ".join(f"{value:.7g}" for value in unknown[:5])
    if not all(float(value).is_integer() for value in unknown):
        yield Finding(
            "error", f"{name}: holds values that are not whole numbers: {shown}", f"save it as uint8, with {known}"
        )
    elif unknown:
        yield Finding("error", f"{name}: holds the unknown label {shown}", f"map the labels to {known}")
    elif not values.any():
        yield Finding(
            "warning",
            f"{name}: is empty",
            "fine when the CT shows no pancreas; else label it or leave it out",
        )


def whole_numbers(label: np.ndarray) -> np.ndarray:
    """The label with values rounded that float arithmetic moved a little off a whole number."""
    nearest = np.rint(label)
    return np.where(np.abs(label - nearest) <= _NOISE, nearest, label)


def of_all(contents: Mapping[str, str], labels: Mapping[str, Iterable[int]]) -> Iterator[Finding]:
    """Findings about the cases of a source together.

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
            "nothing: a split keeps them together, as one patient; to use one of them, list the cases in data.cases",
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
