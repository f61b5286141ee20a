"""Download a known source into a folder in a layout that ``find_cases`` reads.

Files from an earlier run are kept, interrupted downloads resume, and files that the user put there by hand are used.
Every byte is compared with the data of its publisher: the checksum of the archive (MONAI for msd, Zenodo's record for
panorama), the MD5 of each slice (TCIA), or the hash of each file (git).
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
from dualtask_lite.cases.download import FetchError, Progress, fetch, unpack
from dualtask_lite.cases.inventory import take_inventory
from dualtask_lite.cases.registry import Source
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import checksum_of, read_record, whole_file

_RECEIPTS = ".fetched.json"  # the archives that were unpacked, with the files of each
_LABELS = "panorama_labels"


def get(
    source: Source,
    folder: Path,
    *,
    parts: Sequence[str] = (),
    offline: bool = False,
    progress: Progress | None = None,
) -> list[Case]:
    """Download a source and prepare its labels where necessary.

    Args:
        source: one of ``sources()``, except the phantom, which is generated.
        folder: to download to; the source's ``by_hand`` says which files it may already hold.
        parts: beginnings of the names of the archives to fetch, such as ``batch_1`` of panorama; by default all.
        offline: use only the files in the folder.
        progress: see ``Progress``.

    Returns:
        The cases in the folder.

    Raises:
        DualTaskError: when a file cannot be downloaded, verified or prepared.
    """
    if offline and not folder.is_dir():
        raise DualTaskError(f"{folder}: does not exist", f"create it, then {source.by_hand}")
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
        found.require_cases(folder)
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
        _archive(url, archive, folder, f"md5:{md5}", verify=_remove_top_folder, progress=progress)


def _nih(source: Source, folder: Path, parts: Sequence[str], offline: bool, progress: Progress | None) -> None:
    urls = source.fetch
    archive = folder / str(urls["labels"]).rsplit("/", 1)[1]
    if not nih.labels_of(folder) and (archive.exists() or not offline):
        _archive(urls["labels"], archive, folder, urls["labels_checksum"], progress=progress)
    present = nih.patients_of(folder)
    if not offline and len(present) < source.cases:
        query = urlencode({"Collection": urls["collection"], "format": "json"})
        for series in _json(f"{urls['api']}/getSeries?{query}", folder):
            patient, uid = str(series["PatientID"]), str(series["SeriesInstanceUID"])
            if patient not in present and re.fullmatch(source.ids, patient) and re.fullmatch(r"[0-9.]+", uid):
                url = f"{urls['api']}/getImageWithMD5Hash?{urlencode({'SeriesInstanceUID': uid})}"
                verify = partial(_check_series, target=Path("Pancreas-CT") / patient / uid)
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
    """Download the repository of the labels at its current commit, and check each file against its git hash."""
    if any(folder.glob("*/manual_labels")):
        return
    commit = str(_json(f"{repository}/commits/main", folder)["sha"])
    tree = _json(f"{repository}/git/trees/{commit}?recursive=1", folder)["tree"]
    blobs = {entry["path"]: entry["sha"] for entry in tree if entry["type"] == "blob"}

    def compare(unpacked: Path) -> None:
        (root,) = unpacked.iterdir()  # the only folder of the archive, named after the commit
        for path, sha in blobs.items():
            file = root / path
            if not file.is_file() or _git_hash(file) != sha:
                raise DualTaskError(f"{file.name}: differs from its version in git at {commit[:12]}", "run it again")
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
    """Download and unpack an archive once, and record its files; an archive put there by hand is not deleted."""
    record = archive.parent / _RECEIPTS
    receipts = read_record(record)
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
            archive.unlink()  # no checksum had verified it
        raise
    receipts[archive.name] = {"url": url, "checksum": checksum, "files": files}
    with whole_file(record) as temporary:
        temporary.write_text(json.dumps(receipts) + "\n", encoding="utf-8")
    if not by_hand:
        archive.unlink()


def _remove_top_folder(unpacked: Path) -> None:
    """Drop the top folder of an archive: the centre gets the name of the folder that the user chose."""
    (root,) = unpacked.iterdir()
    moved = root.rename(unpacked.with_name(f"{unpacked.name}.root"))
    unpacked.rmdir()
    moved.rename(unpacked)


def _check_series(unpacked: Path, target: Path) -> None:
    """Compare a series with the MD5 sums that TCIA packs with it, and move it to the retriever's folder layout."""
    sums = unpacked / "md5hashes.csv"
    if not sums.is_file():
        raise DualTaskError("a series from TCIA has no md5hashes.csv", "fetch it with the NBIA Data Retriever")
    with sums.open(encoding="utf-8-sig", newline="") as file:
        expected = {row[0].strip(): row[1].strip().lower() for row in list(csv.reader(file))[1:] if len(row) > 1}
    slices = {str(path.relative_to(unpacked).as_posix()): path for path in unpacked.rglob("*.dcm")}
    if set(expected) != set(slices):
        raise DualTaskError(
            f"a series from TCIA has {len(slices)} slices, and its list names {len(expected)}", "run it again"
        )
    for name, path in slices.items():
        if checksum_of(path, "md5") != expected[name]:
            raise DualTaskError(f"{name}: its MD5 differs from the one that TCIA gives", "run it again")
    (unpacked / target).mkdir(parents=True)
    for path in [path for path in unpacked.iterdir() if path.is_file()]:
        path.rename(unpacked / target / path.name)


def _git_hash(file: Path) -> str:
    """The hash that git gives to the content of a file."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _json(url: str, folder: Path) -> Any:
    """Download JSON from an interface; the answer is not kept."""
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
    """Count the cases with a label in a folder."""
    try:
        return sum(case.label is not None for case in take_inventory(folder).cases)
    except DualTaskError:  # the folder holds no case yet
        return 0


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
