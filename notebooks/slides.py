"""From an executed lesson to a deck of slides: one HTML file with reveal.js in it, which needs no network.

A deck holds what a room looks at together: the head of each section, pictures, tables, questions, exercises without
their answers, and what is known at the end. Code stays in the notebook; other text becomes the speaker's notes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter, SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

from dualtask_lite.show.picture import BOX
from dualtask_lite.viewers.npm import Package, fetch, unpack

REVEAL = Package(
    name="reveal.js",
    version="4.6.1",
    licence="MIT",
    integrity="sha512-1CW0auaXNPmwmvQ7TwpszwVxMi2Xr5cTS3J3EBC/HHgbPF32Dn7aiu/LKWDOGjMbaDwKQiGmfqcoGQ74HUHCMw==",
    files=("dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js"),
)
#: Tags of cells that no slide shows.
HIDDEN = {"bootstrap", "parameters", "solution", "check", "manifest"}
#: Heading of the section that says what is known of the claim after a lesson.
KNOWN = "What is known now"
#: Sections that are shown as they are; of the others the first paragraph is shown and the rest is for the speaker.
WHOLE = ("Exercise", KNOWN, "Summary")
SKIPPED = ("References",)

TEMPLATE = """{% extends 'reveal/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_css %}<style>
.reveal { font: 24px/1.35 system-ui, sans-serif; color: #222; }
.reveal .slides { text-align: left; }
.reveal h1, .reveal h2, .reveal h3 { line-height: 1.15; margin: 0 0 0.6em; }
.reveal img { width: 100%; min-width: 0 !important; height: auto; max-height: 640px; object-fit: contain;
  object-position: left top; }
.reveal table { font-size: 0.95em; border-collapse: collapse; }
.reveal td, .reveal th { padding: 0.15em 0.8em 0.15em 0; text-align: left; }
.reveal caption { text-align: left; font-weight: bold; }
.reveal section { max-height: 100%; overflow-y: auto; }
.reveal iframe { width: 100%; height: 620px; border: 0; }
.jp-OutputPrompt, .jp-InputPrompt { display: none; }
</style>{% endblock %}
{% block footer_js %}<script>REVEAL_JS</script><script>NOTES_JS</script>
<script>Reveal.initialize({hash: true, slideNumber: "c/t", center: false, width: 1100, height: 720,
  transition: "none", plugins: [RevealNotes]});</script>{% endblock %}
"""


def reveal() -> dict[str, str]:
    """Fetch reveal.js from npm; returns the text of each of its files."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(REVEAL, fetch(REVEAL, Path(folder)), Path(folder))
        return {name: (Path(folder) / name).read_text(encoding="utf-8") for name in REVEAL.files}


def without_widgets() -> Config:
    """Let an exporter show the picture beside a widget, which would need a kernel."""
    usual = HTMLExporter().default_config.NbConvertBase.display_data_priority
    return Config(NbConvertBase={"display_data_priority": [kind for kind in usual if "widget" not in kind]})


def deck(notebook: NotebookNode, title: str, library: dict[str, str]) -> str:
    """Make the deck of an executed notebook.

    Args:
        notebook: with its outputs.
        title: of the page.
        library: the files of reveal.js, see :func:`reveal`.
    """
    loader = DictLoader({"deck.html.j2": TEMPLATE})
    exporter = SlidesExporter(
        config=without_widgets(), extra_loaders=[loader], template_file="deck.html.j2", embed_images=True
    )
    exporter.exclude_input = True
    slides = nbformat.v4.new_notebook(cells=list(_slides(notebook)))
    text, _ = exporter.from_notebook_node(slides, {"metadata": {"name": title}})
    text = re.sub(r'<link href="[^"]*/dist/reveal.css"[^>]*>', "<style>REVEAL_CSS</style>", text)
    text = re.sub(r'<link href="[^"]*/dist/theme/[^"]*"[^>]*>', "", text)
    for mark, name in (
        ("REVEAL_CSS", "dist/reveal.css"),
        ("REVEAL_JS", "dist/reveal.js"),
        ("NOTES_JS", "plugin/notes/notes.js"),
    ):
        text = text.replace(mark, library[name].replace("</script>", r"<\/script>"), 1)
    return text


def _slides(notebook: NotebookNode) -> Iterator[NotebookNode]:
    concludes = False  # within the section that says what is known, whose printed lines are its verdict
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if HIDDEN & tags:
            continue
        if cell.cell_type == "markdown":
            if headings := re.findall(r"^#{1,3} (.+)$", cell.source, flags=re.M):
                concludes = KNOWN in headings
            yield from _of_text(cell.source)
        elif "outcome" in tags:  # its first line is what was chosen, and nobody has chosen
            lines = cell.outputs[0].data["text/plain"].splitlines()[1:]
            yield _text("\n\n".join(lines), "fragment")
        else:
            printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
            if concludes and printed:
                yield _text(printed, "-")
            if shown := [output for output in cell.outputs if _is_shown(output)]:
                kept = nbformat.v4.new_code_cell(outputs=shown)
                kept.metadata["slideshow"] = {"slide_type": "subslide"}
                yield kept


def _of_text(source: str) -> Iterator[NotebookNode]:
    """A slide for each headed part of a text; text without a heading is for the speaker."""
    for part in re.split(r"^(?=#{1,3} )", source, flags=re.M):
        if not part.strip():
            continue
        marks, _, heading = part.partition(" ")
        if not part.startswith("#"):
            yield _text(part, "notes")
        elif heading.startswith(WHOLE) or marks == "#":
            yield _text(part, "slide")
        elif not heading.startswith(SKIPPED):
            head, first, *rest = part.strip().split("\n\n") + [""] * 2
            yield _text(f"{head}\n\n{first}", "slide")
            if any(rest):
                yield _text("\n\n".join(rest), "notes")


def _text(source: str, kind: str) -> NotebookNode:
    cell = nbformat.v4.new_markdown_cell(source.strip())
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def _is_shown(output: NotebookNode) -> bool:
    """Whether an output is a picture, a table, a question or a view in 3D, and no bar, listing or printed line."""
    shown = output.get("data", {}).get("text/html", "")
    return shown.startswith((BOX, "<table", "<iframe", "<p><strong>Before you go on"))
