"""NIH Pancreas-CT as published: one DICOM series a case, and separate labels whose orientation must be checked.

The folder holds the following; the NBIA Data Retriever puts ``Pancreas-CT`` below a folder ``manifest-...``::

    Pancreas-CT/PANCREAS_0001/STUDY/SERIES/*.dcm
    TCIA_pancreas_labels-02-05-2017/label0001.nii.gz
    labels_on_images/PANCREAS_0001.nii.gz          written by ``prepare``: the label on the grid of its series

Public code flips these labels along different axes, so neither their header nor a published recipe is trusted:
``prepare`` compares each label with its image and records the flip that it found. The images are neither changed nor
copied.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.dicom_files import series_below
from dualtask_lite.cases.masks import Box
from dualtask_lite.cases.nifti import UNREADABLE, check_gzip
from dualtask_lite.cases.paths import folders_in
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import read_record, whole_file

PREPARED = "labels_on_images"
_RECORD = "placed.json"  # in it: how each label was aligned, or why it was refused
_WITHDRAWN = ("PANCREAS_0025", "PANCREAS_0070")  # TCIA, version 2: parts of the scan of case 2; old copies contain them
_SOFT_HU = (0.0, 200.0)  # the range of nearly all voxels of a pancreas in the portal venous phase; fat is below it
_SHELL = 3  # voxels within the axial plane
_MIN_LEAD = 0.05  # by which the chosen flip must fit better than any other
_MIN_FIT = 0.1  # of the chosen flip
_FLIPS = [axes for count in range(4) for axes in itertools.combinations(range(3), count)]


@dataclass(frozen=True)
class Placement:
    """How a label was aligned with its image.

    Attributes:
        case: its id.
        flipped: axes of the RAS+ grid along which the label was flipped, relative to its own header.
        fit: of the chosen flip, see ``fit_of``.
        next_fit: of the second best flip.
        header_fits: whether the label's header has the affine of the image.
    """

    case: str
    flipped: tuple[str, ...]
    fit: float
    next_fit: float
    header_fits: bool


def cases(folder: Path) -> list[Case]:
    """List the cases of a folder; none when it holds no series of Pancreas-CT.

    Raises:
        DualTaskError: when a case has two series, or a label was not compared with its image yet.
    """
    found = {name: _only_series(patient) for name, patient in patients_of(folder).items()}
    if not found:
        return []
    labels = {name: path for name in found if (path := folder / PREPARED / f"{name}.nii.gz").is_file()}
    compared = {*labels, *read_record(folder / PREPARED / _RECORD)}
    if (found.keys() & labels_of(folder).keys()) - compared:
        raise DualTaskError(
            f"{folder}: its labels have not been compared with the images yet",
            f"dualtask data get nih --out {folder}",
        )
    return [Case(name, folder.name, series, labels.get(name)) for name, series in found.items()]


def prepare(folder: Path, *, progress: Callable[[str, int, int | None], None] | None = None) -> list[Placement]:
    """Align each label with its image, and write it to ``labels_on_images`` with the image's geometry.

    Labels from an earlier run are kept; a case that cannot be prepared does not stop the others.

    Args:
        folder: with series and labels as published.
        progress: called with a description of the step, the number of finished cases and of all cases.

    Returns:
        The placements of this run; ``labels_on_images/placed.json`` keeps those of all runs, and the refused cases.

    Raises:
        DualTaskError: at the end, when some labels do not fit their images in exactly one way.
    """
    labels, patients = labels_of(folder), patients_of(folder)
    names = [name for name in patients if name in labels]
    record = folder / PREPARED / _RECORD
    known = read_record(record)
    placements, refused = [], []
    for count, name in enumerate(names, 1):
        target = folder / PREPARED / f"{name}.nii.gz"
        if not (target.is_file() and name in known):
            try:
                scan = Case(name, folder.name, _only_series(patients[name])).load()
                mask, placement = align_label(scan, labels[name])
            except DualTaskError as error:
                refused.append(error)
                known[name] = {"refused": error.what}
            else:
                scan.save(mask, target)
                placements.append(placement)
                known[name] = asdict(placement)
            with whole_file(record) as temporary:
                temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        if progress:
            progress("comparing labels with images", count, len(names))
    if refused:
        what = f"{len(refused)} of {len(names)} cases have no usable label: {refused[0].what}"
        raise DualTaskError(what, f"{refused[0].remedy}; the other cases are ready")
    return placements


def align_label(scan: Scan, label: Path) -> tuple[np.ndarray, Placement]:
    """Find how a label is aligned with its image, from its header and from the tissue under it.

    A label whose header has the affine of the image is used unflipped, unless another flip fits clearly better. A
    label with another affine may be flipped along any axes; the flip with the clearly best fit is used.

    Args:
        scan: the image.
        label: its file, of the same shape.

    Returns:
        The mask (X, Y, Z) on the scan's grid, and its placement.

    Raises:
        DualTaskError: when the label cannot be read or is empty, shapes differ, or no flip has a clear lead.
    """
    try:
        image = nib.as_closest_canonical(nib.load(label))
        mask = np.asarray(image.dataobj) > 0
    except UNREADABLE as error:
        raise DualTaskError(f"{label}: is not a readable NIfTI file", "fetch the labels again") from error
    check_gzip(label, str(label))
    if mask.shape != scan.shape or not mask.any():
        finding = "is empty" if mask.shape == scan.shape else f"has the shape {mask.shape}, its image {scan.shape}"
        raise DualTaskError(f"{label}: {finding}", "fetch the labels and the series again")
    fits = {axes: fit_of(scan.volume, np.flip(mask, axes)) for axes in _FLIPS}
    best, second = sorted(fits, key=lambda axes: -fits[axes])[:2]
    header_fits = bool(np.allclose(image.affine, scan.affine, atol=min(scan.spacing) / 2))
    if header_fits and fits[best] - fits[()] < _MIN_LEAD:
        best, second = (), best or second
    elif header_fits or fits[best] - fits[second] < _MIN_LEAD:
        shown = ", ".join(f"{' and '.join(_names(axes)) or 'no axis'} {fits[axes]:.2f}" for axes in (best, second))
        header = "; its header has the affine of the image" if header_fits else ""
        raise DualTaskError(
            f"{label}: its orientation is not clear (fit when flipped along {shown}{header})",
            "compare label and image in a viewer; save the label on the image's grid, or leave the case out",
        )
    if fits[best] < _MIN_FIT:
        raise DualTaskError(
            f"{label}: outlines no organ of its image under any flip (best fit {fits[best]:.2f})",
            "check that label and series are of the same case",
        )
    placement = Placement(scan.id, _names(best), round(fits[best], 3), round(fits[second], 3), header_fits)
    return np.flip(mask, best).astype(np.uint8), placement


def fit_of(volume: np.ndarray, mask: np.ndarray) -> float:
    """Measure how well a mask outlines an organ: the share of soft tissue in it, minus that in a shell around it.

    Args:
        volume: (X, Y, Z), HU.
        mask: (X, Y, Z), of one organ in fat.

    Returns:
        A number from -1 to 1; about 0 for a mask at a random position.
    """
    around = Box.around(mask, _SHELL)
    assert around is not None
    box = around.slices
    organ, soft = mask[box], (volume[box] >= _SOFT_HU[0]) & (volume[box] <= _SOFT_HU[1])
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    shell = ndimage.binary_dilation(organ, in_plane, iterations=_SHELL) & ~organ
    return float(soft[organ].mean() - soft[shell].mean())


def _names(axes: tuple[int, ...]) -> tuple[str, ...]:
    return tuple("xyz"[axis] for axis in axes)


def patients_of(folder: Path) -> dict[str, Path]:
    """Find the folder of each case with a series, by its id; the retriever may put quotation marks into names."""
    found: dict[str, Path] = {}
    for path in folders_in(folder):
        name = path.name.strip("\"'")
        if re.fullmatch(r"PANCREAS_\d{4}", name):
            if name not in _WITHDRAWN and series_below(path):
                found[name] = path
        elif name.startswith(("manifest-", "Pancreas-CT")):
            found |= patients_of(path)
    return found


def labels_of(folder: Path) -> dict[str, Path]:
    """Find the published label of each case, in the folder or one level below, by the case's id."""
    found = [path for parent in [folder, *folders_in(folder)] for path in parent.glob("label*.nii.gz")]
    return {f"PANCREAS_{path.name[5:9]}": path for path in found if re.fullmatch(r"label\d{4}\.nii\.gz", path.name)}


def _only_series(patient: Path) -> Path:
    found = series_below(patient)
    if len(found) != 1:
        named = ", ".join(str(series.relative_to(patient)) for series in found[:3])
        raise DualTaskError(f"{patient}: holds {len(found)} series ({named})", "keep only the series of the label")
    return found[0]
