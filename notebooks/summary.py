"""One page of the whole course: its best figures, and what is known of the claim after each lesson."""

from __future__ import annotations

import re
from collections.abc import Iterable

import nbformat
from nbformat import NotebookNode
from slides import KNOWN

from dualtask_lite.show.picture import BOX

#: Tag of the cells whose picture stands on the page.
TAG = "summary"
CLAIM = (
    "A paper claims, as this course reads it, 9.5 points more Dice with its method than without it, on tumours of a "
    "hospital that was not in the training. The course rebuilds the method and tests that."
)
STYLE = """<style>
@page { size: A4 landscape; margin: 8mm; }
body { max-width: 1400px; }
main { columns: 3; column-gap: 2em; --jp-content-font-size1: 12px; }
main > * { break-inside: avoid; }
.jp-CodeCell .jp-Cell-inputWrapper, .jp-InputPrompt, .jp-OutputPrompt { display: none; }
img { max-width: 100%; min-width: 0 !important; }
h1 { font-size: 1.8em !important; } h2 { font-size: 1.15em !important; margin: 0.6em 0 0.2em !important; }
ul, p { margin: 0.2em 0 !important; }
@media print { main { --jp-content-font-size1: 8px; } img { max-height: 42mm; } }
@media screen and (max-width: 900px) { main { columns: 1; } }
</style>"""


def summary(lessons: Iterable[tuple[str, NotebookNode]]) -> NotebookNode:
    """Collect the page from executed lessons.

    Args:
        lessons: the name and the notebook of each.
    """
    cells = [nbformat.v4.new_markdown_cell(f"{STYLE}\n\n# Dual-Task Lite in one page\n\n**The claim.** {CLAIM}")]
    for name, notebook in lessons:
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        cells.append(nbformat.v4.new_markdown_cell(f"## [{title}]({name}.ipynb)\n\n{known(notebook)}"))
        for cell in notebook.cells:
            if TAG in cell.metadata.get("tags", []):
                pictures = [o for o in cell.outputs if o.get("data", {}).get("text/html", "").startswith(BOX)]
                cells.append(nbformat.v4.new_code_cell(outputs=pictures))
    return nbformat.v4.new_notebook(cells=cells)


def known(notebook: NotebookNode) -> str:
    """Find what a lesson says is known at its end: the text, and what a cell in that section prints."""
    found: list[str] = []
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if f"## {KNOWN}" in cell.source:
                inside, text = True, cell.source.split(f"## {KNOWN}")[1]
            else:
                text = cell.source
            if inside:
                here, *after = re.split(r"^## ", text, flags=re.M)
                found.append(here.strip())
                inside = not after
        elif inside:
            found += [output.text.strip() for output in cell.outputs if output.output_type == "stream"]
    return "\n\n".join(found)
