"""``dualtask doctor``."""

from __future__ import annotations

import typer

from dualtask_lite.cli.shared import AsJson, app, out, print_json


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine has, which profile fits, and whether the 3D viewers work; exit 1 if a check FAILs."""
    from dualtask_lite.engine.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.as_dict())
    else:
        out.print(diagnosis.as_text(), markup=False, highlight=False)
    if not diagnosis.ok:
        raise typer.Exit(1)
