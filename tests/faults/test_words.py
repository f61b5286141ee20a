"""An error is one line; its traceback is printed on request only."""

from __future__ import annotations

import re
import sys

import pytest

from dualtask_lite.cli import main
from dualtask_lite.errors import DualTaskError, reason_of

MISTAKES = [
    "data check nowhere",
    "data get msdd",
    "data make msd",
    "train --set optimiser.stpes=3",
    "train --resume nowhere",
    "predict nowhere ct.nii.gz -o out",
    "evaluate nowhere",
    "ablate --arm everything",
    "report nowhere",
    "export nowhere -o out",
    "bench everything",
]


@pytest.mark.parametrize("words", MISTAKES)
def test_a_traceback_is_shown_only_with_debug(typed, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = typed(*words.split())
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    what, semicolon, remedy = err.partition("; ")
    assert len(what) > 20
    assert semicolon
    assert remedy.strip()
    monkeypatch.setattr(sys, "argv", ["dualtask", "--debug", *words.split()])
    monkeypatch.setenv("DUALTASK_DEBUG", "")  # so that what --debug sets is taken back
    with pytest.raises(DualTaskError):
        main()  # Python prints the traceback of what comes out of here
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("debug", ["", "1"])
def test_unexpected_error_of_one_case_is_named(monkeypatch, capsys, debug):
    monkeypatch.setenv("DUALTASK_DEBUG", debug)
    with pytest.raises(KeyError) as caught:
        {}["nowhere"]
    assert reason_of(caught.value).startswith("KeyError: 'nowhere'; run dualtask --debug")
    assert ("Traceback" in capsys.readouterr().err) == bool(debug)


def test_failed_training_names_step_term_case_and_keeps_checkpoint(typed, phantom_folder, tiny_run, tmp_path):
    """A learning rate of a slip of the finger: the weights are no numbers after the first steps."""
    changes = {**tiny_run, "optimiser.lr": 1e30, "optimiser.steps": 9, "machine.checkpoint_every": 1}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    code, _, err = typed("train", "--source", phantom_folder / "A", "--out", tmp_path / "run", *words)
    assert code == 1
    assert err.count("\n") == 1
    problem = r"error: step \d: term seg is not finite on case A_00\d; any earlier checkpoint is kept"
    assert re.match(problem + r"; lower optimiser\.lr", err)
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "model.safetensors").exists()
