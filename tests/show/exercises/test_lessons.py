"""Answers that look right and are not, and the other way round."""

from __future__ import annotations

import dataclasses
import inspect
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from dualtask_lite.method.distance import BAND, signed_distance, to_band
from dualtask_lite.show.exercises import judge
from dualtask_lite.show.exercises.judge import find_exercise, load_lesson

for lesson in ("00", "01", "02", "03", "04", "05", "05b", "06", "07", "08"):
    load_lesson(lesson)


def printed_numbers():
    """Number of an exercise that compares numbers -> how its message prints the answer, such as ``.1f``."""
    found = {}
    for number, task in judge._exercises.items():
        if "answer" in inspect.signature(task.right).parameters:
            continue
        text = inspect.getsource(task.meaning) if callable(task.meaning) else task.meaning
        if spec := re.search(r"{answer:\+?(\.\d[f%])}", text):
            found[number] = spec[1]
    return found


@pytest.mark.parametrize(("number", "spec"), printed_numbers().items())
def test_number_that_the_message_prints_is_right(number, spec):
    """However small the right answer is: what is right is not refused as copied from its own message."""
    unit = 10.0 ** -(int(spec[1]) + 2 * (spec[2] == "%"))
    exact = 1.4 * unit
    task = dataclasses.replace(find_exercise(number), right=lambda: exact)
    shown = f"{exact:{spec}}"
    answer = float(shown.rstrip("%")) / (100 if spec[2] == "%" else 1)
    assert task.accepts(answer, {})
    assert not task.accepts(exact + unit, {})


THIN = np.zeros((12, 9, 9), bool)
THIN[5:7, 2:7, 2:7] = True
DISTANCES = torch.linspace(-BAND, BAND, 41)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (to_band(signed_distance(THIN, (1.0, 1.0, 1.0)), BAND), True),
        (np.where(THIN, -0.05, 0.05), False),  # the right sign, and the right value beside the surface only
        (np.where(THIN, -1, 1), False),
        (to_band(signed_distance(THIN, (2.0, 1.0, 1.0)), BAND), False),
    ],
)
def test_repaired_target_is_compared_in_every_voxel(answer, right):
    assert find_exercise("01.3").accepts(answer, {"thin": THIN}) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (lambda bands: torch.sigmoid(-BAND * bands / 2), True),
        (lambda bands: torch.sigmoid(-BAND * bands.detach() / 2) + 0 * bands, False),
        (lambda bands: torch.sigmoid(BAND * bands / 2), False),
        (lambda bands: torch.sigmoid(-1500 * bands), False),
    ],
    ids=["right", "without a gradient", "wrong sign", "too steep"],
)
def test_repaired_conversion_gives_a_gradient(answer, right):
    assert find_exercise("02.4").accepts(answer, {"inside_band": DISTANCES}) == right


PROFILES = {"published, tight crop": np.array([0.2, 0.4]), "published, wide crop": np.array([0.1, 0.1])}
WAY = np.array([9.0, 10.0])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (PROFILES["published, tight crop"][WAY == 10] / PROFILES["published, wide crop"][WAY == 10], True),
        (PROFILES["published, tight crop"] / PROFILES["published, wide crop"], False),
        (PROFILES["published, wide crop"][WAY == 10] / PROFILES["published, tight crop"][WAY == 10], False),
    ],
    ids=["as its solution says", "along the whole line", "the other way round"],
)
def test_factor_may_be_read_with_a_mask(answer, right):
    """A mask selects an array of one number."""
    assert find_exercise("01.2").accepts(answer, {"profiles": PROFILES, "way": WAY}) == right


GRADIENT = {"published": lambda mm: 0 * mm, "beside": DISTANCES}
FOUND = {"found": nib.Nifti1Image(np.ones((10, 10, 10), np.uint8), np.eye(4))}


@pytest.mark.parametrize(
    ("number", "lesson", "right"), [("02.3", GRADIENT, 0.0), ("07.4", FOUND, 1.0)], ids=["02.3", "07.4"]
)
def test_a_number_written_as_text_is_wrong(number, lesson, right):
    """Its meaning is written with digits, so a text that were right would end in an error."""
    task = find_exercise(number)
    assert not task.accepts(str(right), lesson)
    for answer in (right, np.float64(right), np.array([right]), torch.tensor(right)):
        assert task.accepts(answer, lesson)
        assert task.explain(answer, lesson).startswith(f"{right:g}")
