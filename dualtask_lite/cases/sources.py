"""Where cases come from: the known sources, and every folder layout that is understood without being told.

This module needs no torch, so that the registry answers at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.phantom import VERSION, make_phantom
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import cache_folder, data_file

PHANTOM_CASES, PHANTOM_SEED = 16, 0  # cases a centre, and the seed, of the set behind the name "phantom"
_LAYOUTS = (
    "give a NIfTI file, a folder of NIfTI files, a folder in Task07 or nnU-Net layout (imagesTr, labelsTr), "
    "or a folder of such folders, one a centre"
)


@dataclass(frozen=True)
class Source:
    """A known set of cases, as ``data/sources.yaml`` describes it."""

    name: str
    title: str
    cases: int
    licence: str
    citation: str
    url: str
    how: Literal["made", "by hand"]  # made by the package, or fetched and arranged by the user
    prepare: str  # what to do between fetching it and giving its folder


def sources() -> dict[str, Source]:
    """Read the known sources, by name, in the order of ``data/sources.yaml``."""
    entries = yaml.safe_load(data_file("sources.yaml").read_text(encoding="utf-8"))
    return {name: Source(name=name, **entry) for name, entry in entries.items()}


def find_cases(source: str | Path) -> list[Case]:
    """List the cases of a known source, a folder or one file; no volume is read.

    ====================================  =======================================  ==================
    given                                 cases                                    centre
    ====================================  =======================================  ==================
    ``"phantom"``                         the embedded data, made on first use     A, B, C
    one NIfTI file                        that file                                its folder
    Task07 or nnU-Net folder              ``imagesTr`` with ``labelsTr``           the folder
    folder of NIfTI files                 each file is a CT without label          the folder
    DICOM series                          one, without label                       the folder above
    folder of DICOM series                one a sub-folder, without label          the folder
    TotalSegmentator folder               ``CASE/ct.nii.gz`` with                  the folder
                                          ``CASE/segmentations/pancreas.nii.gz``
    folder of such folders                all of them                              each sub-folder
    ====================================  =======================================  ==================

    Images that ``dataset.json`` lists and that are not there are left out; an image whose label is missing
    becomes a case without label. ``imagesTs`` is not returned. When two cases share an id, every id gets its
    centre in front.

    Args:
        source: a known source (see ``sources``) or a path; write ``./phantom`` for a folder of that name.

    Raises:
        DualTaskError: when nothing is there or recognised, or a known source is to be fetched by hand.
    """
    known = sources().get(str(source))
    if known and known.how == "made" and not (isinstance(source, Path) and source.exists()):
        path = _phantom()
    else:
        path = Path(os.path.abspath(Path(source).expanduser()))  # "." has no name; a link keeps its own
        if not path.exists():
            raise _by_hand(known) if known else _not_there(source)
    try:
        return _with_unique_ids(_of_path(path))
    except OSError as error:
        raise DualTaskError(f"{path}: cannot be read ({error})", "check the folder and your rights to it") from error


def _by_hand(source: Source) -> DualTaskError:
    return DualTaskError(
        f"{source.name} ({source.licence}) is not fetched by this package",
        f"get it from {source.url}, {source.prepare}, and give the folder",
    )


def _not_there(source: str | Path) -> DualTaskError:
    near = difflib.get_close_matches(str(source).lower(), sources(), n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return DualTaskError(
        f"{source}: no such file or folder, and no known source",
        f"{meant}known sources are {', '.join(sources())}; or {_LAYOUTS}",
    )


def _phantom() -> Path:
    """Folder of the default phantom, made on first use; its name changes with all that it is made from."""
    recipe = f"{VERSION} {PHANTOM_CASES} {PHANTOM_SEED} ".encode() + data_file("centres.yaml").read_bytes()
    folder = cache_folder() / f"phantom-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".phantom-", dir=folder.parent) as temporary:
            made = make_phantom(Path(temporary) / "phantom", cases=PHANTOM_CASES, seed=PHANTOM_SEED)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first, with the same content
                    raise
    except OSError as error:
        raise DualTaskError(
            f"{folder.parent}: the phantom cannot be written ({error})",
            "make room, or point DUALTASK_DATA at a folder that can be written",
        ) from error
    return folder


def _of_path(path: Path) -> list[Case]:
    if path.is_dir():
        cases = _of_folder(path) or [case for folder in _folders(path) for case in _of_folder(folder)]
        if not cases:
            raise DualTaskError(f"{path}: holds no CT in a layout that is known", _LAYOUTS)
        return cases
    if _is_nifti(path):
        return [_unlabelled(path)]
    if _is_dicom(path):
        raise DualTaskError(f"{path}: is one DICOM file, not a volume", "give the folder of the series")
    raise DualTaskError(f"{path}: is no NIfTI file by its name (.nii, .nii.gz)", _LAYOUTS)


def _of_folder(folder: Path) -> list[Case]:
    """Cases of one folder in the first layout that fits; none when no layout does."""
    return (
        _decathlon(folder)
        or [_unlabelled(file) for file in _niftis(folder)]
        or ([_unlabelled(folder)] if _is_series(folder) else [])
        or _totalsegmentator(folder)
        or [_unlabelled(series) for series in _folders(folder) if _is_series(series)]
    )


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


def _with_unique_ids(cases: list[Case]) -> list[Case]:
    if _repeated(cases):
        cases = [replace(case, id=f"{case.centre}_{case.id}") for case in cases]
    if repeated := _repeated(cases):
        first, second = [case for case in cases if case.id == repeated][:2]
        raise DualTaskError(f"{first.image} and {second.image}: would both be case {repeated}", "rename one of them")
    return cases


def _repeated(cases: Iterable[Case]) -> str | None:
    return next((name for name, times in Counter(case.id for case in cases).items() if times > 1), None)


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


def _is_series(folder: Path) -> bool:
    return any(_is_dicom(path) for path in _visible(folder) if path.is_file())


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
