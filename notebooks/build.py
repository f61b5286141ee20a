"""From one source, ``notebooks/source/NN_name.py``, to the notebooks that learners open, and to pages.

    python notebooks/build.py notebooks          write notebooks/*.ipynb and notebooks/solutions/*.ipynb
    python notebooks/build.py demo build/demo    run every solution notebook, make pages and an index

A cell with one of the tags of ``VARIANTS`` is kept in that build only. So an exercise is three cells (its
blank, its solution, a wrong answer that the tests try) and the cell that checks it.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from dualtask_lite.show.lesson import MANIFEST_TYPE
from dualtask_lite.show.table import Table

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "source"
VARIANTS = ("blank", "solution", "wrong")
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

# The page as nbconvert makes it, less what it would load from the network.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>
body { max-width: 1000px; margin: 0 auto; padding: 1em; }
table caption { caption-side: top; text-align: left; font-weight: bold; padding: 0.3em 0; white-space: nowrap; }
</style>{% endblock %}
"""

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dual-Task Lite: the executed lessons</title>
<style>
body {{ font-family: system-ui, sans-serif; max-width: 1000px; margin: 0 auto;
  padding: 1em; line-height: 1.5; }}
article {{ border-top: 1px solid #ccc; padding: 1em 0; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.2em 1em 0.2em 0; text-align: left; vertical-align: top; }}
caption {{ text-align: left; font-weight: bold; }}
</style></head><body>
<h1>Dual-Task Lite: the executed lessons</h1>
<p>Every lesson was run on this machine, with its solutions, on the embedded data.
For teaching and research, not for diagnosis.</p>
{lessons}
<h2>Time and memory</h2>
{times}
<h2>What the lessons left</h2>
<ul>{files}</ul>
</body></html>
"""


@dataclass(frozen=True)
class Executed:
    """A lesson that was run."""

    name: str
    notebook: NotebookNode

    @property
    def title(self) -> str:
        """Its first heading."""
        return self.notebook.cells[0].source.splitlines()[0].lstrip("# ")

    @property
    def summary(self) -> str:
        """The first paragraph below its title."""
        return re.sub(r"[*`]|\[([^]]*)]\([^)]*\)", r"\1", self.notebook.cells[0].source.split("\n\n")[1])

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What its last cell recorded."""
        return next(data[MANIFEST_TYPE] for data in self.outputs() if MANIFEST_TYPE in data)

    @property
    def picture(self) -> str:
        """Its first picture, as an ``img`` element."""
        images = (re.search("<img [^>]*>", data.get("text/html", "")) for data in self.outputs())
        return next((image[0] for image in images if image), "")

    def outputs(self) -> Iterator[Mapping[str, Any]]:
        """Yield what its cells showed, as MIME bundles."""
        for cell in self.notebook.cells:
            for output in cell.get("outputs", []):
                yield output.get("data", {})


def lessons() -> list[Path]:
    """List the sources of all lessons, in order."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.py"))


def make_notebook(source: Path, keep: tuple[str, ...]) -> NotebookNode:
    """Turn a source into a notebook without outputs; of the cells tagged with a variant ``keep`` stays."""
    notebook = jupytext.read(source)
    bootstrap = (SOURCES / "bootstrap.py").read_text(encoding="utf-8").strip()
    cells = []
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if any(tag in VARIANTS and tag not in keep for tag in tags):
            continue
        cell.id = f"{source.stem[:2]}-{number:03d}"
        if "bootstrap" in tags:
            cell.source = bootstrap
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    nbformat.validate(notebook)
    return notebook


def builds() -> dict[Path, str]:
    """Every committed notebook: where it belongs, and its text."""
    texts = {}
    for source in lessons():
        for folder, variant in ((HERE, "blank"), (HERE / "solutions", "solution")):
            notebook = make_notebook(source, (variant,))
            texts[folder / f"{source.stem}.ipynb"] = nbformat.writes(notebook) + "\n"
    return texts


def execute(notebook: NotebookNode, out: Path, parameters: Mapping[str, Any], *, folder: Path) -> NotebookNode:
    """Run a notebook in ``folder`` and keep it, executed, at ``out`` (also when a cell fails)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)
    return papermill.execute_notebook(
        out, out, parameters=dict(parameters), kernel_name=KERNEL["name"], cwd=folder, progress_bar=False
    )


def page(notebook: NotebookNode, title: str) -> str:
    """Make one HTML page that holds everything it shows."""
    loader = DictLoader({"page.html.j2": PAGE})
    exporter = HTMLExporter(extra_loaders=[loader], template_file="page.html.j2", embed_images=True)
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', text)


def demo(folder: Path) -> None:
    """Run every lesson with its solutions and leave executed notebooks, pages and an index in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = []
    for source in lessons():
        print(f"{source.stem} ...", file=sys.stderr, flush=True)
        notebook = make_notebook(source, ("solution",))
        lesson = Executed(source.stem, execute(notebook, folder / f"{source.stem}.ipynb", {}, folder=folder))
        (folder / f"{source.stem}.html").write_text(page(lesson.notebook, lesson.title), encoding="utf-8")
        done.append(lesson)
        print(f"{source.stem}: {seconds(lesson):.0f} s, {lesson.manifest['peak_memory_mb']} MB", file=sys.stderr)
    (folder / "index.html").write_text(index(done, folder), encoding="utf-8")
    print(f"open {folder / 'index.html'}")


def seconds(lesson: Executed) -> float:
    """How long a lesson ran, with the start of its kernel."""
    return float(lesson.notebook.metadata.papermill.duration)


def index(done: list[Executed], folder: Path) -> str:
    """Make the page that leads to all others."""
    articles = [
        f'<article><h2><a href="{lesson.name}.html">{html.escape(lesson.title)}</a></h2>'
        f"<p>{html.escape(lesson.summary)} {seconds(lesson):.0f} s, "
        f"{lesson.manifest['peak_memory_mb']:.0f} MB. "
        f'<a href="{lesson.name}.ipynb">Executed notebook</a>.</p>{lesson.picture}'
        f"{Table([lesson.manifest['results']], 'Results').to_html()}</article>"
        for lesson in done
    ]
    times = [
        {
            "lesson": lesson.title,
            "seconds": round(seconds(lesson)),
            "peak memory (MB)": lesson.manifest["peak_memory_mb"],
        }
        for lesson in done
    ]
    left = sorted(path.relative_to(folder).as_posix() for path in (folder / "runs").rglob("*") if path.is_file())
    files = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>' for name in left)
    return INDEX.format(lessons="\n".join(articles), times=Table(times, digits=0).to_html(), files=files)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("notebooks")
    commands.add_parser("demo").add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "demo":
        demo(chosen.folder.resolve())
        return
    for path, text in builds().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
