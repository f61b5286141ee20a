"""A wheel alone is a course: it holds the notebooks, and a command writes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BOTH = sorted(p.relative_to(ROOT / "notebooks").as_posix() for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_lessons_command_writes_notebooks_and_keeps_changed_files(typed, tmp_path):
    code, output, _ = typed("lessons", tmp_path / "course", "--json")
    assert code == 0
    assert [Path(path).name for path in json.loads(output)["written"]] == [*BOTH, "glossary.md"]
    mine = tmp_path / "course" / BOTH[0]
    assert mine.read_bytes() == (ROOT / "notebooks" / BOTH[0]).read_bytes()
    mine.write_text("my answers")
    code, output, _ = typed("lessons", tmp_path / "course", "--solutions")
    assert code == 0
    assert f"wrote {len(BOTH)} files" in output
    assert f"kept {len(BOTH) + 1} files that existed" in output
    assert mine.read_text() == "my answers"
    assert sorted(path.name for path in (tmp_path / "course" / "solutions").iterdir()) == BOTH


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The lessons of a clone, in which somebody may work."""
    lessons = shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.setattr("dualtask_lite.cli.lessons.lessons_folder", lambda: lessons)
    return lessons


def test_a_notebook_that_was_run_in_a_clone_is_not_handed_out(clone, typed, tmp_path):
    """It may hold the answers of the instructor."""
    notebook = nbformat.read(clone / BOTH[2], 4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").execution_count = 1
    nbformat.write(notebook, clone / BOTH[2])
    code, _, error = typed("lessons", tmp_path / "course")
    assert code == 1
    assert f"{BOTH[2]}: was run, so it may hold answers" in error
    assert not (tmp_path / "course").exists()


def test_a_copy_of_a_lesson_in_a_clone_is_not_handed_out(clone, typed, tmp_path):
    shutil.copyfile(clone / BOTH[2], clone / BOTH[2].replace(".ipynb", "-Copy1.ipynb"))
    assert typed("lessons", tmp_path / "course")[0] == 0
    assert sorted(path.name for path in (tmp_path / "course").iterdir()) == [*BOTH, "glossary.md"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The contents of the wheel, and nothing of the clone around them."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_wheel_writes_both_builds_without_an_address(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "dualtask_lite", "lessons", "course", "--solutions"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for name in (*BOTH, *(f"solutions/{name}" for name in BOTH)):
        assert (tmp_path / "course" / name).read_bytes() == (ROOT / "notebooks" / name).read_bytes()
    cells = json.loads((tmp_path / "course" / BOTH[0]).read_text(encoding="utf-8"))["cells"]
    (bootstrap,) = ("".join(c["source"]) for c in cells if "bootstrap" in c["metadata"].get("tags", []))
    refuse = "import subprocess; subprocess.run = lambda *a, **k: exit('it installs')\n"
    print_path = "\nimport dualtask_lite; print(dualtask_lite.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", refuse + bootstrap + print_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize("content", [None, "<<<<<<< HEAD\n{}", "{}", "[]"])
def test_a_damaged_notebook_of_a_clone_is_named(clone, typed, tmp_path, content):
    """Such as one in the middle of a merge."""
    lesson = clone / BOTH[2]
    lesson.unlink()
    if content:
        lesson.write_text(content)
    code, _, error = typed("lessons", tmp_path / "course")
    assert code == 1
    assert f"{BOTH[2]}: is missing or damaged; restore the lesson with make notebooks" in error
