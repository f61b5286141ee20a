"""``dualtask data``: list, get, and their error messages."""

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from dualtask_lite.cases import download
from dualtask_lite.cases.sources import PHANTOM_CASES, find_cases, sources
from dualtask_lite.cli import app
from dualtask_lite.files import checksum_of


def call(*words):
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def refused(typed):
    """Exit code and the one line on standard error that ends a ``dualtask data`` command."""

    def run(*words):
        code, _, err = typed("data", *words)
        return code, err.splitlines()[-1]

    return run


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE_S", 0)


@pytest.fixture
def task07(phantom_folder, server, monkeypatch):
    """A centre of the phantom as the archive behind MONAI's address."""
    from monai.apps import DecathlonDataset

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        packed.add(phantom_folder / "A", "Task07_Pancreas")
    server.files["/Task07_Pancreas.tar"] = out.getvalue()
    (server_path,) = server.files
    monkeypatch.setitem(DecathlonDataset.resource, "Task07_Pancreas", server.url + server_path)
    archive = phantom_folder.parent / "archive"
    archive.write_bytes(out.getvalue())
    monkeypatch.setitem(DecathlonDataset.md5, "Task07_Pancreas", checksum_of(archive, "md5"))
    return server


def test_list_shows_the_registry_and_the_local_copies(tmp_path):
    listed = json.loads(call("list", "--json"))
    assert list(listed) == list(sources())
    assert [name for name, one in listed.items() if one["here"]] == ["phantom", "phantom-48", "exam"]
    (tmp_path / "cache" / "nih").mkdir(parents=True)
    (tmp_path / "cache" / "nih" / ".labels.zip.part").touch()
    assert not json.loads(call("list", "--json"))["nih"]["here"], "a download was interrupted"
    (tmp_path / "cache" / "nih" / "Pancreas-CT").mkdir()
    assert json.loads(call("list", "--json"))["nih"]["here"]
    shown = call("list")
    for one in sources().values():
        assert one.licence in shown
        assert f"{one.size_gb:g} GB" in shown


def test_downloaded_source_is_found_by_name(task07, typed):
    task07.cuts = [10_000]
    code, out, _ = typed("data", "get", "msd", "--json")
    assert code == 0
    got = json.loads(out)
    assert (got["cases"], got["labelled"]) == (4, 4)
    assert json.loads(call("check", "msd", "--json"))["cases"] == 4


def test_get_to_another_folder_names_the_next_command(task07, tmp_path):
    folder = tmp_path / "my set"
    assert f"dualtask data check '{folder}'\n" in call("get", "msd", "--out", folder)
    assert json.loads(call("check", folder, "--json"))["labelled"] == 4


