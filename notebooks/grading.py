"""The lessons in the form of nbgrader: sources from which it makes, collects and grades assignments.

    build/nbgrader/nbgrader_config.py           the instructor's settings; written once
    build/nbgrader/dualtask_grading.py          what these assignments need; the former loads it
    build/nbgrader/source/NN_name/NN_name.ipynb

An exercise's blank and its solution become one cell, of which nbgrader removes the solution; the cell that checks it
becomes a locked test of one point. The cell with the parameters is locked too: learners may change it, but grading runs
with those of the release, because a folder of the learner does not exist there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

INSTRUCTORS_CONFIG = """# Your settings of nbgrader for this course, such as the exchange; run nbgrader in this folder.
# `make nbgrader` leaves this file as it is.
c = get_config()  # noqa: F821
load_subconfig("dualtask_grading.py")  # noqa: F821
"""
CONFIG = """# What the assignments of `make nbgrader` need; it writes this file anew. Yours is nbgrader_config.py.
from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute, OverwriteCells

MOST_TEXT = 1_000_000  # characters that a cell may print; the rest is dropped


def check_marks(notebook, resources):
    if not any("grade_id" in cell.metadata.get("nbgrader", {}) for cell in notebook.cells):
        raise ValueError("no cell has a mark of nbgrader, so this is not the notebook that was released")
    # A copied cell, or one from another lesson, has lost its mark here. CheckCellMetadata takes the rest of that mark
    # for one of an older nbgrader, and then no learner is graded.
    for cell in notebook.cells:
        if "grade_id" not in cell.metadata.get("nbgrader", {}):
            cell.metadata.pop("nbgrader", None)
    return notebook, resources


class ExecuteWithLimit(Execute):
    def output(self, outs, msg, display_id, cell_index):
        # A warning costs no point, and nbgrader gives none to a test that prints to stderr: its assertion decides.
        is_test = self.nb.cells[cell_index].metadata.get("nbgrader", {}).get("grade")
        if is_test and msg["content"].get("name") == "stderr":
            return None
        # A cell that prints without end would fill the memory until its time is over.
        if msg["msg_type"] == "stream" and sum(len(out.get("text", "")) for out in outs) > MOST_TEXT:
            return None
        return super().output(outs, msg, display_id, cell_index)


c = get_config()  # noqa: F821
steps = Autograde.sanitize_preprocessors.default()
after = steps.index(OverwriteCells) + 1
c.Autograde.sanitize_preprocessors = [*steps[:after], check_marks, *steps[after:]]
steps = Autograde.autograde_preprocessors.default()
c.Autograde.autograde_preprocessors = [ExecuteWithLimit if step is Execute else step for step in steps]
c.ExecuteWithLimit.raise_on_iopub_timeout = False  # a cell that prints without end is interrupted; the rest is graded
c.CourseDirectory.course_id = "dualtask-lite"
c.ClearSolutions.code_stub = {
    "python": "# Put your answer in place of the three dots, as code that computes it: grading runs it again."
}
c.LockCells.lock_readonly_cells = False  # learners may change the parameters; grading takes those of the release
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
        if "parameters" in tags:
            cell.metadata["nbgrader"] = _mark("parameters", solution=False, grade=False)
        if "check" in tags:
            number, answer = re.findall(r'check\("([\w.]+)", (\w+)\)', cell.source)[0]
            name = number.replace(".", "-")
            cells[-1].metadata["nbgrader"] = _mark(f"answer-{name}", solution=True, grade=False)
            cell.metadata["nbgrader"] = {**_mark(f"check-{name}", solution=False, grade=True), "points": 1}
            tags.append("raises-exception")  # an exercise that is not attempted does not end "Run All Cells"
            cell.source = (
                "from dualtask_lite.show.lesson import check  # also where the notebook has another check\n\n"
                # Displayed, because nbgrader takes the value of a test for partial credit.
                f'verdict = check("{number}", {answer})\ndisplay(verdict)\nassert verdict.state == "right", verdict'
            )
        cells.append(cell)
    notebook.cells = cells
    return notebook


def _mark(name: str, *, solution: bool, grade: bool) -> dict[str, Any]:
    """What nbgrader knows of a cell: one to fill in, or one that it takes from the release."""
    return {
        "schema_version": 3,
        "task": False,
        "solution": solution,
        "grade": grade,
        "locked": not solution,
        "grade_id": name,
    }


def write_course(folder: Path, notebooks: Mapping[str, NotebookNode], glossary: Path) -> None:
    """Write the sources of all assignments anew, and the settings; the instructor's and what was handed in stay.

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
    (folder / "dualtask_grading.py").write_text(CONFIG, encoding="utf-8")
    if not (folder / "nbgrader_config.py").exists():
        (folder / "nbgrader_config.py").write_text(INSTRUCTORS_CONFIG, encoding="utf-8")
    print(f"{len(notebooks)} assignments in {folder}; there: nbgrader generate_assignment NAME")
