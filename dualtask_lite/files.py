"""Writing files completely or not at all, with a clear message when writing fails; reading the package's records."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dualtask_lite.errors import DualTaskError

_BLOCK = 1 << 20  # bytes that are read at a time
_TEMPORARY = re.compile(r"^(\.tmp-[0-9a-f]{8}\.)+")  # begins the names that whole_file gives


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it is renamed to ``path`` only when the block succeeds.

    So a reader never finds half a file, even after a power cut: the file is flushed to disk before it is renamed.
    Missing folders are created.

    Raises:
        DualTaskError: when the file cannot be written.
    """
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}.{path.name}")  # some writers need the suffix
    with report_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            flush_to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no second process writes to it; the system releases it at the process's end.

    Raises:
        DualTaskError: when another process holds it, or the folder cannot be created.
    """
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise DualTaskError(
            f"{folder}: another process writes to it", "wait until it has finished, or choose another folder"
        ) from error
    except (OSError, NotImplementedError):
        pass  # a file system without locks; if it cannot be written to at all, the first file says so
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (folder / ".lock").unlink(missing_ok=True)
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed process from a folder that only one process writes to."""
    for path in folder.glob(".tmp-*"):
        if _TEMPORARY.match(path.name):
            path.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a written file is on the disk, so that a power cut cannot lose it."""
    with path.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def checksum_of(path: Path, kind: str) -> str:
    """Compute the hexadecimal checksum of a file; ``kind`` is an algorithm of ``hashlib``."""
    checksum = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            checksum.update(block)
    return checksum.hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object that the package keeps for itself; a missing, unreadable or damaged one is empty."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: not JSON, or not UTF-8
        return {}
    return record if isinstance(record, dict) else {}


def move_into(source: Path, target: Path) -> None:
    """Move the content of a folder into another one; folders that exist in both are merged."""
    for path in sorted(source.iterdir()):
        moved = target / path.name
        if path.is_dir() and moved.is_dir():
            move_into(path, moved)
        else:
            path.replace(moved)


@contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Replace the error of a failed write by a message with a remedy.

    Raises:
        DualTaskError: instead of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def check_writable(folder: Path) -> None:
    """Check, before long work, that files can be written to a folder, which need not exist yet; nothing is left there.

    Raises:
        DualTaskError: when they cannot.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "choose another folder, or check your permissions"
        raise DualTaskError(unwritable(folder, error).what, remedy) from error


def unwritable(path: Path, error: OSError) -> DualTaskError:
    """Describe why a file or folder cannot be written, and what to do; a temporary file is called by its final name."""
    path = path.with_name(_TEMPORARY.sub("", path.name)) if path.name else path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DualTaskError(
            f"{path}: the disk is full",
            "make room, then run it again: a download resumes, and so does a training with --resume",
        )
    remedy = "choose another folder, or check your permissions"
    if error.errno == errno.ENAMETOOLONG:
        remedy = "give the case or the folder a shorter name"
    return DualTaskError(f"{path}: cannot be written ({error.strerror or error})", remedy)
