"""``dualtask lessons``: the notebooks that belong to the installed version."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import AsJson, app, check_folder_name, out, print_json
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.resources import lessons_folder
from dualtask_lite.words import counted


@app.command()
def lessons(
    folder: Annotated[Path, typer.Argument(callback=check_folder_name, help="Folder; created if it does not exist.")],
    solutions: Annotated[bool, typer.Option("--solutions", help="Also the notebooks with solutions.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the notebooks of the installed version. Existing files are not changed."""
    source = lessons_folder()
    solved = sorted(source.glob("solutions/[0-9][0-9]*_*.ipynb"))
    blank = [source / path.name for path in solved]  # by these names: a copy in a clone is not a lesson
    _refuse_notebooks_that_were_run(blank)
    written, kept = [], []
    for path in (*blank, source / "glossary.md", *(solved if solutions else ())):
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


def _refuse_notebooks_that_were_run(notebooks: list[Path]) -> None:
    """In a clone the lessons may hold the answers of whoever worked in them."""
    for path in notebooks:
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError, LookupError, TypeError) as error:  # such as a clone in the middle of a merge
            raise DualTaskError(f"{path}: is missing or damaged", "restore the lesson with make notebooks") from error
        if any(cell.get("outputs") or cell.get("execution_count") for cell in cells):
            raise DualTaskError(
                f"{path}: was run, so it may hold answers",
                "save your work elsewhere, and restore the lesson with make notebooks",
            )
