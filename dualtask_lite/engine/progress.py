"""Progress bars on the standard error stream, so that results can be piped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Progress]:
    """A bar with count and time left; a ``note`` field of a task is shown behind it.

    It draws only where somebody watches a terminal: a log or a notebook gets no control characters.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        yield bar
