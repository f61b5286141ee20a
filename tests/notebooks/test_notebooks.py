from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import symtable
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import pytest
from PIL import Image
from readme import ANSWERS, marks

from dualtask_lite.cases.exam import make_exam
from dualtask_lite.cases.phantom import make_phantom
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.judging import ablation
from dualtask_lite.engine.records import read_rows
from dualtask_lite.show.exercises import OUTCOME_TYPE, VERDICT_TYPE
from dualtask_lite.show.exercises.judge import find_exercise
from dualtask_lite.show.lesson import MANIFEST_TYPE

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("**Objectives.**", "**Prerequisites.**", "**Time and memory.**")
KERNELS = int(os.environ.get("DUALTASK_KERNELS", 2))  # ``make load`` asks for more
# Small enough for a test; what a lesson does stays the same.
SMALL = {
    "01": {"optimiser.steps": 4, "optimiser.batch": 1},
    "02": {"steps": 12},
    "03": {"optimiser.steps": 2, "optimiser.batch": 1},
    "04": {
        "optimiser.steps": 6,
        "optimiser.batch": 1,
        "sample.patch": [32, 32, 16],
        "machine.validate_every": 3,
    },
    "05": {
        "optimiser.steps": 3,
        "optimiser.batch": 2,
        "sample.spacing": [8, 8, 8],
        "sample.patch": [32, 32, 8],
    },
    "06": {
        "optimiser.steps": 6,
        "optimiser.batch": 1,
        "sample.spacing": [8, 8, 8],
        "sample.patch": [16, 16, 16],
    },
    "07": {"optimiser.steps": 3, "sample.spacing": [8, 8, 8], "sample.patch": [16, 16, 16]},
    "08": {"optimiser.steps": 3, "sample.spacing": [8, 8, 8], "sample.patch": [16, 16, 16]},
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


@pytest.fixture(scope="module")
def parameters_of(small_data, tmp_path_factory):
    """The parameters with which a lesson is executed here, by its number."""

    def given(number):
        parameters = {"data_dir": str(small_data)} | ({"overrides": SMALL[number]} if number in SMALL else {})
        if number == "08":
            exam = make_exam(tmp_path_factory.mktemp("data") / "exam", seed=1, cases=8)
            parameters["exam_cases"] = str(exam)
        return parameters

    return given


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
    numbers = [build.number_of(source.stem) for source in build.lessons()]
    assert numbers[0] == "00"
    assert set(numbers) == set(RESULTS), "add a check of what the lesson records to RESULTS"


def test_committed_notebooks_are_what_the_sources_give():
    expected = build.builds()
    found = {path for path in (ROOT / "notebooks").rglob("*.ipynb") if "runs" not in path.parts}
    found = {path for path in found if ".ipynb_checkpoints" not in path.parts}
    assert found == set(expected), "run make notebooks"
    for path, text in expected.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make notebooks"


@SOURCES
def test_opening(source):
    opening = build.make_notebook(source, ("blank",)).cells[0].source
    assert opening.startswith(f"# {build.number_of(source.stem)} ")
    assert [opening.index(section) for section in SECTIONS] == sorted(opening.index(section) for section in SECTIONS)
    assert len(re.findall("^- ", opening, re.M)) >= 3, "objectives are a list"
    assert build.in_words(build.measured(), source.stem) in opening, "the source says {measured}"
    assert "For teaching and research, not for diagnosis." in opening
    assert not re.search(r"\d+ (s|seconds|MB|GB)\b", source.read_text(encoding="utf-8").split("# %%")[1]), "typed"


@SOURCES
def test_headings(source):
    cells = build.make_notebook(source, ("blank",)).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#+) (.+)$", text, re.M)
    levels = [len(marks) for marks, _ in headings]
    assert levels.count(1) == 1
    assert all(deeper <= before + 1 for before, deeper in pairwise(levels))
    titles = [title for _, title in headings]
    assert titles[-3:] == ["What is known now", "Summary", "References"]
    exercises = [title for title in titles if title.startswith("Exercise")]
    assert exercises == [f"Exercise {number + 1}" for number in range(len(exercises))]
    references = cells[-2].source
    assert re.findall(r"^\d+\. ", references, re.M)
    assert all("](http" in entry for entry in re.split(r"^\d+\. ", references, flags=re.M)[1:]), "each has a link"


@SOURCES
def test_references_are_those_that_the_text_cites(source):
    cells = build.make_notebook(source, ("blank",)).cells
    listed = re.findall(r"^(\d+)\. ", cells[-2].source, re.M)
    text = "\n".join(cell.source for cell in cells[:-2] if cell.cell_type == "markdown")
    cited = re.findall(r"\[(\d+(?:, \d+)*)\](?!\()", re.sub(r"`[^`\n]*`", "", text))
    assert set(", ".join(cited).split(", ")) == set(listed)


@SOURCES
def test_cells(source):
    notebook = build.make_notebook(source, build.VARIANTS)
    long = [cell.source for cell in notebook.cells if len(cell.source.splitlines()) > 25]
    assert long == [], "a cell has at most 25 lines"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    wide = [line for cell in code for line in cell.source.splitlines() if len(line) > 100]
    assert wide == [], "a line of code is at most 100 characters, the width of a page"
    assert "bootstrap" in code[0].metadata.tags
    assert "parameters" in code[1].metadata.tags
    assert "manifest" in notebook.cells[-1].metadata.tags
    assert all(len(tagged(notebook, tag)) == 1 for tag in ("bootstrap", "parameters", "manifest"))
    assigned = [node for node in ast.parse(code[1].source).body if isinstance(node, ast.Assign)]
    assert {node.targets[0].id for node in assigned} >= {"profile", "seed", "data_dir"}
    counts = [len(tagged(notebook, tag)) for tag in (*build.VARIANTS, "check")]
    assert min(counts) >= 3
    assert len(set(counts)) == 1


@SOURCES
def test_two_results_or_more_are_predicted_before_they_are_shown(source):
    cells = [cell for cell in build.make_notebook(source, ("blank",)).cells if cell.cell_type == "code"]
    kinds = [next((tag for tag in cell.metadata.get("tags", []) if tag in ("choice", "outcome")), "") for cell in cells]
    numbers = [re.findall(r'"(\w+\.[A-Z])"', cell.source) for cell, kind in zip(cells, kinds, strict=True) if kind]
    assert len(numbers) >= 4
    assert numbers == [[f"{build.number_of(source.stem)}.{chr(65 + i // 2)}"] for i in range(len(numbers))]
    between = "".join(kind[:1] or "." for kind in kinds)
    assert re.fullmatch(r"\.*(c\.+o\.*)+", between), "a choice, the cells that show the result, and its outcome"


@SOURCES
def test_only_bootstrap_and_manifest_are_collapsed_without_local_paths(source):
    notebook = build.make_notebook(source, build.VARIANTS)
    known = {
        "bootstrap",
        "parameters",
        "manifest",
        "exercise",
        "check",
        "choice",
        "outcome",
        "summary",
        *build.VARIANTS,
    }
    assert {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])} <= known
    hidden = [cell for cell in notebook.cells if {"jupyter", "collapsed", "cellView"} & set(cell.metadata)]
    assert [cell.metadata.tags for cell in hidden] == [["bootstrap"], ["manifest"]]
    assert all(cell.metadata.jupyter == {"source_hidden": True} for cell in hidden)
    assert all(cell.source.startswith("# Collapsed: ") for cell in hidden), "what is collapsed says so"
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.:/])/(home|work|tmp|Users|root|content)/", text)
    assert not re.search(r"^\s*[%!]", "\n".join(c.source for c in notebook.cells if c.cell_type == "code"), re.M)
    assert "![" not in re.sub(r"!\[[^\]]+\]", "", text), "an image without alt text"
    code = "\n".join(c.source for c in notebook.cells[2:] if c.cell_type == "code")
    assert not re.search(r"\b(requests|urllib|urlopen|http\.client|socket|gdown)\b", code)


