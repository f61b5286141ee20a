"""``dualtask report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import AsJson, app, out, print_json


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Run folder, the folder of a cascade, or a reference model.")],
    file: Annotated[Path | None, typer.Option("--out", "-o", help="The page; default RUN/report.html.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Where the evaluated cases are; default: where dualtask evaluate found them."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page of a run: curves, table, best and worst case, warnings, manifest."""
    from dualtask_lite.engine.judging.report import collect
    from dualtask_lite.files import check_writable, whole_file
    from dualtask_lite.resources import run_folder
    from dualtask_lite.show.report.contents import Report
    from dualtask_lite.show.report.page import to_html

    folder = run_folder(run)
    path = file or folder / "report.html"
    check_writable(path.parent)
    contents = Report.from_values(collect(folder, source, device))
    page = to_html(contents)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    size = len(page.encode())
    if as_json:
        print_json({"report": str(path), "bytes": size, "missing": dict(contents.missing)})
        return
    for note in contents.missing.values():
        typer.echo(f"note: {note}", err=True)
    out.print(f"wrote {path} ({size / 1e6:.1f} MB)", markup=False, highlight=False)
