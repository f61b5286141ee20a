"""nbgrader itself makes an assignment of a lesson and grades what learners hand in."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from dualtask_lite.show.exercises.judge import find_exercise

nbgrader = pytest.importorskip("nbgrader", reason="the dev extra is not installed")
ROOT = Path(__file__).resolve().parents[2]
NAME = "02_task_conversion"  # needs no training


def load_builder():
    spec = importlib.util.spec_from_file_location("notebook_builder", ROOT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load_builder()


def assignment(source):
    return build.grading.as_assignment(build.to_be_assigned(source))


@pytest.mark.parametrize("source", build.lessons(), ids=lambda path: path.stem)
def test_every_exercise_is_an_answer_and_a_locked_test(source):
    notebook = assignment(source)
    first, *exercises = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert first.metadata.nbgrader.grade_id == "parameters"
    assert (first.metadata.nbgrader.locked, first.metadata.nbgrader.grade) == (True, False)
    marks = [cell.metadata.nbgrader for cell in exercises]
    assert [mark.solution for mark in marks] == [True, False] * (len(marks) // 2)
    assert all(mark.locked == mark.grade == (not mark.solution) for mark in marks)
    assert sum(mark.get("points", 0) for mark in marks) == len(marks) // 2 >= 3
    for mark, cell in zip(marks, exercises, strict=True):
        if mark.solution:
            blank, _, rest = cell.source.partition("### BEGIN SOLUTION")
            assert blank.rstrip().endswith("= ...")
            assert rest.rstrip().endswith("### END SOLUTION")


def test_a_check_that_the_learner_defined_gives_no_point():
    exercise = [("blank", "tumour_ml = ..."), ("solution", "tumour_ml = 1"), ("check", 'check("00.2", tumour_ml)')]
    cells = [nbformat.v4.new_code_cell(text, metadata={"tags": [tag]}) for tag, text in exercise]
    *_, checked = build.grading.as_assignment(nbformat.v4.new_notebook(cells=cells)).cells

    def check(number, answer):
        return SimpleNamespace(state="right")

    lesson = {"tumour_ml": ..., "check": check, "display": print}
    with pytest.raises(AssertionError, match="Not attempted"):
        exec(checked.source, lesson)


def settings(folder):
    from traitlets.config import PyFileConfigLoader

    build.grading.write_course(folder, {}, build.GLOSSARY)
    return PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()


def test_output_without_end_is_cut(tmp_path):
    config = settings(tmp_path)
    execute = config.Autograde.autograde_preprocessors[0](config=config)
    texts = ("for _ in range(50): print('x' * 100_000, flush=True)", "print('next')")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in texts])
    long, following = execute.preprocess(notebook, {})[0].cells
    assert 1_000_000 < sum(len(output.text) for output in long.outputs) < 1_500_000
    assert following.outputs[0].text.startswith("next")


def test_a_copied_cell_does_not_stop_the_grading(tmp_path):
    """JupyterLab copies a cell with nbgrader's mark; nbgrader 0.9.6 ends for every learner at what it leaves of it."""
    from nbgrader.preprocessors import DeduplicateIds, OverwriteCells

    config = settings(tmp_path)
    steps = config.Autograde.sanitize_preprocessors
    notebook = assignment(next(path for path in build.lessons() if path.stem == NAME))
    marked = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    notebook.cells = [*copy.deepcopy(marked[1:3]), *notebook.cells]
    DeduplicateIds().preprocess(notebook, {})
    notebook.cells.append(copy.deepcopy(marked[1]))
    del notebook.cells[-1].metadata.nbgrader["grade_id"]  # as OverwriteCells leaves a cell of another lesson
    for step in steps[steps.index(OverwriteCells) + 1 :]:
        run = step().preprocess if isinstance(step, type) else step
        notebook, _ = run(notebook, {})
    assert [cell for cell in notebook.cells if "nbgrader" in cell.metadata] == marked


def test_an_exercise_that_is_not_attempted_does_not_end_run_all():
    """JupyterLab goes on after a cell with this tag, and so does nbclient."""
    exercise = [("blank", "tumour_ml = ..."), ("solution", "tumour_ml = 1"), ("check", 'check("00.2", tumour_ml)')]
    cells = [nbformat.v4.new_code_cell(text, metadata={"tags": [tag]}) for tag, text in exercise]
    notebook = build.grading.as_assignment(nbformat.v4.new_notebook(cells=cells))
    notebook.cells[0].source = "tumour_ml = ..."
    notebook.cells.append(nbformat.v4.new_code_cell("print('next')"))
    *_, checked, following = NotebookClient(notebook, kernel_name="python3").execute().cells
    assert [output.output_type for output in checked.outputs] == ["display_data", "error"]
    assert following.outputs[0].text == "next\n"


def test_the_instructors_settings_stay_when_the_course_is_written_again(tmp_path):
    settings(tmp_path)
    config = tmp_path / "nbgrader_config.py"
    config.write_text(config.read_text() + 'c.CourseDirectory.course_id = "autumn"\nc.Exchange.root = "/exchange"\n')
    (tmp_path / "dualtask_grading.py").write_text("of an older version")
    found = settings(tmp_path)
    assert (found.CourseDirectory.course_id, found.Exchange.root) == ("autumn", "/exchange")
    assert found.ExecutePreprocessor.timeout == 600


