"""From one source, ``notebooks/source/NN_name.py``, to the notebooks that learners open, and to pages.

    python notebooks/build.py notebooks           write notebooks/*.ipynb and notebooks/solutions/*.ipynb
    python notebooks/build.py demo build/demo     run every solution notebook, make pages and an index
    python notebooks/build.py times build/demo    keep what that run measured and its pictures, for notebooks and README
    python notebooks/build.py slides build/demo   make a deck of slides of each lesson that this run left there
    python notebooks/build.py nbgrader build/nbgrader   write the lessons as assignments of nbgrader

A cell with one of the tags of ``VARIANTS`` is kept in that build only. So an exercise is three cells (its
blank, its solution, a wrong answer that the tests try) and the cell that checks it. What a source need not
say is filled in: the bootstrap cell and the buttons that open it elsewhere (address.py), the measured time and
memory, and what each word of the glossary means, for who rests the mouse on its link.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import address
import animations
import grading
import jupytext
import nbformat
import papermill
import pictures
import results
import slides
import summary
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from readme import ANSWERS, write_part

from dualtask_lite.show.lesson import MANIFEST_TYPE
from dualtask_lite.show.table import Table
from dualtask_lite.show.viewer import VARIABLE

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "source"
GLOSSARY = HERE / "glossary.md"
MEASURED = HERE.parent / "data" / "results" / "lessons.json"
README = HERE.parent / "README.md"
VARIANTS = ("blank", "solution", "wrong")
HONEST = "**For teaching and research, not for diagnosis.**"
# Cells that a lesson needs and a learner need not read: collapsed, with a first line that says so.
COLLAPSED = {
    "bootstrap": "# Collapsed: installs the kit where it is missing. Click the dots to read it.",
    "manifest": "# Collapsed: records how this lesson was run, and what came out. Click the dots to read it.",
}
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

# The page as nbconvert makes it, less what it would load from the network.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>
body { max-width: 1000px; margin: 0 auto; padding: 1em; }
pre, code { font-family: ui-monospace, monospace !important; }
.highlight, .jp-RenderedMarkdown pre { overflow-x: auto; background: #f7f7f7; padding: 0.4em; }
.jp-RenderedMarkdown pre { margin: 0.3em 0; font-size: 0.87em; line-height: 1.4; }
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
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ padding: 0.2em 1em 0.2em 0; text-align: left; vertical-align: top; }}
img {{ min-width: 0 !important; max-width: 100%; height: auto; }}
caption {{ text-align: left; font-weight: bold; }}
</style></head><body>
<h1>Dual-Task Lite: the executed lessons</h1>
<p>Every lesson was run on this machine, with its solutions, on the embedded data.
The words of the subject are explained in the <a href="glossary.html">glossary</a>.
The whole course <a href="summary.html">on one page</a>.
For teaching and research, not for diagnosis.</p>
{figure}
{lessons}
<h2>Time and memory</h2>
{times}
{left}
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
        """Its first picture of its own, as an ``img`` element; the method's stands above all lessons."""
        images = (re.search("<img [^>]*>", data.get("text/html", "")) for data in self.outputs())
        return next((image[0] for image in images if image and 'alt="The method on case' not in image[0]), "")

    def outputs(self) -> Iterator[Mapping[str, Any]]:
        """Yield what its cells showed, as MIME bundles."""
        for cell in self.notebook.cells:
            for output in cell.get("outputs", []):
                yield output.get("data", {})


def lessons() -> list[Path]:
    """List the sources of all lessons, in order: ``05b_name.py`` comes after ``05_name.py``."""
    return sorted(SOURCES.glob("[0-9][0-9]*_*.py"))


def number_of(name: str) -> str:
    """Number of a lesson, such as ``05b``, from the name of its source or notebook."""
    return name.partition("_")[0]


