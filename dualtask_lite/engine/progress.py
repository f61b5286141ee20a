"""Progress bars on the standard error stream, so that results can be piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Note(ProgressColumn):
    """What a task has to say beside its count; most say nothing."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("note", "")))


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Progress]:
    """A bar with count and time left; a ``note`` field of a task, when it has one, is shown behind it.

    It draws only where somebody watches a terminal: a log or a notebook gets no control characters, also when it asks
    for colours (Jupyter sets ``FORCE_COLOR``).
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        _Note(),
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
    )
    with bar:
        yield bar
