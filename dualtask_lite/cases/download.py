"""Download a file and unpack an archive, so that no unverified file ever has its final name.

A download resumes where it was interrupted, is compared with a checksum, and only then gets its name. This
module uses ``urllib``, because MONAI's ``download_url`` and ``extractall`` start again after an interruption, keep no
partial file, and unpack directly into the target folder.
"""

from __future__ import annotations

import http.client
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import checksum_of, flush_to_disk, move_into, unwritable

#: Called with a description of the step, the number of bytes done and, where known, of all bytes.
Progress = Callable[[str, int, "int | None"], None]

ATTEMPTS = 5  # consecutive attempts without a new byte before giving up
PAUSE_S = 1.0  # before the second attempt; doubled for each further one
_TIMEOUT_S = 60
_BLOCK = 1 << 20


class FetchError(DualTaskError):
    """A file cannot be downloaded from its address; the user may still fetch it by hand."""


def fetch(
    url: str,
    path: Path,
    *,
    checksum: str | None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a file; a partial file of an earlier call is completed, and a complete file is verified again.

    Args:
        url: an http or https address.
        path: of the file; the partial file beside it is called ``.NAME.part``.
        checksum: ``md5:...`` or ``sha256:...``; ``None`` when the publisher gives none and the caller verifies the
            content by other means.
        size: bytes, where the publisher gives them.
        progress: see ``Progress``.

    Raises:
        FetchError: when the download fails, or the file has another size or checksum.
        DualTaskError: when the disk is full, or another file of this name exists already.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DualTaskError(f"{url}: is not a web address", "give one that starts with https://")
    if path.exists():
        if difference := _difference(path, checksum, size):
            raise DualTaskError(f"{path}: {difference}", "remove it, then fetch it again")
        return path
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _complete(url, part, size, progress or (lambda *_: None))
        if difference := _difference(part, checksum, size):
            part.unlink()
            raise FetchError(f"{url}: {difference}", "run it again; if it persists, the publisher has changed the file")
        flush_to_disk(part)
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
    """Unpack a tar or zip archive; no file reaches the folder before the whole archive was read.

    Every member is checked and written here, so that all versions of Python behave the same: some releases of 3.10 and
    3.11 lack ``tarfile``'s data filter, and ``zipfile`` has none. Only plain files are written, with the permissions
    of new files.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``...
        folder: to unpack to; files of the same name are replaced, and a new folder appears only when complete.
        verify: called with the temporary folder of the files before they are moved to ``folder``; it may raise an
            error to stop that, or move some of them.
        progress: see ``Progress``.

    Returns:
        The size of each file, by its path below ``folder``.

    Raises:
        DualTaskError: when a member would leave the folder or is a link or device, the archive is damaged, or the
            disk is full.
    """
    temporary = folder / f".{archive.name}.unpacking"
    done = 0
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # from a run that was killed
        with ExitStack() as stack:
            members = list(_members(archive, stack))
            total = sum(size for _, size, _ in members)
            temporary.mkdir(parents=True)
            _check_space(folder, total)
            for name, size, open_member in members:
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_member() as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, _BLOCK)
                if target.stat().st_size != size:
                    raise EOFError(f"{name} is cut off")
                done += size
                if progress:
                    progress(f"unpacking {archive.name}", done, total)
        if verify:
            verify(temporary)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(temporary).as_posix()): path.stat().st_size for path in files}
        move_into(temporary, folder)
    # zipfile raises RuntimeError for an encrypted member, and NotImplementedError for an unknown compression.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DualTaskError(
            f"{archive}: is damaged, or not a readable archive ({error})", "remove it, then fetch it again"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sizes


