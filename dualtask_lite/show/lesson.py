"""What every lesson needs around its subject: the code that it teaches, a folder, and the record of its run.

The checks of its exercises come from ``exercises``; a lesson imports all of it from here.
"""

from __future__ import annotations

import html
import inspect
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dualtask_lite.errors import DualTaskError
from dualtask_lite.machine import peak_memory_mb
from dualtask_lite.show.exercises import check, choice, outcome
from dualtask_lite.show.table import Table

__all__ = [
    "MANIFEST_TYPE",
    "Manifest",
    "Source",
    "check",
    "choice",
    "new_folder",
    "outcome",
    "run_manifest",
    "show_source",
]

MANIFEST_TYPE = "application/vnd.dualtask.manifest+json"
_STARTED = time.monotonic()
# Classes of Pygments, by their first letters -> the colour that JupyterLab's theme gives to such words.
_WORDS = {"k": "keyword", "ow": "keyword", "s": "string", "c": "comment", "m": "number", "nb": "builtin", "nf": "def"}


@dataclass(frozen=True)
class Source:
    """The code of something in the package, as its file holds it."""

    where: str
    code: str

    def __str__(self) -> str:
        return f"{self.where}\n{self.code}"

    def to_html(self) -> str:
        """Write it in the colours of the page's theme; a long line goes on below, and is broken between words."""
        from pygments import highlight  # comes with IPython
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer

        rules = (
            f'.dualtask-source [class^="{start}"] {{ color: var(--jp-mirror-editor-{colour}-color, inherit) }}'
            for start, colour in _WORDS.items()
        )
        code = highlight(self.code, PythonLexer(), HtmlFormatter(nowrap=True))
        style = "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; margin: 1em 1.5em"
        return (
            f'<style>{" ".join(rules)}</style><div class="dualtask-source"><code>{html.escape(self.where)}</code>'
            f'<pre style="{style}">{code}</pre></div>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": str(self)}


def show_source(thing: Callable[..., Any]) -> Source:
    """Show the code behind a function or class: a lesson imports what it teaches, and hides nothing.

    Args:
        thing: a function or class of this package.
    """
    lines, first = inspect.getsourcelines(thing)
    module = inspect.getmodule(thing)
    name = module.__name__ if module else Path(inspect.getfile(thing)).name
    return Source(f"{name}, line {first}", "".join(lines))


def new_folder(lesson: str) -> Path:
    """Make a folder for what a run of a lesson leaves: nobody else's, also when a room shares one machine.

    It lies in ``runs`` beside the notebook; where that is read-only, as in a shared course folder, in
    ``dualtask-runs`` at home.

    Args:
        lesson: its number, which starts the folder's name.

    Raises:
        DualTaskError: when neither can be written.
    """
    prefix = f"{lesson}-{time.strftime('%Y%m%d-%H%M%S')}-"
    places = (Path("runs"), Path.home() / "dualtask-runs")
    for place in places:
        try:
            place.mkdir(exist_ok=True)
            return place / Path(tempfile.mkdtemp(prefix=prefix, dir=place)).name  # absolute from Python 3.12 on
        except OSError:
            continue
    raise DualTaskError(f"neither {places[0].absolute()} nor {places[1]} can be written", "free some space at home")


@dataclass(frozen=True)
class Manifest:
    """With what a lesson was run, how long it took, and what came out.

    ``seconds`` count from the import of this module; ``peak_memory_mb`` is the process's (None on Windows).
    """

    parameters: dict[str, Any]
    results: dict[str, Any]
    seconds: float
    peak_memory_mb: float | None
    versions: dict[str, str]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        groups = {"parameter": self.parameters, "result": self.results, "version": self.versions}
        rows = [
            {"what": f"{kind}: {name}", "value": v} for kind, values in groups.items() for name, v in values.items()
        ]
        rows += [
            {"what": "seconds", "value": self.seconds},
            {"what": "peak memory (MB)", "value": self.peak_memory_mb},
        ]
        return Table(rows, "Run manifest", digits=3)._repr_mimebundle_() | {
            MANIFEST_TYPE: json.loads(json.dumps(vars(self)))
        }


def run_manifest(parameters: dict[str, Any], **results: Any) -> Manifest:
    """Record how a lesson was run; its last cell.

    Args:
        parameters: what it was run with.
        results: plain numbers, text, lists and dicts that say what came out, for tests and the index page.
    """
    versions = {name: metadata.version(name) for name in ("dualtask-lite", "torch", "monai", "numpy")}
    versions["python"] = platform.python_version()
    return Manifest(parameters, results, round(time.monotonic() - _STARTED, 1), peak_memory_mb(), versions)
