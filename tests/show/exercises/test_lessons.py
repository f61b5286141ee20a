"""Answers that look right and are not, and the other way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dualtask_lite.method.distance import BAND, signed_distance, to_band
from dualtask_lite.show.exercises.judge import find_exercise

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
