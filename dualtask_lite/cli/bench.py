"""``dualtask bench``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import AsJson, Assignments, Profile, app, out, print_json, print_table
from dualtask_lite.errors import DualTaskError


@app.command()
def bench(
    part: Annotated[str, typer.Argument(help="pipeline, step, predict or all.")] = "all",
    profile: Profile = "laptop",
    assignments: Assignments = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="JSON file; default runs/bench-PROFILE.json. An interrupted benchmark continues."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the speed and memory of samples, a training step and a prediction on this machine."""
    from dualtask_lite.engine import bench as engine
    from dualtask_lite.engine.config import parse_assignments

    if part != "all" and part not in engine.PARTS:
        raise DualTaskError(f"there is no part {part!r}", f"choose from: {', '.join(engine.PARTS)}, all")
    where = file or Path("runs") / f"bench-{profile}.json"
    results = engine.bench(
        list(engine.PARTS) if part == "all" else [part],
        profile,
        parse_assignments(assignments or []),
        where,
        command=shlex.join(["dualtask", *sys.argv[1:]]),
    )
    if as_json:
        print_json(results)
        return
    print_table(engine.rows(results))
    out.print(f"{results['device']}; wrote {where}", markup=False, highlight=False)
