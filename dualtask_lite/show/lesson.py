"""Tools of every lesson: source code, a folder for its files, the record of its run, and checks of its exercises.

The checks come from ``exercises``; a lesson imports all of them from this module.
"""

from __future__ import annotations

import ast
import html
import inspect
import json
import platform
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dualtask_lite.errors import DualTaskError
from dualtask_lite.machine import peak_memory_mb
from dualtask_lite.resources import expand_home
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
# Start of the name of a token class of Pygments -> its colour in the theme of JupyterLab.
_TOKEN_COLOURS = {
    "k": "keyword",
    "ow": "keyword",
    "s": "string",
    "c": "comment",
    "m": "number",
    "nb": "builtin",
    "nf": "def",
}


@dataclass(frozen=True)
class Source:
    """Source code of a function or class of the package."""

    where: str
    code: str

    def __str__(self) -> str:
        return f"{self.where}\n{self.code}"

    def to_html(self) -> str:
        """Write the code in the colours of the page's theme, and its docstring folded below it."""
        rules = (
            f'.dualtask-source [class^="{start}"] {{ color: var(--jp-mirror-editor-{colour}-color, inherit) }}'
            for start, colour in _TOKEN_COLOURS.items()
        )
        code, docstring = _without_docstring(self.code)
        folded = f"<details><summary>Its docstring</summary>{_coloured(docstring)}</details>" if docstring else ""
        return (
            f'<style>{" ".join(rules)}</style><div class="dualtask-source"><code>{html.escape(self.where)}</code>'
            f"{_coloured(code)}{folded}</div>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": str(self)}


def _without_docstring(code: str) -> tuple[str, str]:
    """Split the source of a function or class into the code without its docstring, and the lines of the docstring."""
    first = ast.parse(textwrap.dedent(code)).body[0].body[0]  # type: ignore[attr-defined]
    if not (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    ):
        return code, ""
    lines = code.splitlines(keepends=True)
    start, end = first.lineno - 1, first.end_lineno or first.lineno
    return "".join(lines[:start] + lines[end:]), "".join(lines[start:end])


def _coloured(code: str) -> str:
    """Write code with a class for each kind of word; long lines are wrapped between words."""
    from pygments import highlight  # comes with IPython
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    style = "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; margin: 1em 1.5em"
    return f'<pre style="{style}">{highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))}</pre>'


def show_source(thing: Callable[..., Any]) -> Source:
    """Show the source code of a function or class that a lesson imports.

    Args:
        thing: a function or class of this package.
    """
    lines, first = inspect.getsourcelines(thing)
    module = inspect.getmodule(thing)
    name = module.__name__ if module else Path(inspect.getfile(thing)).name
    return Source(f"{name}, line {first}", "".join(lines))


def new_folder(lesson: str) -> Path:
    """Create a new folder for the files of one run of a lesson, also when a class shares one machine.

    It is in ``runs`` beside the notebook or, if that is read-only, as in a shared course folder, in
    ``dualtask-runs`` in the home folder.

    Args:
        lesson: its number, with which the name of the folder starts.

    Raises:
        DualTaskError: when both are read-only.
    """
    prefix = f"{lesson}-{time.strftime('%Y%m%d-%H%M%S')}-"
    folders = (Path("runs"), expand_home("~/dualtask-runs"))
    for folder in folders:
        if folder.parts[0] == "~":  # this user has no home
            continue
        try:
            folder.mkdir(exist_ok=True)
            return folder / Path(tempfile.mkdtemp(prefix=prefix, dir=folder)).name  # absolute from Python 3.12 on
        except OSError:
            continue
    raise DualTaskError(
        f"neither {folders[0].absolute()} nor {folders[1]} can be written", "free some space in the home folder"
    )


@dataclass(frozen=True)
class Manifest:
    """Record of one run of a lesson: parameters, results, time, memory and versions.

    ``seconds`` count from the import of this module; ``peak_memory_mb`` is that of the process (None on Windows).
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
    """Record the run of a lesson, in its last cell.

    Args:
        parameters: of the run.
        results: plain numbers, text, lists and dicts, for tests and the index page.
    """
    versions = {name: metadata.version(name) for name in ("dualtask-lite", "torch", "monai", "numpy")}
    versions["python"] = platform.python_version()
    return Manifest(parameters, results, round(time.monotonic() - _STARTED, 1), peak_memory_mb(), versions)
