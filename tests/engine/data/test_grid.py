"""The way from the scanner's grid to the network's and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualtask_lite.cases.masks import Box
from dualtask_lite.engine.data.grid import resample, window, working_shape

sides = st.integers(1, 70)


@given(st.tuples(sides, sides, sides), st.data())
@settings(max_examples=60, deadline=None)
def test_a_box_never_leaves_its_volume_and_holds_the_mask(shape, data):
    mask = np.zeros(shape, bool)
    for _ in range(data.draw(st.integers(1, 4))):
        mask[tuple(data.draw(st.integers(0, n - 1)) for n in shape)] = True
    margin = data.draw(st.floats(0, 200))
    spacing = tuple(data.draw(st.floats(0.3, 6)) for _ in shape)
    box = Box.around(mask, margin, spacing)
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        assert 0 <= box.start[axis] <= used[0]
        assert used[-1] < box.stop[axis] <= shape[axis]
        reached = (used[0] - box.start[axis]) * spacing[axis]
        assert reached >= margin - 1e-6 or box.start[axis] == 0
    assert mask[box.slices].sum() == mask.sum()
    assert mask[box.slices].shape == box.shape


def test_an_empty_mask_has_no_box():
    assert Box.around(np.zeros((4, 5, 6), bool), 10, (1, 1, 1)) is None


def test_the_window_is_the_method_s():
    hu = torch.tensor([-1000.0, -100.0, 70.0, 240.0, 3000.0])
    assert window(hu).tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("shape", [(40, 30, 20), (11, 60, 7), (25, 25, 25), (80, 13, 33)])
def test_a_linear_ramp_stays_where_it_is_in_mm(shape):
    """Both grids cover the same box: the value at a position in mm is the same on each, away from the faces."""
    have, size = (25, 25, 25), 100.0
    positions = [(np.arange(n) + 0.5) * size / n for n in have]
    ramp = torch.from_numpy(sum(np.meshgrid(*positions, indexing="ij"))).float()[None]
    got = resample(ramp, shape)[0].numpy()
    wanted = sum(np.meshgrid(*[(np.arange(n) + 0.5) * size / n for n in shape], indexing="ij"))
    inner = tuple(slice(int(n * 0.15) + 1, n - int(n * 0.15) - 1) for n in shape)
    step = size / min(min(shape), min(have))  # averaging over whole voxels may be off by part of one
    assert np.abs(got - wanted)[inner].max() < step
    assert abs((got - wanted)[inner].mean()) < 0.05 * step


def test_the_same_shape_changes_nothing():
    volume = torch.rand(2, 9, 8, 7)
    assert torch.equal(resample(volume, (9, 8, 7)), volume)


def test_shrinking_averages_noise_away():
    noise = torch.randn(1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    assert resample(noise, (16, 16, 16)).std() == pytest.approx(4**-1.5, rel=0.05)


def test_the_working_grid_has_the_wanted_spacing():
    assert working_shape((512, 512, 90), (0.8, 0.8, 2.5), (2, 2, 2.5)) == (205, 205, 90)
    assert working_shape((512, 512, 1), (0.8, 0.8, 1.0), (4, 4, 4)) == (102, 102, 1)
