"""An exam of one's own: deterministic, near D, and not the one that learners have."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from dualtask_lite.cases.exam import LARGEST_SHIFT, make_exam, shifted
from dualtask_lite.cases.phantom import centres
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cli import app
from dualtask_lite.errors import DualTaskError

SMALL = {"cases": 2, "size": (24, 24, 12)}


def digests(folder):
    return [case.digest() for case in find_cases(folder)]


def test_the_same_seed_and_shift_make_the_same_exam(tmp_path):
    made = {
        name: digests(make_exam(tmp_path / name, seed=seed, shift=shift, **SMALL))
        for name, seed, shift in (("one", 7, 0.1), ("again", 7, 0.1), ("seed", 8, 0.1), ("shift", 7, 0.2))
    }
    assert made["one"] == made["again"]
    assert len({digest for name in ("one", "seed", "shift") for digest in made[name]}) == 6


def values(centre):
    tumours = dataclasses.asdict(centre.tumours).values()
    scanner = (centre.field_of_view_mm, centre.slice_mm, centre.noise_hu, centre.kernel_voxels)
    return np.array([*scanner, *centre.hu.values(), *(np.atleast_1d(value)[0] for value in tumours)])


@pytest.mark.parametrize("shift", [0.0, 0.1, LARGEST_SHIFT])
def test_every_value_moves_by_at_most_the_shift(shift):
    (plain,) = centres(exam=True).values()
    moved = np.array([values(shifted(seed, shift)) for seed in range(1, 40)]) / values(plain) - 1
    assert np.abs(moved).max() <= shift + 1e-3  # values are rounded
    assert np.abs(moved).max(axis=0).min() >= 0.8 * shift  # none stays where it is


@pytest.mark.parametrize("shift", [-0.1, 0.31])
def test_a_shift_beyond_the_limit_is_refused(shift):
    with pytest.raises(DualTaskError, match="is not between 0 and"):
        shifted(1, shift)


def test_the_seed_of_the_embedded_exam_is_refused(tmp_path):
    with pytest.raises(DualTaskError, match="choose another seed"):
        make_exam(tmp_path / "exam", seed=0, **SMALL)
    assert not (tmp_path / "exam").exists()


def test_the_command_makes_what_the_function_makes(tmp_path):
    words = ["data", "make", "exam", "--seed", "7", "--cases", "2", "--size", "24", "24", "12", "--json"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "exam")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "folder": str(tmp_path / "exam"),
        "cases_per_centre": 2,
        "seed": 7,
        "shift": 0.1,
    }
    assert digests(tmp_path / "exam") == digests(make_exam(tmp_path / "same", seed=7, **SMALL))
    assert [case.id for case in find_cases(tmp_path / "exam")] == ["D_000", "D_001"]


def test_a_shift_of_the_phantom_is_refused(typed, tmp_path):
    code, _, err = typed("data", "make", "phantom", "--shift", "0.1", "--out", tmp_path / "p")
    assert code == 1
    assert "leave it out, or make exam" in err
