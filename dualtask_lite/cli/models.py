"""``dualtask models``."""

from __future__ import annotations

import typer

from dualtask_lite.cli.shared import AsJson, app, print_json, print_table
from dualtask_lite.resources import REFERENCE_NOTE


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the small reference models of the kit; every command that takes a model accepts their names."""
    from dualtask_lite.engine.reference import model_rows

    rows = model_rows()
    if as_json:
        print_json({"models": rows, "note": REFERENCE_NOTE})
        return
    print_table(rows)
    typer.echo(f"note: {REFERENCE_NOTE}", err=True)
