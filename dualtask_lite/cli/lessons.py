"""``dualtask lessons``: the notebooks that belong to the installed version."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import AsJson, app, insist_on_folder, out, print_json
from dualtask_lite.resources import lessons_folder


@app.command()
def lessons(
    folder: Annotated[Path, typer.Argument(callback=insist_on_folder, help="Where to write them; made if missing.")],
    solutions: Annotated[bool, typer.Option("--solutions", help="Also those with the exercises solved.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the lessons' notebooks, as they belong to this version. Files that are there already stay as they are."""
    source = lessons_folder()
    patterns = ("[0-9][0-9]*_*.ipynb", "glossary.md", *(("solutions/*.ipynb",) if solutions else ()))
    written, kept = [], []
    for path in sorted(path for pattern in patterns for path in source.glob(pattern)):
        target = folder / path.relative_to(source)
        if target.exists():
            kept.append(str(target))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        written.append(str(target))
    if as_json:
        print_json({"written": written, "kept": kept})
        return
    stay = f"; {len(kept)} that were there stay as they are" if kept else ""
    out.print(f"wrote {len(written)} files to {folder}{stay}", markup=False, highlight=False)
    out.print(f"open them with: jupyter lab {folder}", markup=False, highlight=False)
