"""Where lessons run: a platform with its own torch, an environment of conda, a course folder nobody may write to."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import venv
from importlib import metadata
from pathlib import Path

import address
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dualtask_lite.cases import sources
from dualtask_lite.resources import CASCADES, run_folder
from dualtask_lite.show import lesson

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = address.BOOTSTRAP.read_text(encoding="utf-8")  # without an address
PLATFORM_TORCH = "2.9.0"  # in the range (also of the MONAI that is here), and not the one that is pinned
NOBODY = 65534


def environment(**more):
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP"))} | more


@pytest.fixture
def platform(tmp_path):
    """The Python of a venv that sees this one's packages, but another torch, and not the package.

    The other torch is its metadata alone, which is all that pip looks at; what would be imported is the real one.
    """
    seen = tmp_path / "platform"
    seen.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "dualtask" not in path.name:
            (seen / path.name).symlink_to(path)
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=environment())
    packages = Path(found.stdout.strip())
    (packages / "platform.pth").write_text(str(seen))
    other = packages / f"torch-{PLATFORM_TORCH}.dist-info"
    other.mkdir()
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {PLATFORM_TORCH}\n")
    (other / "RECORD").write_text("")
    return python


def test_bootstrap_does_nothing_in_an_installed_environment(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it installs"))
    exec(compile(BOOTSTRAP, "bootstrap", "exec"), {})


def test_bootstrap_installs_from_the_clone_and_keeps_torch(platform):
    # No index: whatever is not there already would be a failure.
    offline = environment(PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    report = (
        "import json, importlib.metadata as m, dualtask_lite; "
        "print(json.dumps([dualtask_lite.__file__, m.version('torch'), m.version('numpy')]))"
    )
    done = subprocess.run(
        [platform, "-c", f"{BOOTSTRAP}\n{report}"],
        cwd=ROOT / "notebooks",
        env=offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, torch, numpy = json.loads(done.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(platform.parents[1]), "the package itself was installed"
    assert torch == PLATFORM_TORCH
    assert numpy == __import__("numpy").__version__


def test_bootstrap_without_clone_and_address_explains_installation(platform, tmp_path):
    done = subprocess.run(
        [platform, "-c", BOOTSTRAP], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(r"missing: pip install .*CLONE.*\.whl", line)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_bootstrap_without_clone_installs_from_the_git_address(platform, tmp_path, monkeypatch):
    course, learner = tmp_path / "course", tmp_path / "learner"
    for folder in ("dualtask_lite", "data"):
        shutil.copytree(ROOT / folder, course / folder, ignore=shutil.ignore_patterns("__pycache__", "cache"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, course)
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "A course"]):
        subprocess.run(["git", *words], cwd=course, check=True)
    monkeypatch.setattr(address, "KEPT", tmp_path / "address.txt")
    address.KEPT.write_text("https://git.example.org/ada/course")
    learner.mkdir()
    there = {  # what git looks for at the address lies in a folder
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{course.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address.read(),
    }
    offline = environment(PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    code = f"{address.bootstrap()}\nimport dualtask_lite; print(dualtask_lite.__file__)"
    done = subprocess.run(
        [platform, "-c", code], cwd=learner, env=offline | there, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(platform.parents[1]), "the package itself was installed"


def pip_part():
    """What conda, and repo2docker, hand to pip."""
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]


def test_conda_installs_what_make_installs():
    constraints, package = pip_part()
    (install,) = re.findall(r"pip install .*", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert constraints in install
    extras = set(re.findall(r"\w+", package.partition("[")[2]))
    made = re.findall(r"-e '\.\[(.+?)]'", install)[0].split(",")
    assert extras == set(made) - {"dev"}
    assert package.startswith("-e .")


def lend(requirement, seen):
    """Collect, with whatever they need in turn, the installed distributions that a requirement asks for."""
    name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
    if (name, extras) in seen:
        return
    found = seen[name, extras] = metadata.distribution(name)
    for inner in map(Requirement, found.requires or ()):
        if not inner.marker or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            lend(inner, seen)


@pytest.fixture
def clean(tmp_path):
    """The Python of a clean venv that sees what the pip part needs, and nothing else that is here.

    So nothing is downloaded, and yet pip must find that all of it goes together, and the package all that it imports.
    """
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]:
        pin = Requirement(line)
        if pin.name == "torch" and metadata.version("torch") not in pin.specifier:
            pytest.skip("not the pinned environment that make installs: pip would download another one")
    _, extras = pip_part()[-1].split(".")
    needed = {}
    lend(Requirement(f"dualtask-lite{extras}"), needed)
    for tool in ("pip", "hatchling", "editables"):
        lend(Requirement(tool), needed)
    lent = tmp_path / "lent"
    lent.mkdir()
    for one in needed.values():
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            if "dualtask" not in top and not (lent / top).is_symlink():
                (lent / top).symlink_to(one.locate_file(top))
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(str(lent))
    return tmp_path / "venv" / "bin" / "python"


def install(python, lines, tmp_path):
    """Give pip a requirements file, as conda does; there is no index, so what is not there already is a failure."""
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    offline = environment(PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    command = [python, "-m", "pip", "install", "-r", tmp_path / "requirements.txt"]
    return subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)


def test_the_pip_part_of_conda_installs_in_a_clean_venv(clean, tmp_path):
    (tmp_path / "constraints.txt").symlink_to(ROOT / "constraints.txt")
    done = install(clean, [*pip_part(), "numpy<2"], tmp_path)
    assert done.returncode != 0
    assert "ResolutionImpossible" in done.stderr, "what does not go together is refused"
    done = install(clean, pip_part(), tmp_path)
    assert done.returncode == 0, done.stderr
    imports = {
        ast.unparse(node)
        for source in (ROOT / "notebooks" / "source").glob("[0-9]*.py")
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    done = subprocess.run(
        [clean, "-c", "\n".join([*sorted(imports), "import dualtask_lite", "print(dualtask_lite.__file__)"])],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "dualtask_lite" / "__init__.py"
    assert (clean.parent / "dualtask").exists()


def use_the_course():
    """What the lessons do with the data, with the reference models and with their runs."""
    cases = sources.find_cases("phantom,exam")
    tumours = [case.load().has_tumour for case in cases]
    models = [run_folder(name).name for name in CASCADES]
    return {"cases": len(tumours), "models": models, "run": str(lesson.new_folder("04"))}


def code_of_the_instructor():
    """What the page for instructors runs to make everything that the lessons read."""
    page = (ROOT / "notebooks" / "INSTRUCTORS.md").read_text(encoding="utf-8")
    (code,) = re.findall(r'^python -c "\n(.*?)"$', page, flags=re.M | re.S)
    return code


def as_learner(folder, home):
    """Use the course in a process of its own, in which root becomes somebody who may not write everywhere."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.environ["HOME"] = str(home)
            os.chdir(folder)
            os.write(writer, json.dumps(use_the_course()).encode())
        except BaseException as error:
            os.write(writer, json.dumps({"error": repr(error)}).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return json.loads(answer.read())


@pytest.fixture
def open_folder():
    """A folder that everyone may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with users and fork")
def test_a_read_only_course_with_shared_data_serves_several_learners(open_folder, monkeypatch):
    course, data = open_folder / "course", open_folder / "data"
    course.mkdir()
    monkeypatch.setenv("DUALTASK_DATA", str(data))
    for name in ("phantom", "exam"):
        monkeypatch.setitem(sources.PHANTOM_CASES, name, 1)
    exec(code_of_the_instructor(), {})
    closed = [course, data, *data.rglob("*")]
    for path in closed:
        path.chmod(0o555 if path.is_dir() else 0o444)
    made = []
    for learner in ("ada", "ben", "ben"):
        home = open_folder / learner
        home.mkdir(exist_ok=True)
        if os.getuid() == 0:
            os.chown(home, NOBODY, NOBODY)
        done = as_learner(course, home)
        assert "error" not in done, done
        assert (done["cases"], done["models"]) == (4, list(CASCADES))
        assert Path(done["run"]).parent == home / "dualtask-runs"
        made.append(done["run"])
    assert len(set(made)) == 3
    assert {course, data, *data.rglob("*")} == set(closed), "nothing was added"
    for path in closed:
        path.chmod(0o755)


def test_runs_are_beside_the_notebook_if_writable(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first, second = lesson.new_folder("04"), lesson.new_folder("04")
    assert first != second
    assert first.parent == second.parent == Path("runs")
