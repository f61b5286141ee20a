"""The address of the repository: set once, used by buttons, bootstrap cell and README; none without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import address
import nbformat
import pytest
from readme import marks

ROOT = Path(__file__).resolve().parents[2]
GITHUB = "https://github.com/ada/course"


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Set an address as make does, in a folder of its own."""
    monkeypatch.setattr(address, "KEPT", tmp_path / "address.txt")
    monkeypatch.setattr(address, "README", tmp_path / "README.md")
    first, last = marks(address.PART, address.MADE_BY)
    address.README.write_text(f"before\n{first}\nold\n{last}\nafter\n")

    def set_address(text):
        monkeypatch.setattr(sys, "argv", ["address.py", text])
        address.main()

    return set_address


def test_no_file_holds_a_placeholder():
    for path in [ROOT / "README.md", *(ROOT / "notebooks").rglob("*.ipynb"), *(ROOT / "notebooks").rglob("*.py")]:
        assert not re.search(r"github\.com/OWNER", path.read_text(encoding="utf-8")), path


def test_without_an_address_there_is_no_button(monkeypatch, tmp_path):
    monkeypatch.setattr(address, "KEPT", tmp_path / "none")
    assert address.links("notebooks/00_start_here.ipynb") == ""
    assert 'ADDRESS = ""' in address.bootstrap()
    assert "http" not in address.readme_lines()


def test_an_address_on_github_gives_buttons_bootstrap_and_readme(use):
    use(f"{GITHUB}.git")
    links = address.links("notebooks/solutions/01_x.ipynb")
    assert "(https://colab.research.google.com/github/ada/course/blob/main/notebooks/solutions/01_x.ipynb)" in links
    assert "(https://mybinder.org/v2/gh/ada/course/main?urlpath=lab/tree/notebooks/solutions/01_x.ipynb)" in links
    assert f'ADDRESS = "{GITHUB}"' in address.bootstrap()
    text = address.README.read_text()
    assert "colab-badge.svg" in text
    assert f"git clone {GITHUB}`" in text
    assert "\nold\n" not in text


def test_an_address_elsewhere_sets_bootstrap_without_buttons(use):
    use("https://git.example.org/ada/course/")
    assert address.links("notebooks/01_x.ipynb") == ""
    assert 'ADDRESS = "https://git.example.org/ada/course"' in address.bootstrap()


@pytest.mark.parametrize("text", ["", "ada/course", 'https://x.org/"; import os', "https://x.org/a b", "git@x.org:a"])
def test_invalid_git_address_is_refused(text, use):
    with pytest.raises(SystemExit, match="not an address"):
        use(text)
    assert not address.KEPT.exists()


def test_the_committed_readme_holds_the_committed_address():
    first, last = marks(address.PART, address.MADE_BY)
    assert f"{first}\n{address.readme_lines()}\n{last}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_notebook_holds_the_committed_address():
    for path in (ROOT / "notebooks").glob("**/[0-9]*.ipynb"):
        if not {"runs", ".ipynb_checkpoints"} & set(path.parts):
            opening, bootstrap = nbformat.read(path, 4).cells[:2]
            assert bootstrap.source.partition("\n")[2] == address.bootstrap()
            assert opening.source.endswith(address.links(path.relative_to(ROOT).as_posix()))


def test_make_passes_the_address_on():
    command = ["make", "--dry-run", "notebooks", f"ADDRESS={GITHUB}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"notebooks/address.py '{GITHUB}'" in done.stdout
    plain = subprocess.run(command[:-1], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "address.py" not in plain.stdout
