"""Progress bars that never write to the standard output, so that results can be piped."""

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

_INTERVAL = 0.5  # s between two updates in a notebook


class _Note(ProgressColumn):
    """A column with the note of a task, empty for most tasks."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("note", "")))


class _Hidden(Progress):
    """A bar that counts but is never drawn."""

    def __init__(self) -> None:
        super().__init__(console=Console(stderr=True), auto_refresh=False, disable=True)

    def stop(self) -> None:
        """Write nothing: rich before 14.3 ends even a hidden bar with an empty line."""


class _InNotebook(_Hidden):
    """The current task as one output that is updated, which every front end of Jupyter supports.

    The last state remains visible, as in a terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._output: Any = None  # handle of the output
        self._next = 0.0  # time of the next update

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
        if self._output is None:
            self._output = display(bundle, raw=True, display_id=True)
        else:
            self._output.update(bundle, raw=True)
        self._next = time.monotonic() + _INTERVAL


def _as_output(task: Task) -> dict[str, str]:
    count = f"{task.description} {task.completed:.0f}/{task.total:.0f}" if task.total else task.description
    left = "" if task.finished or task.time_remaining is None else f"about {task.time_remaining:.0f} s left"
    text = ", ".join(part for part in (count, str(task.fields.get("note", "")), left) if part)
    bar = f'<progress max="{task.total or 1}" value="{task.completed}"></progress>'
    return {"text/html": f"<label>{bar} {html.escape(text)}</label>", "text/plain": text}


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Progress]:
    """Show a bar with count and remaining time, followed by the ``note`` field of the task if it has one.

    The bar is drawn on standard error when that is a terminal, and as an output of the cell in a notebook. A log file
    gets no control characters, even when colours are forced.
    """
    bar = _Hidden() if not shown else _InNotebook() if in_kernel() else _on_terminal()
    with bar:
        yield bar


def _on_terminal() -> Progress:
    if not sys.stderr.isatty():
        return _Hidden()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), _Note())
    return Progress(*columns, console=Console(stderr=True))