def measured() -> dict[str, Any]:
    """Read what the last kept ``make demo`` measured: the machine, and seconds and MB of each lesson."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def in_words(measurement: Mapping[str, Any], lesson: str) -> str:
    """Say how long a lesson ran, on what, and with how much memory."""
    if lesson not in measurement["lessons"]:
        return "Not measured yet."
    run = measurement["lessons"][lesson]
    return (
        f"Runs in {run['seconds']} s with {run['memory_mb'] / 1000:.1f} GB of memory "
        f"(measured: {measurement['cores']} CPU cores, {measurement['date']})."
    )


def terms() -> dict[str, str]:
    """Read the glossary: the anchor of each term, and what it says."""
    parts = re.split(r"^### (.+)$", GLOSSARY.read_text(encoding="utf-8"), flags=re.M)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name.strip().replace(" ", "-"): " ".join(text.split("\n\n")[1].split()) for name, text in pairs}


def make_notebook(
    source: Path,
    keep: tuple[str, ...],
    *,
    folder: Path = HERE,
    measurement: Mapping[str, Any] | None = None,
    has_buttons: bool = True,
) -> NotebookNode:
    """Turn a source into a notebook without outputs; of the cells tagged with a variant ``keep`` stays.

    Args:
        source: ``notebooks/source/NN_name.py``.
        keep: the variants to keep.
        folder: where it will lie; links lead from there.
        measurement: its time and memory; by default those kept from the last ``make demo``.
        has_buttons: whether it can be opened elsewhere, at the address of the repository.
    """
    notebook = jupytext.read(source)
    bootstrap = address.bootstrap()
    cells = []
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if any(tag in VARIANTS and tag not in keep for tag in tags):
            continue
        cell.id = f"{number_of(source.stem)}-{number:03d}"
        cell.source = bootstrap if "bootstrap" in tags else cell.source.strip()
        for tag in COLLAPSED.keys() & tags:
            cell.source = f"{COLLAPSED[tag]}\n{cell.source}"
            cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type == "markdown":
            cell.source = with_meanings(cell.source, folder)
        cells.append(cell)
    place = f"{folder.relative_to(HERE.parent).as_posix()}/{source.stem}.ipynb"
    buttons = address.links(place) if has_buttons else ""
    cells[0].source = cells[0].source.replace("{measured}", in_words(measurement or measured(), source.stem))
    cells[0].source += f"\n\n{HONEST} {buttons}".rstrip()
    notebook.cells = cells
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    nbformat.validate(notebook)
    return notebook


def with_meanings(text: str, folder: Path) -> str:
    """Let each link to a term of the glossary lead there from ``folder`` and show its meaning."""
    meaning = terms()
    way = Path(os.path.relpath(GLOSSARY, folder)).as_posix()

    def link(found: re.Match[str]) -> str:
        definition = html.escape(re.sub(r"[*`]|\[([^]]*)]\([^)]*\)", r"\1", meaning[found[1]]))
        return f'({way}#{found[1]} "{definition}")'

    return re.sub(r"\(glossary\.md#([\w-]+)\)", link, text).replace("(glossary.md)", f"({way})")


def builds() -> dict[Path, str]:
    """Every committed notebook: where it belongs, and its text."""
    texts = {}
    for source in lessons():
        for folder, variant in ((HERE, "blank"), (HERE / "solutions", "solution")):
            notebook = make_notebook(source, (variant,), folder=folder)
            texts[folder / f"{source.stem}.ipynb"] = nbformat.writes(notebook) + "\n"
    return texts


def execute(notebook: NotebookNode, out: Path, parameters: Mapping[str, Any], *, folder: Path) -> NotebookNode:
    """Run a notebook in ``folder`` and keep it, executed, at ``out`` (also when a cell fails)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)
    return papermill.execute_notebook(
        out,
        out,
        parameters=dict(parameters),
        kernel_name=KERNEL["name"],
        cwd=folder,
        progress_bar=False,
        request_save_on_cell_execute=False,  # a save after each cell takes 2 s a lesson; it is saved at the end
        # Otherwise a kernel reports the interrupt that ends it as an error. A cell that fails is raised here anyway.
        extra_arguments=["--log-level=CRITICAL"],
    )


