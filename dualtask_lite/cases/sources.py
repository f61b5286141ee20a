"""Where cases come from: the known sources, and every folder layout that is recognised.

This module needs no torch, so that the registry answers at once.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from dualtask_lite.cases import panorama
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.inventory import Inventory, Skipped, take_inventory
from dualtask_lite.cases.layouts import LAYOUTS
from dualtask_lite.cases.phantom import VERSION, centres, make_phantom
from dualtask_lite.cases.registry import Source, sources, sources_table
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import cache_folder

__all__ = ["Source", "absolute", "find_cases", "folder_of", "sources", "sources_table"]

PHANTOM_SEED = 0
PHANTOM_CASES = {"phantom": 16, "phantom-48": 48, "exam": 32}  # cases a centre of the sets that are made on first use
_log = logging.getLogger(__name__)


def find_cases(source: str | Path) -> list[Case]:
    """List the cases of a known source, a folder or one file; no volume is read.

    What else lies there is left out; ``find_inputs`` lists it.

    ====================================  =======================================  ==================
    given                                 cases                                    centre
    ====================================  =======================================  ==================
    ``"phantom"``, ``"phantom-48"``       the embedded data, made on first use     A, B, C
    ``"exam"``                            that of the exam's hospital, likewise    D
    ``"msd"``, ``"nih"``, ``"panorama"``  as ``dualtask data get`` fetched it      the source
    ``"msd,panorama"``                    of each                                  each source
    one NIfTI file                        that file                                its folder
    Task07 or nnU-Net folder              ``imagesTr`` with ``labelsTr``           the folder
    TotalSegmentator case                 ``CASE/ct.nii.gz`` with                  the folder above
                                          ``CASE/segmentations/pancreas.nii.gz``
    KiTS case                             ``CASE/imaging.nii.gz`` with             the folder above
                                          ``CASE/segmentation.nii.gz``
    nih or panorama as published          see ``cases.nih``, ``cases.panorama``    the folder
    any other folder                      each NIfTI file, without label           its folder
    DICOM files in a folder               one, without label                       the folder above
    DICOM tree                            patient, study, series; without label    the folder
    folder of such folders                all of them                              each sub-folder
    ====================================  =======================================  ==================

    Images that ``dataset.json`` lists and that are not there are left out; an image whose label is missing
    becomes a case without label. ``imagesTs`` is not returned. When two cases share an id, every id gets its
    centre in front, or the folders that tell them apart. Where panorama comes together with msd or nih, the cases
    that it took over from them are left out of it, and a line in the log says how many.

    Args:
        source: a known source (see ``sources``), several joined by commas, or a path; write ``./phantom`` for a
            folder of that name.

    Raises:
        DualTaskError: when nothing is there or recognised, a known source was not fetched yet, or it is unknown
            which cases panorama shares with another source.
    """
    cases = []
    for part in _parts(source):
        inventory = _of(part)
        inventory.require_cases(_path(part))
        cases += inventory.cases
    return _usable_together(cases)


def find_inputs(sources: Sequence[str | Path]) -> Inventory:
    """List the cases of several sources, files and folders, and what else lies there with the reason it is none.

    A path that is given twice, or lies below another, is one case. Ids are unique over all, as in ``find_cases``.

    Args:
        sources: each as ``find_cases`` takes it.

    Raises:
        DualTaskError: as ``find_cases``; but one source without a case is skipped beside others.
    """
    cases: list[Case] = []
    skipped: dict[Path, Skipped] = {}
    taken: set[Path] = set()
    for path, found in [(_path(part), _of(part)) for source in sources for part in _parts(source)]:
        if len(sources) == 1:
            found.require_cases(path)
        cases += found.cases
        skipped |= {one.path: one for one in found.skipped}
        if not (found.cases or found.skipped):
            skipped[path] = Skipped(path, "holds no CT", LAYOUTS, may_be_ct=True)
        if found.cases:
            taken |= {path, *(Path(str(case.image)) for case in found.cases)}
    rest = [one for place, one in skipped.items() if place not in taken]  # skipped in one folder, given by itself
    everything = Inventory(_usable_together(cases), rest)
    everything.require_cases(_path(sources[0]))
    return everything


def _parts(source: str | Path) -> list[str | Path]:
    """The sources that a text with commas joins."""
    if isinstance(source, str) and "," in source and not Path(source).expanduser().exists():
        return [part.strip() for part in source.split(",")]
    return [source]


def _usable_together(cases: list[Case]) -> list[Case]:
    return _with_unique_ids(_without_shared(_once(cases)))


def _once(cases: list[Case]) -> list[Case]:
    """Each image once; where it was found with a label and without, with it."""
    by_image: dict[str, Case] = {}
    for case in cases:
        place = os.path.abspath(str(case.image))
        if place not in by_image or (by_image[place].label is None and case.label is not None):
            by_image[place] = case
    return list(by_image.values())


def absolute(source: str) -> str:
    """Write a source so that it means the same from whatever folder a later command runs; a known name stays."""
    path = Path(source).expanduser()
    if "," in source and not path.exists():
        return ",".join(absolute(part.strip()) for part in source.split(","))
    is_made = source in sources() and sources()[source].how == "made"
    return os.path.abspath(path) if path.exists() and not is_made else source


def folder_of(source: Source) -> Path:
    """Where a known source that is fetched lies, or will."""
    return cache_folder() / source.name


def _path(source: str | Path) -> Path:
    return Path(os.path.abspath(Path(source).expanduser()))  # "." has no name; a link keeps its own


def _of(source: str | Path) -> Inventory:
    """What lies at one known source or path."""
    known = sources().get(str(source))
    path = _path(source)
    try:
        if known and known.how == "made" and not (isinstance(source, Path) and source.exists()):
            return take_inventory(_phantom(known.name))
        if path.exists():
            return take_inventory(path)
        if known and (path := folder_of(known)).is_dir():
            found = take_inventory(path)
            return Inventory([replace(case, centre=known.name) for case in found.cases], found.skipped)
    except OSError as error:
        raise DualTaskError(f"{path}: cannot be read ({error})", "check the folder and your rights to it") from error
    raise _not_fetched(known) if known else _not_there(source)


def _not_fetched(source: Source) -> DualTaskError:
    return DualTaskError(
        f"{source.name} ({source.licence}, {source.size_gb:g} GB) was not fetched yet",
        f"dualtask data get {source.name}; or by hand: make a folder, {source.by_hand} (see {source.url}), then "
        f"dualtask data get {source.name} --out FOLDER, and give the folder",
    )


def _not_there(source: str | Path) -> DualTaskError:
    near = difflib.get_close_matches(str(source).lower(), sources(), n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return DualTaskError(
        f"{source}: no such file or folder, and no known source",
        f"{meant}known sources are {', '.join(sources())}; or {LAYOUTS}",
    )


def _phantom(name: str) -> Path:
    """Folder of a set that is made on first use; its name changes with all that it is made from."""
    known = centres(exam=name == "exam")
    recipe = f"{VERSION} {PHANTOM_CASES[name]} {PHANTOM_SEED} {known}".encode()
    folder = cache_folder() / f"{name}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".phantom-", dir=folder.parent) as temporary:
            made = make_phantom(Path(temporary) / name, cases=PHANTOM_CASES[name], seed=PHANTOM_SEED, of=known)
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


def _with_unique_ids(cases: list[Case]) -> list[Case]:
    unique = cases
    for name in (lambda case: f"{case.centre}_{case.id}", _name_by_folders(cases)):
        if _repeated(unique):
            unique = [replace(case, id=name(case)) for case in cases]
    if repeated := _repeated(unique):
        first, second = [case for case in unique if case.id == repeated][:2]
        raise DualTaskError(f"{first.image} and {second.image}: would both be case {repeated}", "rename one of them")
    return unique


def _name_by_folders(cases: list[Case]) -> Callable[[Case], str]:
    """What puts the folders in front of an id that are not above every image."""
    columns = zip(*(Path(str(case.image)).parent.parts for case in cases), strict=False)
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, columns))
    return lambda case: "_".join((*Path(str(case.image)).parent.parts[shared:], case.id))


def _repeated(cases: Iterable[Case]) -> str | None:
    return next((name for name, times in Counter(case.id for case in cases).items() if times > 1), None)


def _without_shared(cases: list[Case]) -> list[Case]:
    """Leave out what one source took over from another that is here too: it would be learned from and tested on."""
    known = sources()
    present = {
        name
        for name, source in known.items()
        if any(case.origin in (None, name) and re.fullmatch(source.ids, case.id) for case in cases)
    }
    if present & set(panorama.TAKEN_OVER.values()) and any(case.origin == panorama.UNKNOWN for case in cases):
        raise DualTaskError(
            f"panorama lies here without {panorama.TABLE}, so its cases from msd and nih cannot be identified",
            f"put {panorama.TABLE} of github.com/DIAGNijmegen/panorama_labels beside its labels, or use it alone",
        )
    kept = [case for case in cases if case.origin not in present or re.fullmatch(known[case.origin].ids, case.id)]
    for name in sorted(present):
        if count := sum(case.origin == name for case in cases) - sum(case.origin == name for case in kept):
            _log.warning("%d cases of panorama are left out: %s holds them", count, name)
    return kept
