"""Fetch a known source into a folder, so that ``find_cases`` understands it.

What was fetched before is kept, what was cut goes on, and what lies there because somebody put it there by hand is
used. Every byte is compared with what its publisher says: the archive's checksum (MONAI for msd, Zenodo's own record
for panorama), the MD5 of each slice (TCIA), or the hash of each file (git).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from dualtask_lite.cases import nih
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.download import FetchError, Progress, checksum_of, fetch, unpack
from dualtask_lite.cases.inventory import take_inventory
from dualtask_lite.cases.registry import Source
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file

_RECEIPTS = ".fetched.json"  # which archives were unpacked, and what files they gave
_LABELS = "panorama_labels"


def get(
    source: Source,
    folder: Path,
    *,
    parts: Sequence[str] = (),
    offline: bool = False,
    progress: Progress | None = None,
) -> list[Case]:
    """Fetch a source, and prepare what must be.

    Args:
        source: of ``sources()``; not the phantom, which is made.
        folder: where to; see the source's ``by_hand`` for what may lie there already.
        parts: only the archives whose names begin so, such as ``batch_1`` of panorama; by default all.
        offline: use only what lies in the folder.
        progress: see ``Progress``.

    Returns:
        The cases in the folder.

    Raises:
        DualTaskError: when something cannot be had, verified or prepared.
    """
    if offline and not folder.is_dir():
        raise DualTaskError(f"{folder}: is not there", f"make it, then {source.by_hand}")
    if parts and source.name != "panorama":
        raise DualTaskError(f"{source.name} has no parts", "leave --part out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        {"msd": _msd, "nih": _nih, "panorama": _panorama}[source.name](source, folder, parts, offline, progress)
    except FetchError as error:
        by_hand = f"or by hand, in {folder}: {source.by_hand} (see {source.url}), then run it with --offline"
        raise DualTaskError(error.what, f"{error.remedy}; {by_hand}") from error
    except OSError as error:
        raise DualTaskError(f"{folder}: cannot be used ({error})", "choose another folder with --out") from error
    try:
        found = take_inventory(folder)
        found.insist_on_cases(folder)
        return found.cases
    except DualTaskError as error:
        raise DualTaskError(error.what, f"in it, {source.by_hand} (see {source.url})") from error


def _msd(source: Source, folder: Path, parts: Sequence[str], offline: bool, progress: Progress | None) -> None:
    if _labelled(folder) >= source.cases:
        return
    from monai.apps import DecathlonDataset  # imports torch

    url, md5 = DecathlonDataset.resource["Task07_Pancreas"], DecathlonDataset.md5["Task07_Pancreas"]
    archive = folder / "Task07_Pancreas.tar"
    if archive.exists() or not offline:
        _archive(url, archive, folder, f"md5:{md5}", verify=_lift, progress=progress)


def _nih(source: Source, folder: Path, parts: Sequence[str], offline: bool, progress: Progress | None) -> None:
    urls = source.fetch
    archive = folder / str(urls["labels"]).rsplit("/", 1)[1]
    if not nih.labels_of(folder) and (archive.exists() or not offline):
        _archive(urls["labels"], archive, folder, urls["labels_checksum"], progress=progress)
    there = nih.patients_of(folder)
    if not offline and len(there) < source.cases:
        query = urlencode({"Collection": urls["collection"], "format": "json"})
        for series in _json(f"{urls['api']}/getSeries?{query}", folder):
            patient, uid = str(series["PatientID"]), str(series["SeriesInstanceUID"])
            if patient not in there and re.fullmatch(source.ids, patient) and re.fullmatch(r"[0-9.]+", uid):
                url = f"{urls['api']}/getImageWithMD5Hash?{urlencode({'SeriesInstanceUID': uid})}"
                verify = partial(_series, place=Path("Pancreas-CT") / patient / uid)
                _archive(url, folder / f"{patient}.zip", folder, None, verify=verify, progress=progress)
    nih.prepare(folder, progress=progress)


def _panorama(source: Source, folder: Path, parts: Sequence[str], offline: bool, progress: Progress | None) -> None:
    if not parts and _labelled(folder) >= source.cases:
        return
    if offline:
        for archive in sorted([*folder.glob("batch_*.zip"), *folder.glob(f"{_LABELS}*.zip")]):
            _archive("by hand", archive, folder, None, progress=progress)
        return
    records = [_json(f"{source.fetch['zenodo']}/{record}", folder) for record in source.fetch["records"]]
    files = [file for record in records for file in record["files"]]
    chosen = [file for file in files if not parts or str(file["key"]).startswith(tuple(parts))]
    if not chosen:
        known = ", ".join(str(file["key"]) for file in files)
        raise DualTaskError(f"{source.name} has no part {', '.join(parts)}", f"choose from: {known}")
    _panorama_labels(str(source.fetch["github"]), folder, progress)
    for file in chosen:
        archive = folder / Path(str(file["key"])).name
        _archive(file["links"]["self"], archive, folder, file["checksum"], size=file["size"], progress=progress)


def _panorama_labels(repository: str, folder: Path, progress: Progress | None) -> None:
    """The repository of the labels, at the commit that it has now; it is kept with the receipts."""
    if any(folder.glob("*/manual_labels")):
        return
    commit = str(_json(f"{repository}/commits/main", folder)["sha"])
    tree = _json(f"{repository}/git/trees/{commit}?recursive=1", folder)["tree"]
    blobs = {entry["path"]: entry["sha"] for entry in tree if entry["type"] == "blob"}

    def compare(unpacked: Path) -> None:
        (root,) = unpacked.iterdir()  # the archive's one folder, named after the commit
        for path, sha in blobs.items():
            file = root / path
            if not file.is_file() or _git_hash(file) != sha:
                raise DualTaskError(f"{file.name}: is not as git has it at {commit[:12]}", "run it again")
        for path in (p for p in root.rglob("*") if p.is_file()):
            if str(path.relative_to(root).as_posix()) not in blobs:
                raise DualTaskError(f"{path.name}: is not in git at {commit[:12]}", "run it again")
        root.rename(unpacked / _LABELS)

    _archive(
        f"{repository}/zipball/{commit}", folder / f"{_LABELS}.zip", folder, None, verify=compare, progress=progress
    )


def _archive(
    url: str,
    archive: Path,
    folder: Path,
    checksum: str | None,
    *,
    size: int | None = None,
    verify: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Fetch an archive unless it was, unpack it, and note what it gave; one that was put there by hand is kept."""
    record = archive.parent / _RECEIPTS
    receipts = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    known = receipts.get(archive.name, {}).get("files", {})
    if known and all(_has(folder / name, bytes_) for name, bytes_ in known.items()):
        return
    by_hand = archive.exists()
    if not (by_hand and checksum is None):
        fetch(url, archive, checksum=checksum, size=size, progress=progress)
    try:
        files = unpack(archive, folder, verify=verify, progress=progress)
    except DualTaskError:
        if not by_hand and checksum is None:
            archive.unlink()  # nothing said before that it was whole
        raise
    receipts[archive.name] = {"url": url, "checksum": checksum, "files": files}
    with whole_file(record) as temporary:
        temporary.write_text(json.dumps(receipts) + "\n", encoding="utf-8")
    if not by_hand:
        archive.unlink()


