"""The lessons in the form of nbgrader: sources from which it makes, collects and grades assignments.

    build/nbgrader/nbgrader_config.py
    build/nbgrader/source/NN_name/NN_name.ipynb

An exercise's blank and its solution become one cell, of which nbgrader removes the solution; the cell that checks it
becomes a locked test of one point.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

CONFIG = """# Settings of nbgrader for the course that `make nbgrader` made; run nbgrader in this folder.
from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute, OverwriteCells

MOST_TEXT = 1_000_000  # characters that a cell may print; the rest is dropped


def drop_broken_marks(notebook, resources):
    # A copied cell, or one from another lesson, has lost its mark here. CheckCellMetadata takes the rest of that mark
    # for one of an older nbgrader, and then no learner is graded.
    for cell in notebook.cells:
        if "grade_id" not in cell.metadata.get("nbgrader", {}):
            cell.metadata.pop("nbgrader", None)
    return notebook, resources


class ExecuteWithLimit(Execute):
    # A cell that prints without end would fill the memory until its time is over.
    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream" and sum(len(out.get("text", "")) for out in outs) > MOST_TEXT:
            return None
        return super().output(outs, msg, display_id, cell_index)


c = get_config()  # noqa: F821
steps = Autograde.sanitize_preprocessors.default()
after = steps.index(OverwriteCells) + 1
c.Autograde.sanitize_preprocessors = [*steps[:after], drop_broken_marks, *steps[after:]]
steps = Autograde.autograde_preprocessors.default()
c.Autograde.autograde_preprocessors = [ExecuteWithLimit if step is Execute else step for step in steps]
c.ExecuteWithLimit.raise_on_iopub_timeout = False  # a cell that prints without end is interrupted; the rest is graded
c.CourseDirectory.course_id = "dualtask-lite"
c.ClearSolutions.code_stub = {"python": "# Put your answer in place of the three dots."}
c.ExecutePreprocessor.timeout = 600  # seconds a cell; a whole lesson takes less than a minute on two free cores
"""


def as_assignment(notebook: NotebookNode) -> NotebookNode:
    """Mark the answers and the checks of a notebook that has the cells ``blank`` and ``solution``.

    Args:
        notebook: of ``build.make_notebook``; it is changed.
    """
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            cells[-1].source += f"\n### BEGIN SOLUTION\n{cell.source}\n### END SOLUTION"
            continue
        if "check" in tags:
            number, answer = re.findall(r'check\("([\w.]+)", (\w+)\)', cell.source)[0]
            cells[-1].metadata["nbgrader"] = _mark(number, solution=True)
            cell.metadata["nbgrader"] = _mark(number, solution=False)
            cell.source = (
                "from dualtask_lite.show.lesson import check  # also where the notebook has another check\n\n"
                f'verdict = check("{number}", {answer})\nassert verdict.state == "right", verdict\nverdict'
            )
        cells.append(cell)
    notebook.cells = cells
    return notebook


def _mark(number: str, *, solution: bool) -> dict[str, Any]:
    name = number.replace(".", "-")
    mark = {"schema_version": 3, "task": False, "solution": solution, "grade": not solution, "locked": not solution}
    return {**mark, "grade_id": f"answer-{name}"} if solution else {**mark, "grade_id": f"check-{name}", "points": 1}


def write_course(folder: Path, notebooks: Mapping[str, NotebookNode], glossary: Path) -> None:
    """Write the sources of all assignments and the settings; what learners handed in there stays.

    Args:
        folder: of the course.
        notebooks: by the name of the lesson, with the cells ``blank`` and ``solution``.
        glossary: linked by each lesson.
    """
    for name, notebook in notebooks.items():
        assignment = folder / "source" / name
        assignment.mkdir(parents=True, exist_ok=True)
        nbformat.write(as_assignment(notebook), assignment / f"{name}.ipynb")
        shutil.copyfile(glossary, assignment / glossary.name)
    (folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    print(f"{len(notebooks)} assignments in {folder}; there: nbgrader generate_assignment NAME")
