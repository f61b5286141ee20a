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
    part: Annotated[str, typer.Argument(help="pipeline, step, predict, start or all.")] = "all",
    profile: Profile = "laptop",
    assignments: Assignments = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="JSON file; default runs/bench-PROFILE.json. An interrupted benchmark continues."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="With the part all: minutes to spend. Runs the GPU tests as well, and in the time left a table of "
            "arms on new patients of hospital D; -o names a folder.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the speed and memory of samples, a training step and a prediction on this machine.

    With --minutes, measure everything that a short loan of a card can answer; the same command continues an
    interrupted one. The part start measures the time from the cases of data.source to the first step of a training.
    """
    from dualtask_lite.engine import bench as engine
    from dualtask_lite.engine.config import parse_assignments

    command = shlex.join(["dualtask", *sys.argv[1:]])
    if minutes is not None:
        from dualtask_lite.engine.bench.card import measure_card

        if part != "all":
            raise DualTaskError(
                "--minutes belongs to the part all", f"leave it out, or write bench all instead of {part}"
            )
        folder = file or Path("runs") / f"card-{profile}"
        report = measure_card(profile, parse_assignments(assignments or []), folder, minutes=minutes, command=command)
        if as_json:
            print_json(report)
        else:
            print_table(engine.rows(report["bench"]))
            out.print(f"wrote {folder}", markup=False, highlight=False)
        return

    if part != "all" and part not in engine.PARTS:
        raise DualTaskError(f"there is no part {part!r}", f"choose from: {', '.join(engine.PARTS)}, all")
    where = file or Path("runs") / f"bench-{profile}.json"
    results = engine.bench(
        list(engine.ALL) if part == "all" else [part],
        profile,
        parse_assignments(assignments or []),
        where,
        command=command,
    )
    if as_json:
        print_json(results)
        return
    print_table(engine.rows(results))
    out.print(f"{results['device']}; wrote {where}", markup=False, highlight=False)
