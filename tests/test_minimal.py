"""The training in one file is the training of the engine."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from dualtask_lite import minimal
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.training.train import train
from dualtask_lite.method.network import Outputs

SAME = {
    "stage": "pancreas-coarse",
    "optimiser.schedule": "poly",
    "machine.device": "cpu",
    "machine.precision": "32-true",
    **dict.fromkeys([f"augment.{name}" for name in ("scale", "rotation", "elastic", "flip", "gamma", "noise")], 0.0),
}


@pytest.fixture(scope="module")
def cases(phantom_folder):
    return [case for case in find_cases(phantom_folder) if case.centre != minimal.HELD_OUT]


def test_first_ten_losses_equal_those_of_the_engine(cases, tmp_path):
    rows = []
    train(
        Settings.of("laptop", SAME),
        tmp_path / "run",
        split=Split(tuple(cases), (), ()),
        callback=lambda row: rows.append(row["total"]) or len(rows) == 10,
        progress=False,
    )
    regions = [minimal.load(case.load()) for case in cases]
    losses = list(islice(minimal.train(minimal.new_network(), regions), 10))
    assert losses[:3] == pytest.approx(rows[:3], abs=2e-5)
    # Adam's first steps amplify rounding: noise of 1e-6 in the images moves the tenth loss by 0.002.
    assert losses == pytest.approx(rows, abs=5e-3)
    assert len(set(rows)) == 10


def test_minimal_training_learns(cases, monkeypatch):
    monkeypatch.setattr(minimal, "STEPS", 40)
    losses = list(minimal.train(minimal.new_network(), [minimal.load(cases[0].load())]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


class Threshold(torch.nn.Module):
    """A network that finds bright voxels."""

    def forward(self, x):
        logit = (x - 0.5) * 40
        return Outputs(seg=logit, distance=(-logit / 10).clamp(-1, 1), embedding=None, slices=None)


def test_minimal_prediction_lies_where_the_network_finds_the_target():
    """On the grid of the scan: a mask that is shifted, flipped or transposed differs."""
    volume = np.full((30, 28, 26), -200, np.float32)
    volume[3:17, 9:19, 5:24] = 240
    scan = Case("box", "A", volume, None, np.diag([*minimal.SPACING, 1.0])).load()
    assert np.array_equal(minimal.predict(Threshold(), scan), volume > 0)


def test_minimal_training_prints_dice_of_a_held_out_case(phantom_folder, monkeypatch, capsys):
    monkeypatch.setattr(minimal, "STEPS", 1)
    monkeypatch.setattr(minimal, "find_cases", lambda _: find_cases(phantom_folder))
    minimal.main()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("step 0: loss ")
    assert last.startswith("C_000: Dice 0.")