def page(notebook: NotebookNode, title: str) -> str:
    """Make one HTML page that holds everything it shows."""
    loader = DictLoader({"page.html.j2": PAGE})
    config = slides.without_widgets()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = set(COLLAPSED)
    exporter = HTMLExporter(config=config, extra_loaders=[loader], template_file="page.html.j2", embed_images=True)
    kept = {name: value for name, value in notebook.metadata.items() if name != "widgets"}  # their state is large
    bare = NotebookNode({**notebook, "metadata": NotebookNode(kept)})
    text, _ = exporter.from_notebook_node(bare, {"metadata": {"name": title}})
    return link_pages(text)


def link_pages(text: str) -> str:
    """Let links to notebooks and to the glossary lead to their pages."""
    text = re.sub(r'href="(\d\d\w+)\.ipynb', r'href="\1.html', text)
    return text.replace('href="glossary.md', 'href="glossary.html')


def glossary_page() -> str:
    """Make the page that the terms in the lessons' pages lead to."""
    cell = nbformat.v4.new_markdown_cell(GLOSSARY.read_text(encoding="utf-8"))
    return page(nbformat.v4.new_notebook(cells=[cell]), "Glossary")


def demo(folder: Path) -> None:
    """Run every lesson with its solutions and leave executed notebooks, pages and an index in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ.setdefault(VARIABLE, "html")  # what a page keeps: 3D in the page itself, without a kernel
    done = []
    for source in lessons():
        print(f"{source.stem} ...", file=sys.stderr, flush=True)
        notebook = make_notebook(source, ("solution",), measurement=measurement([]))
        lesson = Executed(source.stem, execute(notebook, folder / f"{source.stem}.ipynb", {}, folder=folder))
        now = measurement([lesson])
        opening = lesson.notebook.cells[0]
        opening.source = opening.source.replace(in_words(measurement([]), lesson.name), in_words(now, lesson.name))
        nbformat.write(lesson.notebook, folder / f"{source.stem}.ipynb")
        (folder / f"{source.stem}.html").write_text(page(lesson.notebook, lesson.title), encoding="utf-8")
        done.append(lesson)
        print(in_words(now, lesson.name), file=sys.stderr)
    (folder / "glossary.html").write_text(glossary_page(), encoding="utf-8")
    one_page = summary.summary((lesson.name, lesson.notebook) for lesson in done)
    (folder / "summary.html").write_text(page(one_page, "Dual-Task Lite in one page"), encoding="utf-8")
    (folder / MEASURED.name).write_text(json.dumps(measurement(done), indent=1) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(index(done, folder), encoding="utf-8")
    pictures.save_screenshot(folder)
    print(f"open {folder / 'index.html'}")


def write_slides(folder: Path) -> None:
    """Make a deck of slides of each executed lesson in ``folder``, beside its page."""
    library = slides.reveal()
    for source in lessons():
        executed = folder / f"{source.stem}.ipynb"
        if not executed.exists():
            sys.exit(f"error: {executed} is missing; run make demo first")
        lesson = Executed(source.stem, nbformat.read(executed, nbformat.NO_CONVERT))
        deck = folder / f"{source.stem}.slides.html"
        deck.write_text(link_pages(slides.deck(lesson.notebook, lesson.title, library)), encoding="utf-8")
        print(deck)


def measurement(done: list[Executed]) -> dict[str, Any]:
    """What a run of the lessons measured, and on what."""
    return {
        "command": "make demo",
        "date": date.today().isoformat(),
        "device": f"CPU, {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": done[0].manifest["versions"] if done else {},
        "lessons": {
            lesson.name: {
                "title": lesson.title,
                "seconds": round(lesson.notebook.metadata.papermill.duration),
                "memory_mb": round(lesson.manifest["peak_memory_mb"]),
            }
            for lesson in done
        },
    }


def minutes() -> dict[str, str]:
    """How long to plan for each lesson, as its opening says."""
    texts = {source.stem: source.read_text(encoding="utf-8") for source in lessons()}
    return {name: re.findall(r"(\d+) minutes to read and do", text)[0] for name, text in texts.items()}


def readme_table() -> str:
    """The README's table of lessons, with their measured times."""
    known, planned = measured(), minutes()
    rows = [
        f"| [{run['title'].partition(':')[0]}](notebooks/{name}.ipynb) | {ANSWERS.get(number_of(name), '')} | "
        f"{run['seconds']} s, {run['memory_mb'] / 1000:.1f} GB | {planned.get(name, '')} |"
        for name, run in known["lessons"].items()
    ]
    return "\n".join(
        [
            "| lesson | it answers | runs in | minutes to plan |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"*Measured by `{known['command']}`, seed 0, {known['device']}, {known['cores']} cores, {known['date']}.*",
        ]
    )