@SOURCES
def test_links_of_a_notebook_lead_somewhere(source):
    for folder in (build.HERE, build.HERE / "solutions"):
        notebook = build.make_notebook(source, ("blank",), folder=folder)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        links = re.findall(r'\]\(([^)\s]+)(?: "([^"]*)")?\)', text)
        ways = {way.partition("#")[0] for way, _ in links if not way.startswith("http")}
        assert [way for way in ways if not (folder / way).exists()] == []
        meanings = [meaning for way, meaning in links if "glossary.md#" in way]
        assert meanings, "a lesson links the words that it uses to the glossary"
        assert all(len(meaning) > 20 for meaning in meanings)


def test_instructors_page_has_the_minutes_of_the_lessons():
    planned = re.findall(
        r"^\| (\d\d\w*) \| (\d+) \|", (build.HERE / "INSTRUCTORS.md").read_text(encoding="utf-8"), re.M
    )
    stated = [
        (
            build.number_of(source.stem),
            re.findall(r"(\d+) minutes to read and do", source.read_text(encoding="utf-8"))[0],
        )
        for source in build.lessons()
    ]
    assert planned == stated


def test_every_word_of_the_glossary_is_used_by_a_lesson():
    linked = {
        word
        for source in build.lessons()
        for word in re.findall(r"\(glossary\.md#([\w-]+)\)", source.read_text(encoding="utf-8"))
    }
    assert linked == set(build.terms())


