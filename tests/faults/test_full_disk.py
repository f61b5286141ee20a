"""Disks that fill up and folders that cannot be made, at every place where the kit writes.

The disk is a limit on the size of files, which everybody may set, and a small one that root mounts; the writes fail
for real. What a user then meets is one line, and no half file. See ``cases/test_download.py`` for downloads.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from dualtask_lite.cases.results import NOT_FOR_DIAGNOSIS, result_files
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine import records
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging.ablation import ablate
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError


def settings_of(tiny_run, source, **changes):
    steps = {"optimiser.steps": 4, "machine.checkpoint_every": 1}
    return Settings.of("laptop", {**tiny_run, "data.source": str(source), **steps, **changes})


@pytest.fixture
def unbroken(tiny_run, phantom_folder, tmp_path):
    return train(settings_of(tiny_run, phantom_folder / "A"), tmp_path / "unbroken", progress=False)


@pytest.mark.parametrize("file", ["last.ckpt", "metrics.csv"])
def test_full_disk_keeps_the_last_checkpoint_and_training_resumes(
    tiny_run, phantom_folder, tmp_path, unbroken, small_files, file
):
    settings, run = settings_of(tiny_run, phantom_folder / "A"), tmp_path / "run"
    with ExitStack() as stack:

        def fill(row):
            if row["step"] == 2:  # before its checkpoint; of the next row there is room for a few bytes
                size = 100_000 if file == "last.ckpt" else (run / "metrics.csv").stat().st_size + 9
                stack.enter_context(small_files(size))
            if row["step"] == 1 and file == "metrics.csv":
                assert len(records.read_rows(run / "metrics.csv")) == 1

        changes = {"machine.checkpoint_every": 1 if file == "last.ckpt" else 3}
        with pytest.raises(DualTaskError, match=rf"{file}: cannot be written \(File too large\); choose another"):
            train(settings.changed(changes), run, progress=False, callback=fill)
    assert {path.name for path in run.iterdir()} <= {"config.yaml", "metrics.csv", "last.ckpt"}
    net = files.build_network(settings)
    if file == "last.ckpt":
        assert files.load_checkpoint(run / "last.ckpt", net, torch.optim.AdamW(net.parameters())) == 1
    assert len(records.read_rows(run / "metrics.csv")) == 2  # without the half row
    train(settings, run, resume=True, progress=False)
    output = [files.load_model(folder).net.state_dict() for folder in (unbroken, run)]
    assert all(torch.equal(tensor, output[1][name]) for name, tensor in output[0].items())
    assert len(records.read_rows(run / "metrics.csv")) == 4


def test_ablation_reports_errors_of_its_processes(tiny_run, phantom_folder, tmp_path, small_files):
    how = {"stages": ["tumour-coarse"], "arms": ["segmentation"], "seeds": [0], "protocols": ["cross-validation"]}
    cases = find_cases(phantom_folder / "A")
    with small_files(100_000), pytest.raises(DualTaskError, match=r"last\.ckpt: cannot be written"):
        ablate("laptop", tiny_run, cases, tmp_path, **how, folds=2, progress=False)


COMMANDS = {
    "train": ("train --source {data} --set optimiser.steps=1 --set sample.patch=[16,16,16] --out {out}", 100_000),
    "predict": ("predict {model} {ct} -o {out}", 1000),
    "evaluate": ("evaluate {model} --source {data} -o {out}", 200),
    "report": ("report {model} -o {out}/page.html", 1000),
    "export": ("export {model} -o {out}", 100_000),
    "lessons": ("lessons {out}", 1000),
    "data make": ("data make phantom --cases 1 --size 24 24 12 --out {out}", 1000),
}


@pytest.fixture
def words_of(cascade, phantom_folder, tmp_path):
    def of(command, out):
        named = {"data": phantom_folder, "ct": phantom_folder / "C" / "imagesTr" / "C_000.nii.gz", "model": cascade}
        return [word.format(**named, out=out) for word in COMMANDS[command][0].split()]

    return of


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of so many bytes, in whole pages."""
    disk = tmp_path / "disk"
    disk.mkdir()

    @contextmanager
    def mounted(size):
        how = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if not sys.platform.startswith("linux") or subprocess.run(how, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a disk, and only Linux in this way")
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    return mounted


def check_one_line(code, err):
    assert code == 1
    assert len([line for line in err.splitlines() if not line.startswith("note: ")]) == 1
    assert err.splitlines()[-1].startswith("error: ")


def check_no_partial_file(out, check_complete_files):
    check_complete_files(out)
    left = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert {path.name for path in left} <= {"config.yaml", "metrics.csv", "cases.csv"}
    assert not list(out.parent.glob(".*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_grows_too_large(typed, words_of, tmp_path, small_files, check_complete_files, command):
    out = tmp_path / "out"
    with small_files(COMMANDS[command][1]):
        code, output, err = typed(*words_of(command, out))
    check_one_line(code, err)
    assert "cannot be written (File too large)" in err + output
    check_no_partial_file(out, check_complete_files)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(typed, words_of, small_disk, check_complete_files, command):
    with small_disk(COMMANDS[command][1]) as disk:
        code, output, err = typed(*words_of(command, disk / "out"))
        check_one_line(code, err)
        assert "the disk is full" in err + output
        check_no_partial_file(disk / "out", check_complete_files)


def test_the_table_of_an_evaluation_is_shown_when_its_files_cannot_be_written(typed, words_of, tmp_path, small_files):
    with small_files(COMMANDS["evaluate"][1]):
        code, output, _ = typed(*words_of("evaluate", tmp_path / "out"))
    assert code == 1
    assert "dice (n)" in output
    assert "wrote" not in output


def test_the_files_of_an_evaluation_are_written_when_its_table_cannot_be_shown(typed, words_of, tmp_path, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("dualtask_lite.cli.evaluate.print_table", closed)
    typed(*words_of("evaluate", tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cases.csv", "summary.json"}


@pytest.mark.parametrize("ending", [".json", "_seg.nii.gz", "_distance.nii.gz", ".png"])
@pytest.mark.parametrize("again", [False, True])
def test_a_failed_prediction_leaves_the_files_of_a_case_as_they_were(
    typed, words_of, tmp_path, monkeypatch, ending, again
):
    """Whichever file no longer fits: there is none, or the four of an earlier prediction."""
    out, replace = tmp_path / "out", os.replace
    before = {}
    if again:
        out.mkdir()
        for path in result_files(out, "C_000").values():
            path.write_text(f'{{"case": "C_000",\n"not_for_diagnosis": "{NOT_FOR_DIAGNOSIS}"}}')
            before[path] = path.read_bytes()

    def full(source, target):
        if str(target).endswith(ending):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, output, err = typed(*words_of("predict", out))
    check_one_line(code, err)
    assert f"C_000{ending}: the disk is full" in err + output
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("command", COMMANDS)
def test_blocking_file_is_a_one_line_error(typed, words_of, tmp_path, command):
    (tmp_path / "taken").touch()
    code, _, err = typed(*words_of(command, tmp_path / "taken" / "out"))
    assert code == 1
    assert len([line for line in err.splitlines() if not line.startswith("note: ")]) == 1
    assert "taken" in err
    assert re.search(r"cannot be written \(Not a directory\); choose another folder, or check your perm", err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_standard_output_is_one_line(form):
    command = [sys.executable, "-m", "dualtask_lite", "data", "list", *form]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 28] No space left on device; free some disk space, or check your permissions\n"