def keep_times(folder: Path) -> None:
    """Keep what the demo in ``folder`` measured, and its pictures, among the results, in README and notebooks."""
    shutil.copyfile(folder / MEASURED.name, MEASURED)
    write_part(README, "measured times", readme_table())
    figure = pictures.framework()
    figure.save(MEASURED.parent / "framework.png")
    write_part(README, "figure", f"![{figure.alt}](data/results/framework.png)")
    moving = animations.draw()
    for animation in moving:
        animation.save(MEASURED.parent)
    write_part(README, "moving pictures", "\n\n".join(animation.markdown() for animation in moving))
    if (folder / pictures.LINES).exists():
        for file in folder.glob("*.jpg"):
            shutil.copyfile(file, MEASURED.parent / file.name)
        write_part(README, "pictures", (folder / pictures.LINES).read_text(encoding="utf-8").strip())
    write_notebooks()


def index(done: list[Executed], folder: Path) -> str:
    """Make the page that leads to all others."""
    runs = measurement(done)["lessons"]
    articles = [
        f'<article><h2><a href="{lesson.name}.html">{html.escape(lesson.title)}</a></h2>'
        f"<p>{html.escape(lesson.summary)} {runs[lesson.name]['seconds']} s, "
        f"{runs[lesson.name]['memory_mb']} MB. "
        f'<a href="{lesson.name}.ipynb">Executed notebook</a>.</p>{lesson.picture}'
        f"<details><summary>What came out</summary>"
        f"{Table([lesson.manifest['results']], 'Results', digits=3).to_html()}</details></article>"
        for lesson in done
    ]
    times = [
        {"lesson": run["title"], "seconds": run["seconds"], "peak memory (MB)": run["memory_mb"]}
        for run in runs.values()
    ]
    left = sorted(path.relative_to(folder).as_posix() for path in (folder / "runs").rglob("*.html"))
    items = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>' for name in left)
    runs_are = 'All their files are in <a href="runs">runs</a>.'
    return INDEX.format(
        figure=pictures.framework().to_html(),
        lessons="\n".join(articles),
        times=Table(times, digits=0).to_html(),
        left=f"<h2>Pages that the lessons made</h2><ul>{items}</ul><p>{runs_are}</p>" if items else "",
    )


def write_notebooks() -> None:
    """Write every committed notebook."""
    for path, text in builds().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parent))


def write_results() -> None:
    """Write the result of the reference table into the README and its page."""
    results.write(README)


def write_assignments(folder: Path) -> None:
    """Write every lesson as an assignment of nbgrader."""
    grading.write_course(folder, {source.stem: to_be_assigned(source) for source in lessons()}, GLOSSARY)


def to_be_assigned(source: Path) -> NotebookNode:
    """A lesson for ``grading``; without buttons, which open the notebook that cannot be graded."""
    return make_notebook(source, ("blank", "solution"), has_buttons=False)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("notebooks").set_defaults(do=write_notebooks)
    commands.add_parser("results").set_defaults(do=write_results)
    for name, do in (("demo", demo), ("times", keep_times), ("slides", write_slides), ("nbgrader", write_assignments)):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.set_defaults(do=do)
    chosen = parser.parse_args()
    chosen.do(*([chosen.folder.resolve()] if "folder" in chosen else []))


if __name__ == "__main__":
    main()
