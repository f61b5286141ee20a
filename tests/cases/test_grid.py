"""The way from the scanner's grid to the network's and back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dualtask_lite.cases.grid import axis_weights, resample, resample_mask, window, working_shape
from dualtask_lite.cases.masks import SPACING_NOISE, Box, dice

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
        reached = (used[0] - box.start[axis]) * (spacing[axis] + SPACING_NOISE)  # noise of the spacing adds no voxel
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


def ball(radius, shape, spacing, centre):
    """Analytic: voxels whose centre lies within ``radius`` mm of ``centre``."""
    axes = [(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing, strict=True)]
    grids = np.meshgrid(*axes, indexing="ij")
    return torch.from_numpy(sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2)[None]


BALLS = [  # radius and centre, mm
    (radius, 50 + np.random.default_rng(seed).uniform(-4, 4, 3)) for radius in (12, 20, 30) for seed in range(4)
]
GRIDS = [((3.9583, 3.9583, 2.5), (5, 5, 5)), ((0.8, 0.8, 2.5), (1, 1, 2.5)), ((3.9583, 3.9583, 5.0), (3, 3, 3))]


@given(st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=80, deadline=None)
def test_weights_add_up_and_share_what_shrinks_exactly(have, want):
    weights = axis_weights(have, want).double()
    assert torch.allclose(weights.sum(1), torch.ones(want, dtype=torch.float64), atol=1e-5)
    if want <= have:  # every old voxel is used to the same extent
        assert torch.allclose(weights.sum(0), torch.full((have,), want / have, dtype=torch.float64), atol=1e-5)


def test_growing_is_torch_s_linear_interpolation():
    volume = torch.rand(2, 7, 9, 5, generator=torch.Generator().manual_seed(0))
    theirs = F.interpolate(volume[None], size=(20, 9, 11), mode="trilinear", align_corners=False)[0]
    assert torch.allclose(resample(volume, (20, 9, 11)), theirs, atol=1e-6)


@pytest.mark.parametrize(("spacing", "wanted"), GRIDS)
def test_centres_of_mass_are_kept_when_shrinking(spacing, wanted):
    shape = [int(100 / mm) for mm in spacing]
    for radius, centre in BALLS:
        mask = ball(radius, shape, spacing, centre)
        coarse = working_shape(shape, spacing, wanted)
        share = resample(mask, coarse)[0].numpy()
        mm = np.array(shape) * spacing / coarse
        for axis, (fine, step) in enumerate(zip(spacing, mm, strict=True)):
            others = tuple(a for a in range(3) if a != axis)
            truth = np.average((np.arange(shape[axis]) + 0.5) * fine, weights=mask[0].numpy().sum(others))
            found = np.average((np.arange(coarse[axis]) + 0.5) * step, weights=share.sum(others))
            assert abs(found - truth) < 0.1  # pooling is off by up to 1.4


@pytest.mark.parametrize(("spacing", "wanted"), GRIDS)
def test_a_mask_keeps_its_volume_to_half_a_percent(spacing, wanted):
    shape = [int(100 / mm) for mm in spacing]
    for radius, centre in BALLS:
        mask = ball(radius, shape, spacing, centre)
        coarse = working_shape(shape, spacing, wanted)
        scale = np.prod(shape) / np.prod(coarse)
        kept = int(resample_mask(mask, coarse).sum()) * scale
        assert abs(kept - int(mask.sum())) <= max(0.005 * int(mask.sum()), scale)  # or less than one voxel


@pytest.mark.parametrize(("spacing", "wanted"), GRIDS)
def test_resampling_round_trip_beats_overlapping_pooling(spacing, wanted):
    shape = [int(100 / mm) for mm in spacing]

    def pooled(volume, size):  # what F.interpolate(mode="area") did
        shrunk = [min(a, b) for a, b in zip(volume.shape[1:], size, strict=True)]
        out = F.interpolate(volume[None].float(), size=shrunk, mode="area")
        return F.interpolate(out, size=list(size), mode="trilinear", align_corners=False)[0]

    ours, theirs = [], []
    for radius, centre in BALLS:
        mask = ball(radius, shape, spacing, centre)
        coarse = working_shape(shape, spacing, wanted)
        ours.append(dice((resample(resample_mask(mask, coarse), shape) >= 0.5).numpy(), mask.numpy()))
        theirs.append(dice((pooled(pooled(mask, coarse) >= 0.5, shape) >= 0.5).numpy(), mask.numpy()))
    assert np.mean(ours) > np.mean(theirs) + 0.01


def test_thin_mask_neither_vanishes_nor_shifts():
    mask = torch.zeros(1, 40, 40, 40, dtype=torch.bool)
    mask[:, 20, 5:35, 5:35] = True
    assert resample_mask(mask, (10, 10, 10)).sum() > 0
    block = torch.zeros(1, 40, 40, 40, dtype=torch.bool)
    block[:, 10:30, 10:30, 10:30] = True  # half a coarse voxel sticks out on all sides
    coarse = resample_mask(block, (10, 10, 10))[0].numpy()
    assert np.allclose(  # ties by index would put it at 4.0
        [np.average(range(10), weights=coarse.sum(axis)) for axis in ((1, 2), (0, 2), (0, 1))],
        4.5,
        atol=0.25,  # ties by index would put it at 4.0
    )
    assert not resample_mask(torch.zeros(1, 8, 8, 8), (4, 4, 4)).any()


SPACINGS = st.sampled_from([0.5625, 0.703125, 0.78125, 0.8, 0.8125, 0.9765625, 1.25, 2.5, 3.0, 380 / 96, 5.0])


@given(st.tuples(*[st.integers(1, 512)] * 3), st.tuples(*[SPACINGS] * 3), st.tuples(*[st.floats(-1e-5, 1e-5)] * 3))
@settings(max_examples=200, deadline=None)
def test_float_noise_of_spacing_changes_neither_grid_nor_box(shape, spacing, noise):
    """4.99999989 mm instead of 5 mm, as an oblique affine gives it."""
    noisy = tuple(mm + off for mm, off in zip(spacing, noise, strict=True))
    for wanted in ((3, 3, 3), (5, 5, 5), (2.0, 2.0, 2.5), (0.8, 0.8, 2.5)):
        places = [n * (mm + SPACING_NOISE) / want + 0.5 for n, mm, want in zip(shape, spacing, wanted, strict=True)]
        reach = [1.1e-5 * n / want for n, want in zip(shape, wanted, strict=True)]
        # Some boundary must remain; it lies where no scanner's spacing falls but by chance.
        assume(all(abs(place - round(place)) > near for place, near in zip(places, reach, strict=True)))
        assert working_shape(shape, spacing, wanted) == working_shape(shape, noisy, wanted)
    mask = np.zeros((60, 60, 60), bool)
    mask[30, 30, 30] = True
    for margin in (10, 20, 25):
        assert Box.around(mask, margin, spacing) == Box.around(mask, margin, noisy)
