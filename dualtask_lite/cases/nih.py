"""NIH Pancreas-CT as it is published: a DICOM series a case, and labels apart whose place must be checked.

Found in the folder that is given; the retriever puts ``Pancreas-CT`` below a ``manifest-...`` of its own::

    Pancreas-CT/PANCREAS_0001/STUDY/SERIES/*.dcm
    TCIA_pancreas_labels-02-05-2017/label0001.nii.gz
    labels_on_images/PANCREAS_0001.nii.gz          written by ``prepare``: the label on the grid of its series

Public code turns these labels in different ways, so neither their header nor anybody's recipe is trusted: ``prepare``
compares each label with its image and writes down what it found. The images stay as they are, nothing is copied.
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
from dualtask_lite.cases.dicom import series_below
from dualtask_lite.cases.masks import Box
from dualtask_lite.cases.nifti import UNREADABLE
from dualtask_lite.cases.paths import folders_in
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file

PREPARED = "labels_on_images"
_WITHDRAWN = ("PANCREAS_0025", "PANCREAS_0070")  # TCIA, version 2: cut from the scan of case 2; old copies have them
_SOFT_HU = (0.0, 200.0)  # what a pancreas in the portal venous phase measures, nearly all of it; fat does not
_SHELL = 3  # voxels in the plane
_CLEAR = 0.05  # by how much the right way must fit better than any other
_FITS = 0.1  # the least that the right way must reach
_TURNS = [axes for count in range(4) for axes in itertools.combinations(range(3), count)]


@dataclass(frozen=True)
class Placed:
    """How a label was laid on its image.

    Attributes:
        case: its id.
        turned: axes of the RAS+ grid along which the label was reversed against its own header.
        fit: of the way chosen, see ``fit_of``.
        next_fit: of the best other way.
        header_fits: whether the label's header names the place of the image.
    """

    case: str
    turned: tuple[str, ...]
    fit: float
    next_fit: float
    header_fits: bool


def cases(folder: Path) -> list[Case]:
    """List the cases of a folder; none when it holds no series of Pancreas-CT.

    Raises:
        DualTaskError: when a case has two series, or labels that were not compared with their images yet.
    """
    found = {name: _only_series(patient) for name, patient in patients_of(folder).items()}
    prepared = folder / PREPARED
    if found and not prepared.is_dir() and labels_of(folder):
        raise DualTaskError(
            f"{folder}: its labels have not been compared with the images yet",
            f"dualtask data get nih --out {folder}",
        )
    labels = {name: prepared / f"{name}.nii.gz" for name in found}
    return [
        Case(name, folder.name, series, labels[name] if labels[name].is_file() else None)
        for name, series in found.items()
    ]


def prepare(folder: Path, *, progress: Callable[[str, int, int | None], None] | None = None) -> list[Placed]:
    """Lay each label on its image, and write it to ``labels_on_images`` with the image's geometry.

    Labels that were laid before are left as they are; a case that cannot be prepared does not stop the others.

    Args:
        folder: with series and labels as published.
        progress: called with what is done, how many cases are, and how many there are.

    Returns:
        How the labels laid now lie; all are kept in ``labels_on_images/placed.json``.

    Raises:
        DualTaskError: at the end, when some labels do not fit their images in exactly one way.
    """
    labels, patients = labels_of(folder), patients_of(folder)
    names = [name for name in patients if name in labels]
    record = folder / PREPARED / "placed.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    placed, refused = [], []
    for count, name in enumerate(names, 1):
        target = folder / PREPARED / f"{name}.nii.gz"
        if not (target.is_file() and name in known):
            try:
                scan = Case(name, folder.name, _only_series(patients[name])).load()
                mask, how = place(scan, labels[name])
            except DualTaskError as error:
                refused.append(error)
                continue
            scan.save(mask, target)
            placed.append(how)
            known[name] = asdict(how)
            with whole_file(record) as temporary:
                temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        if progress:
            progress("comparing labels with images", count, len(names))
    if refused:
        told = f"{len(refused)} of {len(names)} cases have no label that can be used: {refused[0].what}"
        raise DualTaskError(told, f"{refused[0].remedy}; the other cases are ready")
    return placed


def place(scan: Scan, label: Path) -> tuple[np.ndarray, Placed]:
    """Find how a label lies on its image, by its header and by what the image shows under it.

    A label whose header names the image's place is taken so, unless another way fits clearly better. One whose header
    names another place may be reversed along any axis; the way that clearly fits best is taken.

    Args:
        scan: the image.
        label: its file, of the same shape.

    Returns:
        The mask (X, Y, Z) on the scan's grid, and how it lies.

    Raises:
        DualTaskError: when the label cannot be read or is empty, shapes differ, or no way fits clearly.
    """
    try:
        image = nib.as_closest_canonical(nib.load(label))
        mask = np.asarray(image.dataobj) > 0
    except UNREADABLE as error:
        raise DualTaskError(f"{label}: is not a readable NIfTI file", "fetch the labels again") from error
    if mask.shape != scan.shape or not mask.any():
        finding = "is empty" if mask.shape == scan.shape else f"is {mask.shape}, its image {scan.shape}"
        raise DualTaskError(f"{label}: {finding}", "fetch the labels and the series again")
    fits = {axes: fit_of(scan.volume, np.flip(mask, axes)) for axes in _TURNS}
    best, second = sorted(fits, key=lambda axes: -fits[axes])[:2]
    header_fits = bool(np.allclose(image.affine, scan.affine, atol=min(scan.spacing) / 2))
    if header_fits and fits[best] - fits[()] < _CLEAR:
        best, second = (), best or second
    elif header_fits or fits[best] - fits[second] < _CLEAR:
        shown = ", ".join(f"{_named(axes) or 'as it is'} {fits[axes]:.2f}" for axes in (best, second))
        said = "; its header names the place of its image" if header_fits else ""
        raise DualTaskError(
            f"{label}: how it lies on its image is not clear (fit when reversed along {shown}{said})",
            "look at both in a viewer; put a label on the image's grid, or leave the case out",
        )
    if fits[best] < _FITS:
        raise DualTaskError(
            f"{label}: shows no organ of its image, however it is turned (best fit {fits[best]:.2f})",
            "see that label and series are of the same case",
        )
    how = Placed(scan.id, _named(best), round(fits[best], 3), round(fits[second], 3), header_fits)
    return np.flip(mask, best).astype(np.uint8), how


def fit_of(volume: np.ndarray, mask: np.ndarray) -> float:
    """How well a mask outlines an organ: the share of soft tissue in it, less that in a shell around it in the plane.

    Args:
        volume: (X, Y, Z), HU.
        mask: (X, Y, Z), of one organ in fat.

    Returns:
        From -1 to 1; about 0 for a mask that lies anywhere.
    """
    around = Box.around(mask, _SHELL)
    assert around is not None
    box = around.slices
    organ, soft = mask[box], (volume[box] >= _SOFT_HU[0]) & (volume[box] <= _SOFT_HU[1])
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    shell = ndimage.binary_dilation(organ, in_plane, iterations=_SHELL) & ~organ
    return float(soft[organ].mean() - soft[shell].mean())


def _named(axes: tuple[int, ...]) -> tuple[str, ...]:
    return tuple("xyz"[axis] for axis in axes)


def patients_of(folder: Path) -> dict[str, Path]:
    """The folder of each case that has a series, by its id; the retriever may put quotation marks into names."""
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
    """The label of each case as published, in the folder or one below, by the case's id."""
    found = [path for place in [folder, *folders_in(folder)] for path in place.glob("label*.nii.gz")]
    return {f"PANCREAS_{path.name[5:9]}": path for path in found if re.fullmatch(r"label\d{4}\.nii\.gz", path.name)}


def _only_series(patient: Path) -> Path:
    found = series_below(patient)
    if len(found) != 1:
        named = ", ".join(str(one.relative_to(patient)) for one in found[:3])
        raise DualTaskError(f"{patient}: holds {len(found)} series ({named})", "keep the one of the label")
    return found[0]