def test_an_unknown_word_is_refused():
    with pytest.raises(KeyError):
        build.with_meanings("[x](glossary.md#no-such-word)", build.HERE)


@SOURCES
def test_the_three_answers_of_an_exercise_set_the_same_names(source):
    def names(cell):
        body = ast.parse(cell.source).body
        targets = (target for node in body if isinstance(node, ast.Assign) for target in node.targets)
        assigned = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        return assigned | {node.name for node in body if isinstance(node, ast.FunctionDef)}

    notebook = build.make_notebook(source, build.VARIANTS)
    checked = [re.search(r'check\("([\w.]+)", (\w+)\)', cell.source).groups() for cell in tagged(notebook, "check")]
    assert [number for number, _ in checked] == [f"{build.number_of(source.stem)}.{i + 1}" for i in range(len(checked))]
    assert [find_exercise(number).name for number, _ in checked] == [name for _, name in checked]
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


def names_in(source):
    """Names that a cell binds, and names that it reads, also inside its functions."""
    read = set()

    def look(table):
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
                read.add(symbol.get_name())
        for inner in table.get_children():
            look(inner)

    module = symtable.symtable(source, "cell", "exec")
    look(module)
    return {name.get_name() for name in module.get_symbols() if name.is_assigned() or name.is_imported()}, read


def reads_an_answer(cells):
    """Names that only an exercise binds and a later cell reads: with a blank answer that cell would fail."""
    of_exercises, of_lesson, found = set(), set(), set()
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "check" in tags:
            continue
        bound, read = names_in(cell.source)
        if "exercise" in tags:
            of_exercises |= bound
        else:
            of_lesson |= bound
            found |= (read & of_exercises) - of_lesson
    return found


@SOURCES
def test_no_cell_reads_the_answer_of_an_exercise(source):
    """So a notebook whose exercises are blank runs to its end if the solved one does."""
    assert reads_an_answer(build.make_notebook(source, build.VARIANTS).cells) == set()


@pytest.mark.parametrize(
    ("answer", "later", "found"),
    [
        ("mean = 2", "print(mean)", {"mean"}),
        ("import math\nmean = math.pi", "def area():\n    return math.pi", {"math"}),
        ("def area():\n    return 2", "[area() for _ in range(2)]", {"area"}),
        ("mean = 2", "mean = 3\nprint(mean)", set()),
        ("mean = 2", "def f(mean):\n    return mean", set()),
    ],
)
def test_a_cell_that_reads_an_answer_is_found(answer, later, found):
    exercise = nbformat.v4.new_code_cell(answer, metadata={"tags": ["exercise", "blank"]})
    assert reads_an_answer([exercise, nbformat.v4.new_code_cell(later)]) == found


@SOURCES
def test_a_notebook_runs_with_every_answer_and_records_results(source, parameters_of, tmp_path):
    number = build.number_of(source.stem)
    notebook = run(with_every_answer(source), "answered", parameters_of(number), tmp_path)
    states = [verdict["state"] for verdict in bundles(notebook, VERDICT_TYPE)]
    assert states == ["not attempted", "wrong", "right"] * (len(states) // 3), [
        verdict["exercise"] for verdict in bundles(notebook, VERDICT_TYPE)
    ]
    outcomes = bundles(notebook, OUTCOME_TYPE)
    assert len(outcomes) == len(tagged(notebook, "choice"))
    assert {outcome["as_expected"] for outcome in outcomes} == {None}, "nobody chose"
    (record,) = bundles(notebook, MANIFEST_TYPE)
    assert record["parameters"]["profile"] == "laptop"
    RESULTS[number](record["results"])
    images = re.findall("<img [^>]*>", json.dumps(bundles(notebook, "text/html")))
    assert images
    assert all(re.search(r'alt=\\"[^"]{20,}\\"', image) for image in images)
    text = build.page(notebook, source.stem)
    check_page(text)
    assert not re.search(r'href="\d\d\w+\.ipynb"', text), "a link between pages leads to a page"


