from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import pytest

from dualtask_lite.cases.phantom import make_phantom
from dualtask_lite.show.lesson import MANIFEST_TYPE, VERDICT_TYPE

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("**Objectives.**", "**Prerequisites.**", "**Time and memory.**")
# Small enough for a test; what a lesson does stays the same.
SMALL = {
    "optimiser.steps": 6,
    "optimiser.batch": 1,
    "sample.patch": [32, 32, 16],
    "machine.validate_every": 3,
}


def load_builder():
    spec = importlib.util.spec_from_file_location("notebook_builder", ROOT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load_builder()
SOURCES = pytest.mark.parametrize("source", build.lessons(), ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom"), cases=4)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def bundles(notebook, kind):
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def run(notebook, name, parameters, folder):
    """Run a notebook; on failure say where the executed one is."""
    folder.mkdir(exist_ok=True)
    out = folder / f"{name}.ipynb"
    try:
        return build.execute(notebook, out, parameters, folder=folder)
    except papermill.PapermillExecutionError as error:
        pytest.fail(f"{error}\nthe executed notebook: {out}")


def test_there_are_lessons():
    assert {source.stem[:2] for source in build.lessons()} >= {"00", "04"}


def test_committed_notebooks_are_what_the_sources_give():
    expected = build.builds()
    found = {path for path in (ROOT / "notebooks").rglob("*.ipynb") if "runs" not in path.parts}
    found = {path for path in found if ".ipynb_checkpoints" not in path.parts}
    assert found == set(expected), "run make notebooks"
    for path, text in expected.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make notebooks"


@SOURCES
def test_form(source):
    notebook = build.make_notebook(source, build.VARIANTS)
    text = "\n".join(cell.source for cell in notebook.cells)
    opening = notebook.cells[0].source
    assert opening.startswith(f"# {source.stem[:2]} ")
    assert [opening.index(section) for section in SECTIONS] == sorted(opening.index(section) for section in SECTIONS)
    headings = re.findall(
        r"^(#+) (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M
    )
    levels = [len(marks) for marks, _ in headings]
    assert levels.count(1) == 1
    assert all(deeper <= before + 1 for before, deeper in pairwise(levels))
    assert [title for _, title in headings][-2:] == ["Summary", "References"]
    assert all(len(cell.source.splitlines()) <= 25 for cell in notebook.cells)
    assert (
        len(tagged(notebook, "bootstrap"))
        == len(tagged(notebook, "parameters"))
        == len(tagged(notebook, "manifest"))
        == 1
    )
    names = {
        node.targets[0].id
        for node in ast.parse(tagged(notebook, "parameters")[0].source).body
        if isinstance(node, ast.Assign)
    }
    assert names >= {"profile", "seed", "data_dir"}
    counts = [len(tagged(notebook, tag)) for tag in (*build.VARIANTS, "check")]
    assert min(counts) >= 3
    assert len(set(counts)) == 1
    assert not re.search(r"(?<![\w.:/])/(home|work|tmp|Users|root)/", text)
    assert "![" not in re.sub(r"!\[[^\]]+\]", "", text), "an image without alt text"


@SOURCES
def test_the_three_answers_of_an_exercise_set_the_same_names(source):
    def names(cell):
        body = ast.parse(cell.source).body
        return {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}

    notebook = build.make_notebook(source, build.VARIANTS)
    for answers in zip(*(tagged(notebook, variant) for variant in build.VARIANTS), strict=True):
        wanted = names(answers[0])
        assert wanted
        assert all(names(answer) >= wanted for answer in answers)


def with_every_answer(source):
    """The notebook in which each exercise is checked blank, wrong and solved, in this order."""
    notebook = build.make_notebook(source, build.VARIANTS)
    cells, answers = [], {}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if variant := next((tag for tag in tags if tag in build.VARIANTS), None):
            answers[variant] = cell
        elif "check" in tags:
            for variant in ("blank", "wrong", "solution"):
                check = nbformat.v4.new_code_cell(cell.source)
                cells += [answers[variant], check]
        else:
            cells.append(cell)
    notebook.cells = cells
    return notebook


@SOURCES
def test_blank_and_solved_notebooks_run_and_record_results(source, small_data, tmp_path):
    parameters = {"data_dir": str(small_data)}
    if "overrides" in source.read_text(encoding="utf-8"):
        parameters["overrides"] = SMALL
    blank = run(build.make_notebook(source, ("blank",)), "blank", parameters, tmp_path / "blank")
    assert {verdict["state"] for verdict in bundles(blank, VERDICT_TYPE)} == {"not attempted"}
    solved = run(with_every_answer(source), "solved", parameters, tmp_path / "solved")
    states = [verdict["state"] for verdict in bundles(solved, VERDICT_TYPE)]
    assert states == ["not attempted", "wrong", "right"] * (len(states) // 3)
    for notebook in (blank, solved):
        (record,) = bundles(notebook, MANIFEST_TYPE)
        assert record["parameters"]["profile"] == "laptop"
        RESULTS[source.stem[:2]](record["results"])
        images = re.findall("<img [^>]*>", json.dumps(bundles(notebook, "text/html")))
        assert images
        assert all(re.search(r'alt=\\"[^"]{20,}\\"', image) for image in images)
    text = build.page(solved, source.stem)
    check_page(text)
    assert not re.search(r'href="\d\d_\w+\.ipynb"', text), "a link between pages leads to a page"


def check_page(text):
    """A page loads nothing: no script, style, font, image or frame from elsewhere."""
    loads = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"' >]*)", text)
    assert [address for address in loads if not address.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", text)
    assert not re.search(r"\bimport\(|\bfetch\(|XMLHttpRequest", text)


def check_00(results):
    assert results["cases"] == 12
    assert len(results["centres"]) == 3


def check_04(results):
    assert results["steps"] == dict.fromkeys(("pancreas-coarse", "tumour-coarse"), SMALL["optimiser.steps"])
    assert results["cases"] == 4
    assert 0 <= results["pancreas_dice"] <= 1


RESULTS = {"00": check_00, "04": check_04}


def test_index_leads_to_every_page(tmp_path):
    html = "<img alt='a tumour' src='data:image/png;base64,'>"
    manifest = {"results": {"dice": 0.5}, "peak_memory_mb": 500.0}
    shown = [
        nbformat.v4.new_output("display_data", {"text/html": html}),
        nbformat.v4.new_output("display_data", {MANIFEST_TYPE: manifest}),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# 99 A title\n\nWhat it *answers*.\n\nMore."),
        nbformat.v4.new_code_cell("", outputs=shown),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"duration": 12.3}})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cases.csv").write_text("case,dice\n")
    text = build.index([build.Executed("99_title", notebook)], tmp_path)
    for part in (
        'href="99_title.html"',
        "99 A title",
        "What it answers.",
        html,
        "12 s",
        "500 MB",
        "runs/cases.csv",
    ):
        assert part in text
    check_page(re.sub(r"<a [^>]*>", "", text))
