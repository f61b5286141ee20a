"""Fetch a file and unpack an archive, so that nothing unverified ever bears its final name.

A download goes on where it was cut, is compared with a checksum, and only then takes its name. Our own few lines on
``urllib``: MONAI's ``download_url`` and ``extractall`` start anew after a cut, keep no part of what came, and unpack
straight into place.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import move_into, unwritable

#: Called with what is fetched or unpacked, the bytes done and, where known, the bytes of all.
Progress = Callable[[str, int, "int | None"], None]

ATTEMPTS = 5  # in a row that bring no new byte
PAUSE_S = 1.0  # before the second attempt; doubled before each further one
_TIMEOUT_S = 60
_BLOCK = 1 << 20
_CUT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class FetchError(DualTaskError):
    """A file cannot be had from its address; it may still be fetched by hand."""


def fetch(
    url: str,
    path: Path,
    *,
    checksum: str | None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a file; a part that a former call left is completed, and a whole one is verified again.

    Args:
        url: of http or https.
        path: where it goes; the part lies beside it as ``.NAME.part``.
        checksum: ``md5:...`` or ``sha256:...``; ``None`` where the publisher gives none and the caller verifies the
            content by other means.
        size: bytes, where the publisher gives them.
        progress: see ``Progress``.

    Raises:
        FetchError: when it cannot be had, or is not what was promised.
        DualTaskError: when there is no room for it, or what lies there already is something else.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DualTaskError(f"{url}: is no web address", "give one that starts with https://")
    if path.exists():
        if found := _unlike(path, checksum, size):
            raise DualTaskError(f"{path}: {found}", "remove it, then fetch it again")
        return path
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _complete(url, part, size, progress or (lambda *_: None))
        if found := _unlike(part, checksum, size):
            part.unlink()
            raise FetchError(f"{url}: {found}", "run it again; if it persists, the publisher has changed the file")
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def unpack(
    archive: Path,
    folder: Path,
    *,
    verify: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Unpack a tar or zip archive; nothing takes its place before the whole archive was read.

    Every member is checked and written by hand, the same way on every Python: not every 3.10 and 3.11 has
    ``tarfile``'s data filter, and ``zipfile`` has none. Only plain files are written, with the rights of new files.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``...
        folder: where to; files of the same name are replaced, and a folder that is not there yet comes at once.
        verify: called with the folder that holds the files before they take their places; it may raise to stop that,
            or move some.
        progress: see ``Progress``.

    Returns:
        The size of each file, by its path below ``folder``.

    Raises:
        DualTaskError: when a member would leave the folder or is a link or device, the archive is damaged, or there is
            no room for it.
    """
    beside = folder / f".{archive.name}.unpacking"
    done = 0
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
        with ExitStack() as stack:
            members = list(_members(archive, stack))
            total = sum(size for _, size, _ in members)
            beside.mkdir(parents=True)
            _insist_on_room(folder, total)
            for name, size, opened in members:
                target = beside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, _BLOCK)
                if target.stat().st_size != size:
                    raise EOFError(f"{name} is cut off")
                done += size
                if progress:
                    progress(f"unpacking {archive.name}", done, total)
        if verify:
            verify(beside)
        files = [path for path in beside.rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(beside).as_posix()): path.stat().st_size for path in files}
        move_into(beside, folder)
    # zipfile says RuntimeError of an encrypted member, and NotImplementedError of a way to pack that it does not know.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DualTaskError(
            f"{archive}: is damaged, or no archive that can be read ({error})", "remove it, then fetch it again"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return sizes


def checksum_of(path: Path, kind: str) -> str:
    """Hexadecimal checksum of a file; ``kind`` is a name that ``hashlib`` knows."""
    found = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            found.update(block)
    return found.hexdigest()


