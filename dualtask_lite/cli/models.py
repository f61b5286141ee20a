"""``dualtask models``."""

from __future__ import annotations

import typer

from dualtask_lite.cli.shared import AsJson, app, print_json, print_table
from dualtask_lite.resources import KNOWS


@app.command()
def models(as_json: AsJson = False) -> None:
    """The small reference models that come with the kit; their names work wherever a run folder does."""
    from dualtask_lite.engine.reference import described

    rows = described()
    if as_json:
        print_json({"models": rows, "note": KNOWS})
        return
    print_table(rows)
    typer.echo(f"note: {KNOWS}", err=True)
