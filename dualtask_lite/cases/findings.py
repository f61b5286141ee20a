"""What is wrong with a case: rules about its grid, its voxels and its label.

A rule yields what it finds; reading the case is done before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np

from dualtask_lite.cases.nifti import UNREADABLE

LABELS = {0: "background", 1: "pancreas", 2: "tumour"}
_SPACING = (0.05, 30.0)  # mm; what a CT voxel may measure
_DISAGREE = 0.1  # of a voxel; more between sform and qform is no rounding
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
        yield Finding("error", f"{name}: voxels of {shown} mm cannot be a CT's", "mend the header: spacing is in mm")
        return
    directions = image.affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 0.02:
        yield Finding(
            "warning",
            f"{name}: its axes are not at right angles (gantry tilt?)",
            "resample it; distances in mm are off otherwise",
        )
    yield from _of_geometry(image, name)


def _of_geometry(image: nib.Nifti1Image, name: str) -> Iterator[Finding]:
    """Findings about the two affines of a NIfTI header."""
    coded = [int(image.header[code]) > 0 for code in ("sform_code", "qform_code")]
    is_identity = np.array_equal(image.affine, np.eye(4))
    if not any(coded) or (is_identity and image.get_filename()):
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
    label: np.ndarray, label_affine: np.ndarray, volume: np.ndarray, affine: np.ndarray, name: str
) -> Iterator[Finding]:
    """Findings about the label and its grid."""
    if label.shape != volume.shape:
        yield Finding(
            "error",
            f"{name}: is {label.shape}, its image {volume.shape}",
            "resample the label to the grid of the image",
        )
        return
    corners = nib.affines.apply_affine(affine, _corners(volume.shape))
    apart = np.abs(nib.affines.apply_affine(label_affine, _corners(volume.shape)) - corners).max()
    if apart > nib.affines.voxel_sizes(affine).min() / 2:
        yield Finding(
            "error",
            f"{name}: lies {apart:.3g} mm from its image",
            "resample the label to the grid of the image",
        )
        return
    values = np.unique(label)
    if unknown := [value for value in values.tolist() if value not in LABELS]:
        known = ", ".join(f"{value} {what}" for value, what in LABELS.items())
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        yield Finding("error", f"{name}: holds the unknown label {shown}", f"map the labels to {known}")
    elif not values.any():
        yield Finding(
            "warning",
            f"{name}: is empty",
            "fine when the CT shows no pancreas; else label it or leave it out",
        )


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) voxel indices of a volume's corners."""
    return np.stack(np.meshgrid(*((0, side - 1) for side in shape), indexing="ij"), -1).reshape(-1, 3)
