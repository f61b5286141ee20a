"""Every folder layout that is understood without being told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dualtask_lite.cases import nih, panorama
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.dicom import files_of, is_dicom, series_below
from dualtask_lite.errors import DualTaskError

LAYOUTS = (
    "give a NIfTI file, a folder of NIfTI files, the folder of a DICOM series, a folder in Task07 or nnU-Net layout "
    "(imagesTr, labelsTr), a known source as it was fetched, or a folder of such folders, one a centre"
)


def cases_at(path: Path) -> list[Case]:
    """List the cases at a path; no volume is read.

    Raises:
        DualTaskError: when nothing is recognised.
    """
    if path.is_dir():
        of_centres = (case for folder in _folders(path) for case in _of_folder(folder))
        cases = _of_folder(path) or list(of_centres) or [case for below in _folders(path) for case in _tree(below)]
        if not cases:
            raise DualTaskError(f"{path}: holds no CT in a layout that is known", LAYOUTS)
        return cases
    if _is_nifti(path):
        return [_unlabelled(path)]
    if is_dicom(path):
        raise DualTaskError(f"{path}: is one DICOM file, not a volume", "give the folder of the series")
    raise DualTaskError(f"{path}: is no NIfTI file by its name (.nii, .nii.gz)", LAYOUTS)


def _of_folder(folder: Path) -> list[Case]:
    """Cases of one folder in the first layout that fits; none when no layout does."""
    return (
        _decathlon(folder)
        or panorama.cases(folder)
        or nih.cases(folder)
        or [_unlabelled(file) for file in _niftis(folder)]
        or ([_unlabelled(folder)] if files_of(folder) else [])
        or _totalsegmentator(folder)
        or [_unlabelled(series) for series in _folders(folder) if files_of(series)]
    )


def _tree(folder: Path) -> list[Case]:
    """The DICOM series below a patient's folder, as archives hand them out (patient, study, series)."""
    found = series_below(folder)
    centre = folder.parent.name
    if len(found) == 1:
        return [Case(id=folder.name, centre=centre, image=found[0])]
    return [Case(id="_".join(one.relative_to(folder.parent).parts), centre=centre, image=one) for one in found]


def _unlabelled(image: Path) -> Case:
    return Case(id=_stem(image), centre=image.parent.name, image=image)


def _totalsegmentator(folder: Path) -> list[Case]:
    cases = []
    for one in _folders(folder):
        image, label = one / "ct.nii.gz", one / "segmentations" / "pancreas.nii.gz"
        if image.is_file():
            cases.append(Case(one.name, folder.name, image, label if label.is_file() else None))
    return cases


def _decathlon(folder: Path) -> list[Case]:
    """Cases of a folder in Task07 or nnU-Net layout, with or without ``dataset.json``."""
    described = _description(folder)
    listed = described.get("training")
    if not listed and not (folder / "imagesTr").is_dir():
        return []
    triples = _listed_triples(folder, listed) if listed else _triples_by_name(folder, described)
    cases = [
        Case(name, folder.name, image, label if label.is_file() else None)
        for name, image, label in triples
        if image.is_file() and not image.name.startswith(".")
    ]
    if not cases:
        missing = f", say {triples[0][1]} is not" if triples else ""
        raise DualTaskError(
            f"{folder}: none of its training images is there as NIfTI{missing}", "fetch or unpack it again"
        )
    return cases


def _description(folder: Path) -> dict[str, Any]:
    """Content of ``dataset.json``; empty when there is none."""
    file = folder / "dataset.json"
    if not file.is_file():
        return {}
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text's encoding as well as of JSON
        raise DualTaskError(f"{file}: is not JSON ({error})", "mend it, or remove it to pair files by name") from error
    return described if isinstance(described, dict) else {}


def _listed_triples(folder: Path, listed: Any) -> list[tuple[str, Path, Path]]:
    """Id, image and label of each training case that ``dataset.json`` lists."""
    try:
        pairs = [(folder / entry["image"], folder / entry["label"]) for entry in listed]
    except (TypeError, KeyError) as error:
        raise DualTaskError(
            f"{folder / 'dataset.json'}: training is not a list of image and label",
            'write entries {"image": "./imagesTr/NAME.nii.gz", "label": "./labelsTr/NAME.nii.gz"}',
        ) from error
    # The first nnU-Net lists NAME.nii.gz where the file is NAME_0000.nii.gz.
    return [(_stem(image), image if image.is_file() else _first_channel(image), label) for image, label in pairs]


def _first_channel(image: Path) -> Path:
    """Find the file that nnU-Net keeps for a listed image; without one, the path stays as it was."""
    ending = image.name.removeprefix(_stem(image))
    first, second = (image.with_name(f"{_stem(image)}_{channel}{ending}") for channel in ("0000", "0001"))
    if second.is_file():
        raise _channels(second)
    return first if first.is_file() else image


def _triples_by_name(folder: Path, described: dict[str, Any]) -> list[tuple[str, Path, Path]]:
    """Id, image and label for ``imagesTr``; a label has the image's name, in nnU-Net without the channel."""
    labels = {_stem(label): label for label in _niftis(folder / "labelsTr")}
    is_nnunet = "channel_names" in described or "file_ending" in described
    triples = []
    for image in _niftis(folder / "imagesTr"):
        name = _stem(image)
        numbered = re.fullmatch(r"(.+)_(\d{4})", name)
        # Without dataset.json, case_0001 is a channel only where the labels say so.
        if numbered and (is_nnunet or (name not in labels and numbered[1] in labels)):
            if numbered[2] != "0000":
                raise _channels(image)
            name = numbered[1]
        triples.append((name, image, labels.get(name, folder / "labelsTr" / f"{name}.nii.gz")))
    return triples


def _channels(image: Path) -> DualTaskError:
    return DualTaskError(f"{image}: is a second channel; a CT has one", "keep only the channel _0000 of each case")


def _visible(folder: Path) -> list[Path]:
    """List a folder, if there is one, without hidden files such as the ``._`` shadows of macOS archives."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _niftis(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_file() and _is_nifti(path)]


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