def test_an_assignment_has_no_button_to_the_notebook_that_cannot_be_graded(monkeypatch, tmp_path):
    address = tmp_path / "address.txt"
    address.write_text("https://github.com/me/course")
    monkeypatch.setattr(build.address, "KEPT", address)
    source = build.lessons()[0]
    assert "colab.research" in nbformat.writes(build.make_notebook(source, ("blank",)))
    assert "colab.research" not in nbformat.writes(build.to_be_assigned(source))


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one lesson, released."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    folder = tmp_path_factory.mktemp("course")
    (source,) = (path for path in build.lessons() if path.stem == NAME)
    notebook = build.to_be_assigned(source)
    given = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    given.source = given.source.replace("overrides: dict = {}", 'overrides: dict = {"steps": 1}')
    build.grading.write_course(folder, {NAME: notebook}, build.GLOSSARY)
    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    config.CourseDirectory.root = str(folder)
    api = NbGraderAPI(config=config)
    with pytest.MonkeyPatch.context() as patch:  # nbgrader calls alembic by its name, as in an activated environment
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        made = api.generate_assignment(NAME)
        assert made["success"], made.get("error") or made.get("log")
        yield folder, api


def hand_in(folder, student, answers, parameters=None):
    """Copy the released notebook, with these answers by number, to where nbgrader collects."""
    released = folder / "release" / NAME
    place = folder / "submitted" / student / NAME
    shutil.copytree(released, place)
    notebook = nbformat.read(place / f"{NAME}.ipynb", 4)
    for cell in notebook.cells:
        number = cell.metadata.get("nbgrader", {}).get("grade_id", "").removeprefix("answer-").replace("-", ".")
        if number in answers:
            cell.source = answers[number]
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = parameters or cell.source
    nbformat.write(notebook, place / f"{NAME}.ipynb")


def answers_of(variant):
    """The answers of the source that are tagged so, by number."""
    (source,) = (path for path in build.lessons() if path.stem == NAME)
    cells = build.make_notebook(source, (variant,)).cells
    tagged = [cell for cell in cells if variant in cell.metadata.get("tags", [])]
    return {f"02.{i + 1}": cell.source for i, cell in enumerate(tagged)}


def test_the_released_notebook_holds_no_solution(course):
    folder, _ = course
    text = (folder / "release" / NAME / f"{NAME}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    assert text.count("= ...") == len(answers_of("solution"))
    assert find_exercise("02.4").solution not in text


@pytest.mark.filterwarnings("ignore:Object of type")  # nbgrader's own use of its database
@pytest.mark.parametrize("variant", ["blank", "wrong", "solution"])
def test_nbgrader_gives_points_for_right_answers_only(course, variant):
    folder, api = course
    hand_in(folder, variant, answers_of(variant))
    graded = api.autograde(NAME, variant)
    assert graded["success"], graded.get("error") or graded.get("log")
    with api.gradebook as gradebook:
        submission = gradebook.find_submission(NAME, variant)
        points = (submission.score, submission.max_score)
    every = len(answers_of(variant))
    assert points == (every if variant == "solution" else 0, every)


def points_of(api, student):
    with api.gradebook as gradebook:
        return gradebook.find_submission(NAME, student).score


@pytest.mark.filterwarnings("ignore:Object of type")
def test_neither_a_warning_nor_a_folder_of_the_learner_costs_a_point(course):
    """nbgrader gives none to a test that prints to stderr; and no other machine has the learner's folders."""
    folder, api = course
    answers = {number: f"{text}\nimport sys" for number, text in answers_of("solution").items()}
    last = max(answers)
    answers[last] += (
        "\nimport atexit, threading, time\ndef nag():\n    while True:\n        print('!', file=sys.stderr)"
    )
    answers[last] += "\n        time.sleep(0.001)\nthreading.Thread(target=nag, daemon=True).start()"
    hand_in(folder, "warned", answers, parameters='data_dir = "/content/drive"\nraise OSError("no such folder")')
    graded = api.autograde(NAME, "warned")
    assert graded["success"], graded.get("error") or graded.get("log")
    assert points_of(api, "warned") == len(answers)
    released, run = (
        nbformat.read(place / NAME / f"{NAME}.ipynb", 4).cells
        for place in (folder / "release", folder / "autograded" / "warned")
    )
    given, used = (
        next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
        for cells in (released, run)
    )
    assert used == given


@pytest.mark.filterwarnings("ignore:Object of type")
def test_a_notebook_that_was_not_released_is_named(course):
    """It would have no points, although its answers are right."""
    folder, api = course
    hand_in(folder, "other", {})
    nbformat.write(
        build.make_notebook(next(path for path in build.lessons() if path.stem == NAME), ("solution",)),
        folder / "submitted" / "other" / NAME / f"{NAME}.ipynb",
    )
    graded = api.autograde(NAME, "other")
    assert not graded["success"]
    assert "this is not the notebook that was released" in graded["log"]
