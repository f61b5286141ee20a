"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour of ``path`` to write to; it takes the name only when the block succeeds.

    So a reader never meets half a file, also after a power cut: what is written is flushed before it is renamed.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix tells some writers the format
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
