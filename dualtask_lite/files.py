"""Writing files whole or not at all, and saying so when they cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualtask_lite.errors import DualTaskError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour of ``path`` to write to; it takes the name only when the block succeeds.

    So a reader never meets half a file, also after a power cut: what is written is flushed before it is renamed.
    Missing folders are made.

    Raises:
        DualTaskError: when the file cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix tells some writers the format
    with report_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote a ``whole_file`` left in a folder of one writer."""
    for left in folder.glob(".*.*"):
        if left.name.split(".")[1].isdigit():
            left.unlink(missing_ok=True)


def move_into(source: Path, target: Path) -> None:
    """Move what a folder holds into another, whole folders where the other has none of the name."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            move_into(path, place)
        else:
            path.replace(place)


@contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turn what a system says of a write that failed into a message with a remedy.

    Raises:
        DualTaskError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> DualTaskError:
    """The message for a file or folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DualTaskError(
            f"{path}: the disk is full",
            "make room, then run it again: a download goes on, and so does a training with --resume",
        )
    return DualTaskError(
        f"{path}: cannot be written ({error.strerror or error})", "choose another folder, or check your rights to it"
    )
