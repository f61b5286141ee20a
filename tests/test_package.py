"""The package as a whole: the core needs no Jupyter, and one description says what is installed."""

import csv
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from dualtask_lite import machine
from dualtask_lite.resources import cache_folder, data_file

ROOT = Path(__file__).resolve().parents[1]


def test_every_module_imports_without_jupyter():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "dualtask_lite").rglob("*.py")
        if path.name != "__main__.py"
    ]
    jupyter = {"IPython", "ipykernel", "ipywidgets", "jupyterlab", "ipyniivue", "itkwidgets", "papermill", "nbconvert"}
    code = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\n"
    code += f"found = {jupyter} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_prediction_imports_no_slow_package_it_does_without():
    """The grammar of rfc3987-syntax takes 2 to 6 s and Fabric 2 s of each process; both still import later."""
    code = "import sys; import dualtask_lite.engine.predict\n"
    code += "slow = {'rfc3987_syntax', 'lightning_fabric'} & set(sys.modules); assert not slow, slow\n"
    code += "import jsonschema, rfc3987_syntax; assert rfc3987_syntax.is_valid_syntax('iri', 'https://a.example/b')\n"
    code += "import dualtask_lite.engine.training.train"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["nothing chosen", "a count of one's own", "a policy of one's own"],
)
def test_threads_spin_briefly_unless_configured(chosen, spins):
    """The setting has to stand before torch, and with it OpenMP, is loaded."""
    plain = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, sys, dualtask_lite; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=plain | chosen, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [spins, "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python itself names the processor")
@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU: 2 GHz\n", "Some CPU: 2 GHz"),
        ("CPU part\t: 0xd40\n", platform.machine()),
    ],
    ids=["with a name", "ARM, without one"],
)
def test_processor_is_named(content, name, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(Path, "read_text", lambda path, **_: content)
    assert machine.processor() == name


def test_environment_is_python_pip_and_this_package():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, pip = environment["dependencies"]
    assert [re.split("[=<>]", name)[0] for name in plain] == ["python", "pip"]
    assert [name.split("[")[0] for name in pip["pip"]] == ["-c constraints.txt", "-e ."]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_clean_keeps_what_learners_handed_in(tmp_path):
    """The course of nbgrader holds its gradebook and the submissions, which nothing can make again."""
    kept, made = tmp_path / "build" / "nbgrader" / "gradebook.db", tmp_path / "build" / "demo" / "index.html"
    for file in (kept, made):
        file.parent.mkdir(parents=True)
        file.touch()
    subprocess.run(["make", "-f", ROOT / "Makefile", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert kept.exists()
    assert not made.parent.exists()


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a clone and git")
def test_sdist_holds_every_committed_file(tmp_path):
    """Its tests read the pages, the sources of the lessons and the programs that build them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    build = f"from hatchling.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()} <= held


def test_every_pin_is_exact():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition(";")[0].strip() for line in lines if line and not line.startswith("#")]
    assert pins
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", pin) for pin in pins)
    assert "torch==2.13.0" in pins


READ = [
    "centres.yaml",
    "sources.yaml",
    "results/ablation_samples/cases.csv",
    "results/exam/cases.csv",
    "results/reference/cases.csv",
    "results/reference/curves.csv",
    "results/reference/summary.json",
]


@pytest.mark.parametrize("name", READ)
def test_data_files_exist_and_are_in_the_wheel(name):
    text = data_file(name).read_text(encoding="utf-8")
    assert list(csv.DictReader(text.splitlines())) if name.endswith(".csv") else yaml.safe_load(text)  # JSON is YAML
    assert f'"data/{name}" = "dualtask_lite/_data/{name}"' in (ROOT / "pyproject.toml").read_text()


def test_cache_folder_follows_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("DUALTASK_DATA")
    assert cache_folder() == ROOT / "data" / "cache"
    assert "data/cache/" in (ROOT / ".gitignore").read_text().splitlines()
