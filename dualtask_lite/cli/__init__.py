"""The command line ``dualtask``.

Results go to standard output (``--json`` for machines), progress bars to standard error. Exit 0: done; 1: an error
that the user can fix, described in one line; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import typer

# Each module adds its commands, in the order in which --help lists them.
# isort: off
from dualtask_lite.cli import doctor, viewers, data, train, predict, evaluate, report, board  # noqa: F401
from dualtask_lite.cli import export, models, bench, lessons  # noqa: F401

# isort: on
from dualtask_lite.cases.paths import printable
from dualtask_lite.cli.shared import app
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import unwritable

__all__ = ["app", "main"]

_HOME = re.compile(r"^(--[\w-]+=)~(?=/|$)")  # after "=" no shell replaces it


def main() -> None:
    """Run a command; an error that the user can fix is one line, with a traceback only after ``--debug``."""
    _make_output_safe()
    sys.argv[1:] = [_HOME.sub(lambda option: option[1] + str(Path.home()), word) for word in sys.argv[1:]]
    try:
        app()
    except DualTaskError as error:
        if os.environ.get("DUALTASK_DEBUG"):
            raise
        _end(str(error))
    except OSError as error:  # for example standard output on a full disk
        if os.environ.get("DUALTASK_DEBUG"):
            raise
        remedy = "free some disk space, or check your permissions"
        _end(str(unwritable(Path(error.filename), error)) if error.filename else f"{error}; {remedy}")
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, as typer passes it on
            training = sys.argv[1:2] == ["train"]
            typer.echo(f"interrupted{'; continue with dualtask train --resume RUN' if training else ''}", err=True)
        raise


def _make_output_safe() -> None:
    """Escape characters that the terminal cannot show, and discard output to a closed stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(message: str) -> None:
    typer.echo(f"error: {printable(message)}", err=True)
    sys.exit(1)