def _complete(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Download the missing rest of a partial file, and try again after an interruption."""
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
                    return  # the file was complete, and the run was killed before verifying it
                part.unlink()  # longer than the file on the server: a part of another file
            elif error.code < 500 and error.code not in (408, 429):
                raise FetchError(
                    f"{url}: the server answered {error.code} {error.reason}",
                    "check that the address is still valid",
                ) from error
            reason: Any = f"{error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
        progressed = (part.stat().st_size if part.exists() else 0) > before
        attempt = 1 if progressed else attempt + 1
        if attempt >= ATTEMPTS:
            received = f"; {part.stat().st_size} bytes are kept" if part.exists() else ""
            raise FetchError(
                f"{url}: the download was interrupted ({reason}){received}",
                "check the network connection, then run the command again to resume",
            )
        time.sleep(PAUSE_S * 2 ** (attempt - 1))


def _append(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Send one request: append to the partial file, or start it again when the server does not support ranges."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "dualtask-lite"})  # noqa: S310  # of data/sources.yaml
    if start:
        request.add_header("Range", f"bytes={start}-")
    with _network_errors():
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310  # redirects are checked
    with response:
        if urlsplit(url).scheme == "https" != urlsplit(response.geturl()).scheme:
            raise FetchError(
                f"{url}: redirects to {response.geturl()}, which is not encrypted",
                "ask the publisher for an https address",
            )
        if response.status != 206 or not str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else size
        if total is not None:
            _check_space(part.parent, total - start)
        with part.open("ab" if start else "wb") as out:
            for block in _blocks(response):
                if not out.tell():
                    _refuse_web_page(url, response.headers.get_content_type(), block)
                out.write(block)
                progress(f"fetching {part.name[1 : -len('.part')]}", out.tell(), total)
            if total is not None and out.tell() < total:
                raise http.client.IncompleteRead(b"", total - out.tell())


@contextmanager
def _network_errors() -> Iterator[None]:
    """Raise each error of the network as a ``URLError``: by its class an ``OSError`` may be one of the disk, too."""
    try:
        yield
    except urllib.error.URLError:
        raise
    except OSError as error:
        raise urllib.error.URLError(error) from error


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Read an answer block by block."""
    while True:
        with _network_errors():
            block = response.read(_BLOCK)
        if not block:
            return
        yield block


def _refuse_web_page(url: str, content_type: str, block: bytes) -> None:
    """Raise an error when the server sends a login, a notice or an error page instead of the data."""
    beginning = block[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if content_type == "text/html" or beginning.startswith((b"<!doctype html", b"<html")):
        raise FetchError(
            f"{url}: the server sent a web page instead of the file (a login, a notice, a proxy?)",
            "open the address in a browser to see what the page says",
        )


def _difference(path: Path, checksum: str | None, size: int | None) -> str:
    """Describe how a file differs from the expected size or checksum; empty when it does not."""
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes instead of {size}"
    if checksum:
        kind, expected = checksum.split(":")
        if (found := checksum_of(path, kind)) != expected.lower():
            return f"has the wrong checksum ({kind} {found} instead of {expected})"
    return ""


def _members(archive: Path, stack: ExitStack) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Yield name, size and opener of each plain file of an archive, after checking that every name is safe."""
    if zipfile.is_zipfile(archive):
        packed = stack.enter_context(zipfile.ZipFile(archive))
        for info in packed.infolist():
            kind = info.external_attr >> 28  # type bits of the Unix mode, 0 where none was stored
            _check_member(archive, info.filename, kind in (0, 0o4, 0o10))
            if not info.is_dir():
                yield info.filename, info.file_size, partial(packed.open, info)
        return
    tar = tarfile.open(archive)  # noqa: SIM115 - the stack closes it
    stack.push(tar)
    for member in tar:
        _check_member(archive, member.name, member.isfile() or member.isdir())
        if member.isfile():
            yield member.name, member.size, partial(_open_member, tar, member)


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(member)
    assert opened is not None  # the member is a plain file
    return opened


def _check_member(archive: Path, name: str, plain: bool) -> None:
    """Refuse a member that could be written outside the folder: absolute names, names with .., links, devices."""
    path = PurePosixPath(name)
    if not plain or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.partition("/")[0]:
        what = "leads out of the folder" if plain else "is a link or a device"
        raise DualTaskError(
            f"{archive}: its member {name!r} {what}", "do not use this archive; fetch it from its publisher again"
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DualTaskError(
            f"{folder}: {needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free",
            "make room, or choose another folder with --out",
        )
