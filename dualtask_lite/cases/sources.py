"""Find cases: in the known sources, and in folders of every recognised layout.

This module does not import torch, so that listing the sources is fast.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from dualtask_lite.cases import panorama
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.inventory import Inventory, Skipped, cannot_be_used, describe_skipped, take_inventory
from dualtask_lite.cases.layouts import LAYOUTS
from dualtask_lite.cases.paths import is_nifti, stem, visible
from dualtask_lite.cases.phantom import VERSION, centres, make_phantom
from dualtask_lite.cases.registry import Source, sources, sources_table
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import cache_folder, expand_home, made_once

__all__ = ["Source", "absolute", "as_source", "find_cases", "folder_of", "is_here", "sources", "sources_table"]

PHANTOM_SEED = 0
PHANTOM_CASES = {"phantom": 16, "phantom-48": 48, "exam": 32}  # cases of each centre in the generated data sets
_log = logging.getLogger(__name__)


def find_cases(source: str | Path) -> list[Case]:
    """List the cases of a known source, a folder or one file; no volume is read.

    Other files are left out; ``find_inputs`` lists them. The log names those that may hold a CT.

    ====================================  =======================================  ==================
    given                                 cases                                    centre
    ====================================  =======================================  ==================
    ``"phantom"``, ``"phantom-48"``       the embedded data, made on first use     A, B, C
    ``"exam"``                            the data of the exam, likewise           D
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

    Missing images that ``dataset.json`` lists are left out, and so is a data set below the given folder that cannot be
    used; an image whose label is missing becomes a case without label. ``imagesTs`` is not returned. When two cases
    share an id, every id gets its centre as a prefix, or the folders that differ. When panorama is used together with
    msd or nih, its copies of their cases are left out, and a line in the log states how many.

    Args:
        source: a known source (see ``sources``), several joined by commas, or a path; write ``./phantom`` for a
            folder of that name.

    Raises:
        DualTaskError: when the source is empty, nothing is there or recognised, a known source was not fetched yet, or
            it is unknown which cases panorama shares with another source.
    """
    cases = []
    for part in _parts(source):
        inventory = _inventory_with_cases(part)
        for line in describe_skipped(one for one in inventory.skipped if one.may_be_ct):
            _log.warning("skipped %s", line)
        cases += inventory.cases
    return _usable_together(cases)


def find_inputs(sources: Sequence[str | Path]) -> Inventory:
    """List the cases of several sources, files and folders, and the skipped files with the reasons.

    A path that is given twice, or lies below another, is one case. Ids are unique over all, as in ``find_cases``.

    Args:
        sources: each as for ``find_cases``.

    Raises:
        DualTaskError: as for ``find_cases``; but of several sources, one that cannot be used is only listed as skipped.
    """
    cases: list[Case] = []
    skipped: dict[Path, Skipped] = {}
    used: set[Path] = set()
    for part in [part for source in sources for part in _parts(source)]:
        path = _path(part)
        found = _inventory_beside_others(part) if len(sources) > 1 else _inventory_with_cases(part)
        cases += found.cases
        skipped |= {one.path: one for one in found.skipped}
        if not (found.cases or found.skipped):
            skipped[path] = Skipped(path, "holds no CT", LAYOUTS, may_be_ct=True)
        if found.cases:
            used |= {path, *(Path(str(case.image)) for case in found.cases)}
    unused = [one for path, one in skipped.items() if path not in used]  # one source may use what another skips
    inventory = Inventory(_usable_together(cases), unused)
    inventory.require_cases(_path(sources[0]))
    return inventory


def _inventory_with_cases(source: str | Path) -> Inventory:
    inventory = _inventory_of(source)
    inventory.require_cases(_path(source))
    return inventory


def _inventory_beside_others(source: str | Path) -> Inventory:
    """Inventory of one of several sources; one that cannot be used is skipped."""
    try:
        return _inventory_of(source)
    except DualTaskError as error:
        return Inventory(skipped=[cannot_be_used(_path(source), error)])


def _parts(source: str | Path) -> list[str | Path]:
    """Split a text of several sources at its commas.

    Raises:
        DualTaskError: when one of them is empty, which as a path would be the current folder.
    """
    if not isinstance(source, str) or (source and _exists(expand_home(source))):
        return [source]
    parts = [part.strip() for part in source.split(",")]
    if not all(parts):
        raise DualTaskError(
            f"{source!r}: a source in it is empty", "name known sources or folders, with a comma between two of them"
        )
    return list(parts)


def _usable_together(cases: list[Case]) -> list[Case]:
    return _with_unique_ids(_apart_by_kind(_without_copies(_without_duplicates(cases))))


def _without_duplicates(cases: list[Case]) -> list[Case]:
    """Keep each image once, with its label if any of its cases has one."""
    by_image: dict[str, Case] = {}
    for case in cases:
        path = os.path.abspath(str(case.image))
        if path not in by_image or (by_image[path].label is None and case.label is not None):
            by_image[path] = case
    return list(by_image.values())


def absolute(source: str) -> str:
    """Make the paths of a source absolute, so that a command in any folder finds it; a known name stays.

    Raises:
        DualTaskError: when the source is empty.
    """
    return ",".join(_absolute(str(part)) for part in _parts(source))


def _absolute(source: str) -> str:
    is_generated = source in sources() and sources()[source].how == "made"
    return str(_path(source)) if _exists(_path(source)) and not is_generated else source


def as_source(folder: Path) -> str:
    """Write a folder as a source; ``./`` distinguishes it from the known source of that name."""
    return f".{os.sep}{folder}" if str(folder) in sources() else str(folder)


def is_here(source: Source) -> bool:
    """Whether a known source can be used at once: it is generated, or its download has left more than hidden files."""
    return source.how == "made" or bool(visible(folder_of(source)))


def folder_of(source: Source) -> Path:
    """Folder of a known source that ``dualtask data get`` downloads."""
    return cache_folder() / source.name


def _path(source: str | Path) -> Path:
    return Path(os.path.abspath(expand_home(source)))  # "." would have no name; resolve would lose that of a link


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DualTaskError:
    return DualTaskError(f"{path}: cannot be read ({error})", "check the folder and your permissions")


def _inventory_of(source: str | Path) -> Inventory:
    """Inventory of one known source or path."""
    known = sources().get(str(source))
    path = _path(source)
    try:
        if known and known.how == "made" and not (isinstance(source, Path) and source.exists()):
            if path.is_dir():
                _log.warning("%s means the embedded data; write ./%s for the folder", known.name, known.name)
            return take_inventory(_phantom(known.name))
        if path.exists() or path.is_symlink():
            return take_inventory(path)
        if known and (path := folder_of(known)).is_dir():
            found = take_inventory(path)
            if found.cases or is_here(known):  # an interrupted download has left hidden files only
                found.require_cases(path)
                return Inventory([replace(case, centre=known.name) for case in found.cases], found.skipped)
    except OSError as error:
        raise _unreadable(path, error) from error
    raise _not_fetched(known) if known else _unknown_source(source)


def _not_fetched(source: Source) -> DualTaskError:
    return DualTaskError(
        f"{source.name} ({source.licence}, {source.size_gb:g} GB) was not fetched yet",
        f"dualtask data get {source.name}; or by hand: make a folder, {source.by_hand} (see {source.url}), then "
        f"dualtask data get {source.name} --out FOLDER, and give the folder",
    )


def _unknown_source(source: str | Path) -> DualTaskError:
    near = difflib.get_close_matches(str(source).lower(), sources(), n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return DualTaskError(
        f"{source}: no such file or folder, and no known source",
        f"{meant}known sources are {', '.join(sources())}; or {LAYOUTS}",
    )


def _phantom(name: str) -> Path:
    """Folder of a generated data set, made on first use; its name contains a hash of everything that defines it."""
    known = centres(exam=name == "exam")
    recipe = f"{VERSION} {PHANTOM_CASES[name]} {PHANTOM_SEED} {known}".encode()
    folder = cache_folder() / f"{name}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    count = PHANTOM_CASES[name]
    return made_once(folder, lambda new: make_phantom(new, cases=count, seed=PHANTOM_SEED, centres_to_write=known))


def _apart_by_kind(cases: list[Case]) -> list[Case]:
    """Add the kind of image to the id of cases with one name in one folder, such as a series beside its conversion."""
    places = [(Path(str(case.image)).parent, case.id) for case in cases]
    times = Counter(places)
    return [
        replace(case, id=f"{case.id}_{_kind(Path(str(case.image)))}") if times[place] > 1 else case
        for case, place in zip(cases, places, strict=True)
    ]


def _kind(image: Path) -> str:
    return image.name.removeprefix(f"{stem(image)}.").lower().replace(".", "_") if is_nifti(image) else "dicom"


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
    """Make a function that prefixes an id with the folders that the images do not have in common."""
    columns = zip(*(Path(str(case.image)).parent.parts for case in cases), strict=False)
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, columns))
    return lambda case: "_".join((*Path(str(case.image)).parent.parts[shared:], case.id))


def _repeated(cases: Iterable[Case]) -> str | None:
    return next((name for name, times in Counter(case.id for case in cases).items() if times > 1), None)


def _without_copies(cases: list[Case]) -> list[Case]:
    """Leave out copies of cases whose first source is used, too: one could be trained on and the other tested on."""
    known = sources()
    present = {
        name
        for name, source in known.items()
        if any(case.origin in (None, name) and re.fullmatch(source.ids, case.id) for case in cases)
    }
    if present & set(panorama.ORIGINS.values()) and any(case.origin == panorama.UNKNOWN for case in cases):
        raise DualTaskError(
            f"panorama comes without {panorama.TABLE}, so its cases from msd and nih cannot be identified",
            f"put {panorama.TABLE} of github.com/DIAGNijmegen/panorama_labels beside its labels, or use it alone",
        )
    kept = [case for case in cases if case.origin not in present or re.fullmatch(known[case.origin].ids, case.id)]
    for name in sorted(present):
        if count := sum(case.origin == name for case in cases) - sum(case.origin == name for case in kept):
            _log.warning("%d cases of panorama are left out: %s holds them", count, name)
    return kept
