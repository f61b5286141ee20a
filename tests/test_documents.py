"""The pages that people read: links lead somewhere, commands run, numbers come from rows, the README is short."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "data" / "README.md",
    *sorted((ROOT / "data" / "results").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
]
NEEDS = re.compile(r"needs (a network|a card|\d cards)")
FOR_RESEARCHERS = ROOT / "notebooks" / "RESEARCHERS.md"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)


def commands(page):
    """Each command of a page's blocks for the shell, with the comment behind it."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text_of(page), flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [(command.strip(), comment.strip()) for command, _, comment in (line.partition("  #") for line in lines)]


def test_readme_has_at_most_900_words():
    visible = re.sub(r"<!--.*?-->|!\[[^]]*]\([^)]*\)", "", text_of(README), flags=re.S)
    visible = re.sub(r"\]\([^)]*\)", "]", visible)
    assert len(re.findall(r"\S*\w\S*", visible)) <= 900


@each_page
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)", prose(page)):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", target), target
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(file), flags=re.M)
            assert anchor in {re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-") for words in headings}, target


@each_page
def test_every_command_of_a_page_exists_with_its_options(page):
    written = [command for command, _ in commands(page)] + re.findall(r"`([^`\n]+)`", prose(page))
    for command in written:
        found = re.match(r"(?:\S*/)?dualtask ((?:data )?[a-z]+)(.*)", command)
        if found is None:
            continue
        shown = CliRunner().invoke(app, [*found[1].split(), "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        assert set(re.findall(r"--[a-z-]+", found[2])) <= set(re.findall(r"--[a-z-]+", shown.output)), command


@each_page
def test_every_make_target_of_a_page_exists(page):
    written = [command for command, _ in commands(page)] + re.findall(r"`([^`\n]+)`", prose(page))
    targets = {found[1] for command in written if (found := re.match(r"make ([a-z]+)", command))}
    known = set(re.findall(r"^([a-z]+):.*?## ", text_of(ROOT / "Makefile"), flags=re.M))
    assert targets <= known


def test_every_command_for_researchers_runs(tmp_path, monkeypatch, phantom_folder, tiny_run):
    """In their order, with few steps on few cases; what needs a network or a card says so on its line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dualtask_lite.engine.bench.whole_case.CASE", (40, 30, 20))
    monkeypatch.setattr("dualtask_lite.engine.bench.timing.REPEATS", 3)
    scan = make_case("C", 5, size=(40, 40, 20)).load()
    scan.save(scan.volume.astype(np.int16), "ct.nii.gz")
    ours = {"/my/cts": str(phantom_folder), "/my/dicom": "ct.nii.gz"}
    tiny_run = tiny_run | {"optimiser.batch": 2}  # two views of one sample are two images
    small = [word for key, value in tiny_run.items() for word in ("--set", f"{key}={value}")]
    ran = 0
    for command, comment in commands(FOR_RESEARCHERS):
        if NEEDS.search(comment):
            continue
        program, *words = (ours.get(word, word) for word in shlex.split(command))
        assert program == ".venv/bin/dualtask"
        if words[0] in ("train", "ablate", "bench") and "--resume" not in words:
            words += small
        if words[0] == "ablate":
            words += ["--seeds", "1"]
        if words[0] in ("train", "ablate") and "--resume" not in words:
            words += ["--source", str(phantom_folder)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        ran += 1
    assert ran >= 10


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, phantom_folder, cascade):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", text_of(README), flags=re.M | re.S)
    assert len(code.splitlines()) <= 10
    exec(code.replace("/my/cts", str(phantom_folder)).replace("runs/laptop-cascade", str(cascade)), {})
    assert {path.name for path in tmp_path.iterdir()} == {"distance.nii.gz", "case.html"}