def test_kernels_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Learners on one machine begin together, in one folder, and nobody has made the data yet."""
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "data"))
    (source,) = (path for path in build.lessons() if path.stem.startswith("01"))
    given, parameters, work = tmp_path / "01.ipynb", tmp_path / "parameters.yaml", tmp_path / "work"
    nbformat.write(build.make_notebook(source, ("solution",)), given)
    parameters.write_text(json.dumps({"overrides": SMALL["01"]}))
    work.mkdir()
    outs = [tmp_path / f"{number}.ipynb" for number in range(KERNELS)]
    how = ["--parameters_file", parameters, "--kernel", build.KERNEL["name"], "--cwd", work, "--no-progress-bar"]
    command = [sys.executable, "-m", "papermill"]
    running = [subprocess.Popen([*command, given, out, *how], stderr=subprocess.PIPE, text=True) for out in outs]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * KERNELS, errors
    results = []
    for out in outs:
        notebook = nbformat.read(out, 4)
        assert {verdict["state"] for verdict in bundles(notebook, VERDICT_TYPE)} == {"right"}
        results.append(bundles(notebook, MANIFEST_TYPE)[0]["results"])
        check_01(results[-1])
    assert results == [results[0]] * KERNELS
    assert len(list((tmp_path / "data").iterdir())) == 1, "one made the data, and the others left nothing"


@pytest.mark.parametrize("number", ["00", "02", "03"])
def test_a_lesson_runs_on_one_hospital(number, small_data, tmp_path):
    """One that needs two hospitals splits it, and each says in one sentence what it needs and what it found."""
    (source,) = (source for source in build.lessons() if source.stem[:2] == number)
    parameters = {"data_dir": str(small_data / "B")} | ({"overrides": SMALL[number]} if number in SMALL else {})
    notebook = run(build.make_notebook(source, ("solution",)), "one", parameters, tmp_path)
    assert {verdict["state"] for verdict in bundles(notebook, VERDICT_TYPE)} == {"right"}
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    (sentence,) = re.findall("This lesson needs .*", printed)
    assert "holds 4 labelled cases (B" in sentence
    assert ("of one hospital, split into 2 parts" in sentence) == (number != "02")


def check_page(text):
    """A page loads nothing: no script, style, font, image or frame from elsewhere."""
    loads = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"' >]*)", text)
    assert [address for address in loads if not address.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", text)
    assert not re.search(r"\bimport\(|\bfetch\(|XMLHttpRequest", text)


def check_00(results):
    assert results["cases"] == 12
    assert len(results["centres"]) == 3
    assert results["right_at_home"] > results["right_elsewhere"] > 50


def check_01(results):
    assert results["steps"] == SMALL["01"]["optimiser.steps"]
    assert 0 < results["error_after_mm"] < 20
    assert 10 < results["voxel_error_mm"] < 20  # three slices up, 12 mm of the 15 are missed


def check_02(results):
    alive, dice = results["alive"], results["dice"]
    assert alive["hard threshold"] == 0
    assert alive["k = 1500"] < 0.01 < alive["k = 100"] < alive["tau 0.5 mm"] < alive["tau 2 mm"]
    assert dice["hard threshold"] == results["dice_before"]
    assert dice["k = 1500"] < dice["k = 100"] < dice["tau 2 mm"]


def check_03(results):
    assert results["steps"] == SMALL["03"]["optimiser.steps"]
    assert all(-1 <= cosine <= 1 for cosine in results["core_with_core"].values())
    assert 0 <= results["differ"]["before"] < 0.01, "who knows nothing is consistent"


def check_04(results):
    assert results["steps"] == dict.fromkeys(("pancreas-coarse", "tumour-coarse"), SMALL["04"]["optimiser.steps"])
    assert results["cases"] == 4
    assert 0 <= results["pancreas_dice"] <= 1


def check_05(results):
    assert results["rows"] == 24, "two arms, three centres of four cases"
    low, high = results["interval"]
    assert low <= results["difference"] <= high
    assert set(results["conclusions"].values()) <= {"better", "worse", "not shown"}
    assert (
        results["spoiled_dice"]["right, and a speck 11 mm beside it"]
        > 0.97
        > results["spoiled_dice"]["nothing found"]
        == 0
    )
    assert results["threshold_leak"][0] >= results["threshold_leak"][1], "the best on the test is the best on the test"


def test_the_baseline_of_lesson_05_learns_with_the_settings_of_the_lesson(small_data, tmp_path, monkeypatch):
    """Else its figure compares two arms that find nothing; the other tests train for 3 steps."""
    lesson = nbformat.read(ROOT / "notebooks" / "05_cross_dataset_evaluation.ipynb", as_version=4)
    (cell,) = (cell.source for cell in lesson.cells if "summary = ablate(" in cell.source)
    monkeypatch.setattr(ablation, "ablate", partial(ablation.ablate, parts=["C"], progress=False))
    names = {"profile": "laptop", "seed": 0, "overrides": {}, "cases": find_cases(small_data)}
    exec(cell, names | {"new_folder": lambda name: tmp_path / name})
    dice = [float(r["dice"]) for r in read_rows(tmp_path / "05/comparison/cases.csv") if r["arm"] == "segmentation"]
    assert sum(dice) / len(dice) > 0.1  # measured 0.30


@pytest.mark.parametrize(("files", "given"), [([".part"], "hospitals"), (["imagesTr"], "msd")], ids=["cut", "there"])
def test_lesson_07_takes_a_source_whose_download_was_cut_for_missing(tmp_path, monkeypatch, files, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("dualtask_lite.cases.phantom.make_phantom", lambda folder, **_: folder)
    for file in files:
        (tmp_path / "data" / "msd" / file).mkdir(parents=True)
    lesson = nbformat.read(ROOT / "notebooks" / "07_real_data_real_gpus.ipynb", as_version=4)
    found = {"data_dir": "", "seed": 0}
    for part in ("import find_cases, ", "fetched = ["):
        (cell,) = (cell.source for cell in lesson.cells if cell.cell_type == "code" and part in cell.source)
        exec(cell, found)
    assert Path(found["given"]).name == given


def check_05b(results):
    differences = results["differences"]
    assert {"conversion", "full"} <= differences.keys() == results["conclusions"].keys() == results["verdict"].keys()
    assert set(results["conclusions"].values()) <= {"better", "worse", "not shown"}
    assert all(words.startswith(f"{differences[arm]:+.3f}") for arm, words in results["verdict"].items())
    assert results["trainings"] >= 3
    assert 0 <= results["case"]["worse"] < results["case"]["better"] <= 1


def check_06(results):
    assert results["cases"] == 4
    assert 0 <= results["tumour_dice"] <= 1
    assert results["dice"]["good"] >= results["dice"]["median"] >= results["dice"]["failed"]
    assert set(results["aurc"]) >= {"heads_mask", "views_mask", "unsure"}
    assert all(0 <= area <= 1 for area in (*results["aurc"].values(), results["aurc_useless"]))


def check_07(results):
    assert results["difference"] == 0, "a cut changes nothing"
    assert results["errors_found"] == 3
    assert results["steps"] == SMALL["07"]["optimiser.steps"]
    assert results["same_grid"]
    assert results["bundle"]


def check_08(results):
    assert results["steps"] == SMALL["08"]["optimiser.steps"]
    assert results["cases"] == 7, "one of eight patients has no tumour"
    low, high = results["interval"]
    assert low <= results["difference"] <= high
    assert results["hand_ins"] == 1


RESULTS = {
    "00": check_00,
    "01": check_01,
    "02": check_02,
    "03": check_03,
    "04": check_04,
    "05": check_05,
    "05b": check_05b,
    "06": check_06,
    "07": check_07,
    "08": check_08,
}


def test_index_leads_to_every_page(tmp_path):
    html = "<img alt='a tumour' src='data:image/png;base64,'>"
    manifest = {"results": {"dice": 0.5}, "peak_memory_mb": 500.0, "versions": {"torch": "2"}}
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
    for name in ("cases.csv", "case.html"):
        (tmp_path / "runs" / name).touch()
    lesson = build.Executed("99_title", notebook)
    text = build.index([lesson], tmp_path)
    for part in (
        'href="99_title.html"',
        'href="glossary.html"',
        "99 A title",
        "What it answers.",
        html,
        "12 s",
        "500 MB",
        'href="runs/case.html"',
        'href="runs"',
        'alt="The method on case',
    ):
        assert part in text
    assert "cases.csv" not in text, "pages are for looking at; a list of every file is not"
    check_page(re.sub(r"<a [^>]*>", "", text))
    assert build.measurement([lesson])["lessons"]["99_title"]["seconds"] == 12
    assert "12 s with 0.5 GB" in build.in_words(build.measurement([lesson]), "99_title")
    assert build.in_words(build.measurement([]), "99_title") == "Not measured yet."


def part_of_readme(part, *made_by):
    """What stands between the two marks of a part."""
    first, last = marks(part, *made_by)
    _, start, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(first)
    lines, end, _ = rest.partition(last)
    assert start and end  # noqa: PT018
    return lines.strip()


def test_the_figure_in_the_readme_is_the_drawn_one():
    figure = build.pictures.framework()
    assert part_of_readme("figure") == f"![{figure.alt}](data/results/framework.png)"
    file = ROOT / "data" / "results" / "framework.png"
    assert Image.open(file).info["Description"] == figure.alt
    assert file.stat().st_size < 200_000


def test_readme_has_the_question_of_each_lesson():
    assert set(ANSWERS) == {build.number_of(source.stem) for source in build.lessons()}
    assert all(line.count("|") == 5 and "|  |" not in line for line in build.readme_table().splitlines()[:-2])


def test_the_times_in_the_readme_are_the_measured_ones():
    measured = set(build.measured()["lessons"])
    if measured:
        assert measured == {source.stem for source in build.lessons()}, "make demo, then make times"
    assert part_of_readme("measured times") == (build.readme_table() if measured else "")


def test_measured_times_are_kept(tmp_path, monkeypatch, capsys):
    run = {"title": "99 A title", "seconds": 12, "memory_mb": 512}
    known = {"command": "make demo", "date": "2026-01-02", "device": "CPU", "cores": 2, "lessons": {"99_title": run}}
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "lessons.json").write_text(json.dumps(known))
    monkeypatch.setattr(build, "MEASURED", tmp_path / "lessons.json")
    monkeypatch.setattr(build, "README", tmp_path / "README.md")
    monkeypatch.setattr(build, "write_notebooks", lambda: None)
    build.README.write_text("before\n")
    with pytest.raises(SystemExit, match="no place"):
        build.keep_times(tmp_path / "demo")
    moving = build.animations.Animation("moves", [Image.new("RGB", (4, 4))], 1, "words", "caption")
    monkeypatch.setattr(build.animations, "draw", lambda: [moving])
    places = [marks(part) for part in ("figure", "moving pictures", "pictures", "measured times")]
    build.README.write_text("before\n" + "between\n".join(f"{first}\nold\n{last}\n" for first, last in places))
    build.keep_times(tmp_path / "demo")
    *_, (_, end), (start, last) = places
    assert build.README.read_text().endswith(f"old\n{end}\nbetween\n{start}\n{build.readme_table()}\n{last}\n")
    assert (tmp_path / "framework.png").exists()
    assert (tmp_path / "moves.webp").exists()
    assert f"{moving.markdown()}\n" in build.README.read_text()
    (tmp_path / "demo" / "slices.jpg").write_bytes(b"jpeg")
    (tmp_path / "demo" / "pictures.md").write_text("![words](data/results/slices.jpg)\n")
    build.keep_times(tmp_path / "demo")
    text = build.README.read_text()
    assert text.startswith(f"before\n{places[0][0]}\n![The method on case")
    assert f"{places[2][0]}\n![words](data/results/slices.jpg)\n{end}\nbetween\n" in text
    assert (tmp_path / "slices.jpg").read_bytes() == b"jpeg"
    assert "| [99 A title](notebooks/99_title.ipynb) |  | 12 s, 0.5 GB |  |" in text
    assert "2026-01-02" in text
    assert build.measured() == known


def test_readme_pictures_are_small_and_have_alt_text():
    shown = re.findall(r"!\[([^]]*)]\(([^)]*)\)", part_of_readme("pictures"))
    assert [file for _, file in shown] == ["data/results/slices.jpg"]
    for words, file in shown:
        assert re.search(r"tumour [^.]*\d", words)
        assert (ROOT / file).stat().st_size < 150_000


def test_a_page_shows_the_picture_that_stands_beside_a_widget():
    both = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/html": "<p>the picture</p>"}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", both)])
    text = build.page(nbformat.v4.new_notebook(cells=[cell]), "x")
    assert "the picture" in text
    assert "model_id" not in text


def test_glossary_page_has_the_places_that_pages_link_to():
    text = build.glossary_page()
    check_page(text)
    assert all(f'id="{word}"' in text for word in build.terms())
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("[band](glossary.md#band)")])
    assert 'href="glossary.html#band"' in build.page(notebook, "x")