@pytest.mark.parametrize("left", [[], [".Task07_Pancreas.tar.part"]])
def test_a_source_whose_download_failed_was_not_fetched(refused, left, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache" / "msd").mkdir(parents=True)
    for name in left:
        (tmp_path / "cache" / "msd" / name).touch()
    code, line = refused("check", "msd")
    assert code == 1
    assert "msd (CC BY-SA 4.0, 11.5 GB) was not fetched yet; dualtask data get msd; or by hand" in line


@pytest.mark.parametrize("source", ["", "msd,", ",x"])
def test_an_empty_source_is_not_the_current_folder(refused, source, tmp_path, monkeypatch):
    a_source(tmp_path, [0], [[0, 1]])
    monkeypatch.chdir(tmp_path)
    code, line = refused("check", source)
    assert code == 1
    assert line.startswith(f"error: {source!r}: a source in it is empty; ")


@pytest.mark.parametrize(
    ("words", "made", "told"),
    [
        (["phantom"], "my-phantom", "my-phantom"),
        (["exam", "--seed", "7"], "my-exam", "my-exam"),
        (["exam", "--seed", "7", "--out", "exam"], "exam", os.path.join(".", "exam")),
        (["phantom", "--out", "msd"], "msd", os.path.join(".", "msd")),
    ],
)
def test_the_suggested_check_finds_what_was_made(words, made, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = call("make", *words, "--cases", 1, "--size", 24, 24, 12)
    assert out.strip() == f"made {made}; try: dualtask data check {told}"
    assert {case.image.parents[2] for case in find_cases(told)} == {tmp_path / made}


def test_the_suggested_check_finds_what_was_fetched(task07, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"try: dualtask data check {os.path.join('.', 'exam')}\n" in call("get", "msd", "--out", "exam")


def test_get_phantom_generates_it(tmp_path, monkeypatch, phantom_folder):
    monkeypatch.setattr("dualtask_lite.cases.sources._phantom", lambda name: phantom_folder)
    assert json.loads(call("get", "phantom", "--json"))["folder"] == str(phantom_folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["get", "mds"], "there is no source 'mds'; choose from: phantom, phantom-48, exam, msd"),
        (["get", "phantom", "--out", "here"], "dualtask data make phantom --out here"),
        (["get", "nih", "--offline", "--out", "nowhere"], "nowhere: does not exist; create it, then open"),
    ],
)
def test_error_is_one_line_with_a_remedy(refused, words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, line = refused(*words)
    assert code == 1
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("name", [name for name, source in sources().items() if source.how == "made"])
def test_the_command_to_make_a_generated_source_works(refused, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = refused("get", name, "--out", "my set")[1]
    words = shlex.split(line.partition("run dualtask data ")[2].replace("--seed N", "--seed 7"))
    assert line.endswith("--out 'my set'")
    with monkeypatch.context() as short:  # as many cases as it says would take minutes
        short.setattr("dualtask_lite.cases.phantom.make_phantom", lambda folder, **how: made.update(how) or folder)
        short.setattr("dualtask_lite.cases.exam.make_exam", lambda folder, **how: made.update(how) or folder)
        made = {}
        out = call(*words)
    assert made["cases"] == PHANTOM_CASES[name]
    assert out.endswith("dualtask data check 'my set'\n")


@pytest.mark.parametrize(("missing", "words"), [(1, "1 path"), (2, "2 paths")])
def test_check_fails_when_a_listed_image_is_missing(refused, tmp_path, missing, words):
    folder = a_source(tmp_path / "X", [0], [[0, 1, 2]])
    listed = [{"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"} for n in range(1 + missing)]
    (folder / "dataset.json").write_text(json.dumps({"training": listed}))
    assert refused("check", folder) == (1, f"error: skipped {words} where a CT may be; see the list above")


def test_web_page_error_names_the_file_to_fetch(refused, task07):
    task07.html.add("/Task07_Pancreas.tar")
    code, line = refused("get", "msd")
    assert code == 1
    assert "web page" in line
    assert sources()["msd"].by_hand in line


def test_help_and_list_need_no_torch():
    for words in (["data", "get", "--help"], ["data", "list"]):
        code = f"import sys; from dualtask_lite.cli import app\ntry: app({words!r})\n"
        code += "except SystemExit as end: assert not end.code\n"
        code += "assert not {'torch', 'monai', 'openpyxl'} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class Terminal(io.StringIO):
    """A standard error stream that is a terminal."""

    def isatty(self):
        return True


def test_progress_is_shown_on_a_terminal(task07, monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    app(["data", "get", "msd", "--out", str(tmp_path / "set"), "--json"], standalone_mode=False)
    assert "unpacking Task07_Pancreas.tar" in sys.stderr.getvalue()


def a_source(folder, contents, labels):
    """A case for each pair of a content (its seed) and the values of its label."""
    for number, (content, values) in enumerate(zip(contents, labels, strict=True)):
        voxels = np.random.default_rng(content).integers(-1000, 500, (8, 8, 8)).astype(np.int16)
        label = np.resize(np.uint8(values), (8, 8, 8))
        for part, array in (("imagesTr", voxels), ("labelsTr", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), folder / part / f"c{number}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("contents", "labels", "expected"),
    [
        ([0, 1, 2], [[0, 1], [0, 2], [0]], []),
        ([0, 1, 0, 0], [[0, 1, 2]] * 4, ["c0 and c2 and c3 hold the same image"]),
        ([0, 1], [[0, 1], [0, 1]], ["none of the 2 labels holds tumour (2)"]),
        ([0, 0], [[2, 0], [2, 0]], ["c0 and c1 hold the same image", "none of the 2 labels holds pancreas (1)"]),
    ],
)
def test_check_reports_findings_about_all_cases_together(tmp_path, contents, labels, expected):
    found = json.loads(call("check", a_source(tmp_path / "X", contents, labels), "--json"))["findings"]
    assert [one["finding"] for one in found if one["case"] == "all"] == expected
    assert all(one["level"] == "warning" and one["remedy"] for one in found)
