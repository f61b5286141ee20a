"""Progress bars that leave the standard output free, so that results can be piped."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dualtask_lite.machine import in_kernel

_PAUSE = 0.5  # s between two drawings in a notebook


class _Note(ProgressColumn):
    """What a task has to say beside its count; most say nothing."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("note", "")))


class _Hidden(Progress):
    """A bar that rich counts and does not draw."""

    def __init__(self) -> None:
        super().__init__(console=Console(stderr=True), auto_refresh=False, disable=True)

    def stop(self) -> None:
        """Write nothing: rich before 14.3 ends also a hidden bar with an empty line."""


class _InNotebook(_Hidden):
    """The task at work as an output that is replaced, which every front end of Jupyter can do.

    The last state stays, as in a terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None  # handle of the output
        self._next = 0.0  # when to draw again

    def update(self, *args: Any, **fields: Any) -> None:
        super().update(*args, **fields)
        self.refresh()

    def advance(self, *args: Any, **fields: Any) -> None:
        super().advance(*args, **fields)
        self.refresh()

    def stop(self) -> None:
        self._next = 0.0
        self.refresh()

    def refresh(self) -> None:
        if not self.tasks or time.monotonic() < self._next:
            return
        from IPython.display import display

        bundle = _as_output(self.tasks[-1])
        if self._shown is None:
            self._shown = display(bundle, raw=True, display_id=True)
        else:
            self._shown.update(bundle, raw=True)
        self._next = time.monotonic() + _PAUSE


def _as_output(task: Task) -> dict[str, str]:
    count = f"{task.description} {task.completed:.0f}/{task.total:.0f}" if task.total else task.description
    left = "" if task.finished or task.time_remaining is None else f"about {task.time_remaining:.0f} s left"
    words = ", ".join(part for part in (count, str(task.fields.get("note", "")), left) if part)
    bar = f'<progress max="{task.total or 1}" value="{task.completed}"></progress>'
    return {"text/html": f"<label>{bar} {html.escape(words)}</label>", "text/plain": words}


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Progress]:
    """A bar with count and time left; a ``note`` field of a task, when it has one, is shown behind it.

    It draws on standard error where somebody watches a terminal, and as an output of the cell in a notebook. A log gets
    no control characters, also when it asks for colours.
    """
    bar = _Hidden() if not shown else _InNotebook() if in_kernel() else _on_terminal()
    with bar:
        yield bar


def _on_terminal() -> Progress:
    if not sys.stderr.isatty():
        return _Hidden()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), _Note())
    return Progress(*columns, console=Console(stderr=True))
