"""Shared by all commands: the application, common options, printing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dualtask_lite import __version__
from dualtask_lite.cases.paths import printable
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import REFERENCE_NOTE, is_reference

if TYPE_CHECKING:  # torch and MONAI take seconds to import: each command imports what it needs
    from dualtask_lite.engine.run import Model

app = typer.Typer(
    help="Dual-task segmentation and distance regression of the pancreas and its tumours in CT: train on some "
    "hospitals, test on another one. For teaching and research, not for diagnosis.",
    epilog="Start with: dualtask doctor; dualtask train --held-out C --stage pancreas-coarse --stage tumour-coarse; "
    "dualtask evaluate runs/laptop-cascade",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", help="pancreas-coarse, pancreas-fine, tumour-coarse or tumour-fine; repeat for a cascade."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as optimiser.steps=50; may be repeated."),
]
MODEL_HELP = "Run folder, .safetensors file, folder of a cascade, or reference (see dualtask models; ./NAME: a folder)"
Profile = Annotated[str, typer.Option(help="laptop, reference, colab, gpu or paper.")]
out = Console(soft_wrap=True, width=None if sys.stdout and sys.stdout.isatty() else 200)  # no line breaks in a pipe
_FILES = (".nii", ".nii.gz", ".mha", ".nrrd", ".dcm", ".json", ".csv", ".png", ".html", ".yaml")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dualtask-lite {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]


@app.callback()
def _options(debug: Debug = False, version: Version = False) -> None:
    if debug:
        os.environ["DUALTASK_DEBUG"] = "1"


def models_of(device: str, *models: str) -> list[Model]:
    """Load the trained stages of run folders and reference models onto a device, as one cascade of distinct stages."""
    from dualtask_lite.engine.predict import in_cascade_order
    from dualtask_lite.engine.run import load_models
    from dualtask_lite.engine.training.devices import pick_device

    device = pick_device(device)
    stages = [stage for model in models for stage in load_models(model, device)]
    if any(is_reference(model) for model in models):
        typer.echo(f"note: {REFERENCE_NOTE}", err=True)
    return in_cascade_order(stages)


def check_folder_name(path: Path | None) -> Path | None:
    """Refuse the name of a file as an output folder: the callback of ``--out``."""
    if path and (path.is_file() or path.name.lower().endswith(_FILES)):
        raise DualTaskError(f"{path}: is the name of a file", "give the name of a folder")
    return path


def print_line(line: str) -> None:
    """Print one line without markup, with special characters in file names escaped."""
    out.print(printable(line), markup=False, highlight=False)


def print_json(content: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(content, indent=2, default=str))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table with a column for each key, in order of first use; a row without a key leaves its cell empty."""
    if not rows:
        return
    table, names = Table(), list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:  # as Text, because brackets in the name of a file are not markup
        table.add_row(*(Text(printable(str(row.get(name, "")))) for name in names))
    out.print(table, soft_wrap=False)