def _lift(unpacked: Path) -> None:
    """Do without the one folder that an archive packs everything into: the centre has the name that the user gave."""
    (root,) = unpacked.iterdir()
    aside = root.rename(unpacked.with_name(f"{unpacked.name}.root"))
    unpacked.rmdir()
    aside.rename(unpacked)


def _series(unpacked: Path, place: Path) -> None:
    """Compare a series with the MD5 sums that TCIA packs with it, and put it where the retriever would."""
    sums = unpacked / "md5hashes.csv"
    if not sums.is_file():
        raise DualTaskError("a series of TCIA came without md5hashes.csv", "fetch it with the NBIA Data Retriever")
    with sums.open(encoding="utf-8-sig", newline="") as file:
        wanted = {row[0].strip(): row[1].strip().lower() for row in list(csv.reader(file))[1:] if len(row) > 1}
    slices = {str(path.relative_to(unpacked).as_posix()): path for path in unpacked.rglob("*.dcm")}
    if set(wanted) != set(slices):
        raise DualTaskError(f"a series of TCIA has {len(slices)} slices, not {len(wanted)} as it says", "run it again")
    for name, path in slices.items():
        if checksum_of(path, "md5") != wanted[name]:
            raise DualTaskError(f"{name}: is not the slice that TCIA sent (its MD5 differs)", "run it again")
    (unpacked / place).mkdir(parents=True)
    for path in [path for path in unpacked.iterdir() if path.is_file()]:
        path.rename(unpacked / place / path.name)


def _git_hash(file: Path) -> str:
    """The name that git gives to a file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _json(url: str, folder: Path) -> Any:
    """What an interface answers; it is asked each time, and not kept."""
    path = folder / ".answer.json"
    path.unlink(missing_ok=True)
    path.with_name(f".{path.name}.part").unlink(missing_ok=True)
    try:
        return json.loads(fetch(url, path, checksum=None).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FetchError(f"{url}: did not answer in JSON ({error})", "run it again later") from error
    finally:
        path.unlink(missing_ok=True)


def _labelled(folder: Path) -> int:
    """How many cases with a label lie in a folder."""
    try:
        return sum(case.label is not None for case in take_inventory(folder).cases)
    except DualTaskError:  # nothing there yet
        return 0


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
