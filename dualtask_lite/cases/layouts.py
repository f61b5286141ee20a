"""The layouts of data sets that are recognised: which file is an image, and which its label."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases import nih, panorama
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.declared import check_is_ct, label_map_of
from dualtask_lite.cases.paths import niftis_in, stem
from dualtask_lite.errors import DualTaskError

LAYOUTS = (
    "give a NIfTI file, a folder of NIfTI files, the folder of a DICOM series, a folder in Task07 or nnU-Net layout "
    "(imagesTr, labelsTr), a downloaded known source, or a folder with such a folder for each centre"
)

# Image -> label of a folder that is one case.
CASE_FOLDERS = {"ct.nii.gz": "segmentations/pancreas.nii.gz", "imaging.nii.gz": "segmentation.nii.gz"}


@dataclass(frozen=True)
class Dataset:
    """The data set of a folder in a known layout.

    Attributes:
        layout: name of the layout.
        cases: of the folder.
        described_by: other files that belong to it, such as ``dataset.json``.
        missing: images that ``dataset.json`` lists, but that are no files.
    """

    layout: str
    cases: list[Case]
    described_by: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()


def dataset_in(folder: Path) -> Dataset | None:
    """Recognise the data set of a folder; None for a folder in no known layout.

    Raises:
        DualTaskError: when the folder is in a known layout, but its list or its images cannot be used.
    """
    return _decathlon(folder) or _published(folder) or _case_folder(folder)


def _published(folder: Path) -> Dataset | None:
    for name, layout in (("PANORAMA", panorama), ("Pancreas-CT", nih)):
        if cases := layout.cases(folder):
            return Dataset(name, cases)
    return None


def _case_folder(folder: Path) -> Dataset | None:
    """A case whose folder names it, as in TotalSegmentator and KiTS, with its label."""
    for name, label in CASE_FOLDERS.items():
        image, mask = folder / name, folder / label
        if image.is_file() and (mask.is_file() or (mask.parent != folder and mask.parent.is_dir())):
            case = Case(folder.name, folder.parent.name, image, mask if mask.is_file() else None)
            return Dataset(f"CASE/{name}", [case])
    return None


def _decathlon(folder: Path) -> Dataset | None:
    """Cases of a folder in Task07 or nnU-Net layout, with or without ``dataset.json``."""
    described = _description(folder)
    listed = described.get("training")
    if not listed and not (folder / "imagesTr").is_dir():
        return None
    check_is_ct(described, folder / "dataset.json")
    label_map = label_map_of(described, folder / "dataset.json")
    triples = _listed_triples(folder, listed) if listed else _triples_by_name(folder, described)
    triples = [triple for triple in triples if not triple[1].name.startswith(".")]
    cases = [
        Case(name, folder.name, image, label if label.is_file() else None, label_map=label_map)
        for name, image, label in triples
        if image.is_file()
    ]
    _check_labels_differ(cases, folder / "dataset.json")
    missing = tuple(image for _, image, _ in triples if not image.is_file())
    if not cases:
        example = f", for example {missing[0]} is missing" if missing else ""
        remedy = "fetch or unpack it again" + ("; or remove dataset.json to pair files by name" if listed else "")
        raise DualTaskError(f"{folder}: none of its training images exists as NIfTI{example}", remedy)
    return Dataset("Task07", cases, (folder / "dataset.json",), missing)


def _check_labels_differ(cases: list[Case], file: Path) -> None:
    """Refuse a list that gives one label to two images: one of the two would be learnt with the label of another."""
    image_of: dict[str, Path | np.ndarray] = {}
    for case in cases:
        if case.label is None:
            continue
        image = image_of.setdefault(os.path.abspath(str(case.label)), case.image)
        if os.path.abspath(str(image)) != os.path.abspath(str(case.image)):
            raise DualTaskError(
                f"{file}: gives the label {case.label} to both {image} and {case.image}",
                "give each image its own label in training, or remove dataset.json to pair files by name",
            )


def _description(folder: Path) -> dict[str, Any]:
    """Content of ``dataset.json``; empty when there is none."""
    file = folder / "dataset.json"
    if not file.is_file():
        return {}
    try:
        described = json.loads(file.read_text(encoding="utf-8-sig"))  # Windows may put a mark in front
    except (ValueError, RecursionError) as error:  # of the text's encoding as well as of JSON; nested too deeply
        raise DualTaskError(
            f"{file}: is not JSON ({error})", "repair it, or remove it to pair files by name"
        ) from error
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
    return [(stem(image), image if image.is_file() else _first_channel(image), label) for image, label in pairs]


def _first_channel(image: Path) -> Path:
    """Find the file that nnU-Net stores for a listed image; without one, return the listed path."""
    ending = image.name.removeprefix(stem(image))
    first, second = (image.with_name(f"{stem(image)}_{channel}{ending}") for channel in ("0000", "0001"))
    if second.is_file():
        raise _channels(second)
    return first if first.is_file() else image


def _triples_by_name(folder: Path, described: dict[str, Any]) -> list[tuple[str, Path, Path]]:
    """Id, image and label for ``imagesTr``; a label has the image's name, in nnU-Net without the channel."""
    labels = {stem(label): label for label in niftis_in(folder / "labelsTr")}
    is_nnunet = "channel_names" in described or "file_ending" in described
    triples = []
    for image in niftis_in(folder / "imagesTr"):
        name = stem(image)
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
