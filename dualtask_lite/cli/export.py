"""``dualtask export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import MODEL_HELP, AsJson, app, check_folder_name, models_of, out, print_json


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(help=f"{MODEL_HELP}."),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", callback=check_folder_name, help="New folder for the bundle.")],
    as_json: AsJson = False,
) -> None:
    """Write a MONAI bundle that ``python -m monai.bundle run`` executes, with the same mask as predict."""
    from dualtask_lite.engine.export import export_bundle

    models = models_of("cpu", model)
    export_bundle(models, folder)
    if as_json:
        print_json({"bundle": str(folder), "stages": [one.settings.stage for one in models]})
        return
    out.print(f"wrote {folder}; see {folder / 'docs' / 'README.md'} for how to run it", markup=False, highlight=False)
