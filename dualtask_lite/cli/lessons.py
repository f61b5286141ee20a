"""``dualtask lessons``: the notebooks that belong to the installed version."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import AsJson, app, check_folder_name, counted, out, print_json
from dualtask_lite.files import whole_file
from dualtask_lite.resources import lessons_folder


@app.command()
def lessons(
    folder: Annotated[Path, typer.Argument(callback=check_folder_name, help="Folder; created if it does not exist.")],
    solutions: Annotated[bool, typer.Option("--solutions", help="Also the notebooks with solutions.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the notebooks of the installed version. Existing files are not changed."""
    source = lessons_folder()
    patterns = ("[0-9][0-9]*_*.ipynb", "glossary.md", *(("solutions/*.ipynb",) if solutions else ()))
    written, kept = [], []
    for path in sorted(path for pattern in patterns for path in source.glob(pattern)):
        target = folder / path.relative_to(source)
        if target.exists():
            kept.append(str(target))
            continue
        with whole_file(target) as temporary:
            shutil.copyfile(path, temporary)
        written.append(str(target))
    if as_json:
        print_json({"written": written, "kept": kept})
        return
    unchanged = f"; kept {counted(len(kept), 'file')} that existed" if kept else ""
    out.print(f"wrote {counted(len(written), 'file')} to {folder}{unchanged}", markup=False, highlight=False)
    out.print(f"open them with: jupyter lab {shlex.quote(str(folder))}", markup=False, highlight=False)