def _complete(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Fetch what is missing of a part, trying again after a cut."""
    attempt = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if before != size or size is None:
                _append(url, part, size, progress)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:
                if str(error.headers.get("Content-Range")) == f"bytes */{before}":
                    return  # it was whole, and the run was killed before it was verified
                part.unlink()  # it is longer than the file: a part of another one
            elif error.code < 500 and error.code not in (408, 429):
                raise FetchError(
                    f"{url}: the server answered {error.code} {error.reason}",
                    "see whether the address still holds",
                ) from error
            reason: Any = f"{error.code} {error.reason}"
        except _CUT as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
        came = (part.stat().st_size if part.exists() else 0) > before
        attempt = 1 if came else attempt + 1
        if attempt >= ATTEMPTS:
            kept = f"; {part.stat().st_size} bytes are kept" if part.exists() else ""
            raise FetchError(
                f"{url}: the download was cut ({reason}){kept}",
                "see that this machine reaches the network, then run it again: it goes on from there",
            )
        time.sleep(PAUSE_S * 2 ** (attempt - 1))


def _append(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """One request: append to the part, or begin it anew where the server knows no ranges."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "dualtask-lite"})  # noqa: S310  # of data/sources.yaml
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310  # where it leads is looked at
        if urlsplit(url).scheme == "https" != urlsplit(answer.geturl()).scheme:
            raise FetchError(
                f"{url}: leads to {answer.geturl()}, which is not encrypted", "see what its publisher says"
            )
        if answer.status != 206 or not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else size
        if total is not None:
            _insist_on_room(part.parent, total - start)
        with part.open("ab" if start else "wb") as out:
            while block := answer.read(_BLOCK):
                if not out.tell():
                    _refuse_page(url, answer.headers.get_content_type(), block)
                out.write(block)
                progress(f"fetching {part.name[1 : -len('.part')]}", out.tell(), total)
            if total is not None and out.tell() < total:
                raise http.client.IncompleteRead(b"", total - out.tell())


def _refuse_page(url: str, kind: str, block: bytes) -> None:
    """A login, a notice or an error page sent in place of the data."""
    begins = block[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind == "text/html" or begins.startswith((b"<!doctype html", b"<html")):
        raise FetchError(
            f"{url}: the server sent a web page instead of the file (a login, a notice, a proxy?)",
            "open the address in a browser to see what it wants",
        )


def _unlike(path: Path, checksum: str | None, size: int | None) -> str:
    """What sets a file apart from what was promised; empty when nothing does."""
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes instead of {size}"
    if checksum:
        kind, wanted = checksum.split(":")
        if (found := checksum_of(path, kind)) != wanted.lower():
            return f"has the wrong checksum ({kind} {found} instead of {wanted})"
    return ""


def _members(archive: Path, stack: ExitStack) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size and opener of each plain file of an archive, all names safe to write below a folder."""
    if zipfile.is_zipfile(archive):
        packed = stack.enter_context(zipfile.ZipFile(archive))
        for info in packed.infolist():
            kind = info.external_attr >> 28  # type bits of the Unix mode, 0 where none was stored
            _insist_on_safe(archive, info.filename, kind in (0, 0o4, 0o10))
            if not info.is_dir():
                yield info.filename, info.file_size, partial(packed.open, info)
        return
    tar = tarfile.open(archive)  # noqa: SIM115 - the stack closes it
    stack.push(tar)
    for member in tar:
        _insist_on_safe(archive, member.name, member.isfile() or member.isdir())
        if member.isfile():
            yield member.name, member.size, partial(_plain, tar, member)


def _plain(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(member)
    assert opened is not None  # it is a plain file
    return opened


def _insist_on_safe(archive: Path, name: str, plain: bool) -> None:
    """Refuse what could land outside of the folder: absolute and climbing names, links, devices."""
    path = PurePosixPath(name)
    if not plain or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.partition("/")[0]:
        what = "leads out of the folder" if plain else "is a link or a device"
        raise DualTaskError(
            f"{archive}: its member {name!r} {what}", "do not use this archive; fetch it from its publisher again"
        )


def _insist_on_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DualTaskError(
            f"{folder}: {needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free",
            "make room, or choose another folder with --out",
        )
