"""The conversions are monotone, inverse to each other, and have gradients where training needs them (trap 1)."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dualtask_lite.method.convert import (
    distance_to_probability,
    gradient_alive,
    logit_to_distance,
    soft_distance,
    threshold_conversion,
)
from dualtask_lite.method.distance import published_distance, signed_distance, to_band

BAND, TAU = 20.0, 2.0  # mm
CT = (0.8, 0.8, 2.5)


def ball(side=96, radius=14.0):
    axis = torch.arange(side) - (side - 1) / 2
    return sum(a**2 for a in torch.meshgrid(axis, axis, axis, indexing="ij")) <= radius**2


def dice_loss(probability, mask):
    return 1 - (2 * (probability * mask).sum() + 1e-6) / ((probability + mask).sum() + 1e-6)


# -- distance -> mask -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(mask=arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=8)), tau=st.floats(0.5, 20.0))
def test_mask_to_distance_to_mask_is_exact(mask, tau):
    distance = signed_distance(torch.from_numpy(mask), CT)
    assert torch.equal(distance_to_probability(distance, tau) > 0.5, torch.from_numpy(mask))


def test_probability_falls_and_is_half_on_the_surface():
    mm = torch.arange(-300, 301).double() / 10
    probability = distance_to_probability(mm, TAU)
    assert probability[300] == 0.5
    assert (probability.diff() < 0).all()
    odds = probability / (1 - probability)
    assert (odds[320] / odds[300]).item() == pytest.approx(np.exp(-1))  # 2 mm, one tau, further out


def test_every_voxel_within_the_band_has_a_gradient():
    """In float32, at temperatures of a voxel and more, alone and through the Dice loss of the objective."""
    mask = ball(48, 9.0)
    mm = signed_distance(mask, (1.0, 1.0, 1.0))
    within = mm.abs() < BAND
    for tau in (1.5, TAU, 5.0):
        assert gradient_alive(functools.partial(distance_to_probability, tau=tau), mm[within]) == 1
        leaf = mm.clone().requires_grad_()
        dice_loss(distance_to_probability(leaf, tau), mask.float()).backward()
        assert (leaf.grad[within] != 0).all()


def test_trap_1_shares_of_voxels_with_a_gradient():
    """Almost none with a steep sigmoid on normalised distances, none with a threshold, many with tau in mm."""
    published = torch.from_numpy(published_distance(ball().numpy()))

    def alive(k):
        return gradient_alive(lambda d: torch.sigmoid(-k * d), published)

    assert alive(1500) == pytest.approx(0.003, abs=0.001)
    assert alive(100) == pytest.approx(0.08, abs=0.005)
    assert gradient_alive(threshold_conversion, published) == 0
    mm = signed_distance(ball(), (1.0, 1.0, 1.0))
    assert gradient_alive(lambda d: distance_to_probability(d, TAU), mm.double()) > 0.25


def test_gradient_alive_counts_gradients_above_its_limit():
    distance = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    assert gradient_alive(lambda d: d.clamp(-2, 1), distance) == 0.5
    assert gradient_alive(lambda d: 0.1 * d, distance, above=0.2) == 0
    assert not distance.requires_grad


def test_threshold_conversion_is_exact_but_has_no_gradient():
    """Trap 1: the mask is perfect, the Dice loss runs backward, and every gradient is 0."""
    mask = ball(24, 6.0)
    leaf = (signed_distance(mask, CT) + 0.9).requires_grad_()  # a wrong distance: there is an error
    converted = threshold_conversion(leaf)
    loss = dice_loss(converted, mask.float())
    loss.backward()
    assert loss > 0.1
    assert leaf.grad.abs().max() == 0
    assert torch.equal(threshold_conversion(signed_distance(mask, CT)).bool(), mask)


# -- mask -> distance -------------------------------------------------------------------------------------


def test_logit_to_distance_falls_within_the_band():
    logit = torch.linspace(-12, 12, 97, requires_grad=True)
    mm = logit_to_distance(logit, TAU, BAND)
    assert (mm.diff() <= 0).all()
    assert (mm.min(), mm.max()) == (-BAND, BAND)
    mm.sum().backward()
    assert torch.equal(logit.grad != 0, logit.detach().abs() <= BAND / TAU)
    assert torch.equal((mm < 0), (logit > 0))


@pytest.mark.parametrize(("dtype", "error_mm"), [(torch.float64, 1e-10), (torch.float32, 5e-3)])
def test_distance_survives_the_round_trip(dtype, error_mm):
    """Exact except for the digits that a probability near 1 loses: 1 - p is 5e-5 at the edge of the band."""
    mm = torch.linspace(-BAND, BAND, 4001, dtype=dtype)
    round_trip = logit_to_distance(torch.logit(distance_to_probability(mm, TAU)), TAU, BAND)
    assert (round_trip - mm).abs().max() < error_mm


@settings(deadline=None)
@given(logit=st.floats(-10, 10), tau=st.floats(0.1, 2.0))
def test_conversions_are_inverse(logit, tau):
    """At any temperature, the probability of the converted logit is the sigmoid of the logit."""
    given_logit = torch.tensor(logit, dtype=torch.float64)
    converted = distance_to_probability(logit_to_distance(given_logit, tau, BAND), tau)
    assert converted.item() == pytest.approx(torch.sigmoid(given_logit).item(), rel=1e-9)


# -- soft distance ----------------------------------------------------------------------------------------


def half_space(shape, spacing, normal, offset=0.0):
    """The true signed distance (mm) of a flat surface through the middle, and its mask."""
    axes = [(torch.arange(n) - (n - 1) / 2).double() * s for n, s in zip(shape, spacing, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (3, X, Y, Z) mm
    direction = torch.tensor(normal, dtype=torch.float64)
    mm = torch.einsum("a,axyz->xyz", direction / direction.norm(), places) - offset
    return mm, (mm < 0).double()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), CT, (0.8, 0.8, 5.0)])
@pytest.mark.parametrize("axis", range(3))
def test_soft_distance_of_a_half_space(spacing, axis):
    """Within 6 % near the surface and 10 % up to seven lambda, in mm along every axis."""
    shape = [8, 8, 8]
    lam = max(spacing)
    shape[axis] = 2 * round(7 * lam / spacing[axis])
    mm, mask = half_space(shape, spacing, np.eye(3)[axis])
    soft = soft_distance(mask[None, None], spacing, lam)[0, 0]
    ratio = soft / mm
    near = mm.abs() <= lam
    assert (ratio[near] - 1).abs().max() < 0.06
    assert (ratio - 1).abs().max() < 0.10
    profile = soft.movedim(axis, 0)[:, 4, 4]
    assert (profile.diff() > 0).all()
    torch.testing.assert_close(profile, -profile.flip(0))  # 0 half-way between the two voxels


@pytest.mark.parametrize("normal", [(1, 1, 0), (1, 2, 3), (3, -1, 1)])
def test_soft_distance_of_an_oblique_half_space(normal):
    """The same in every direction: the weights follow the true distance in mm."""
    spacing, lam = (0.8, 0.8, 2.0), 2.0
    mm, mask = half_space((48, 48, 20), spacing, normal, offset=0.13)
    soft = soft_distance(mask[None, None], spacing, lam)[0, 0]
    middle = (
        slice(12, -12),
        slice(12, -12),
        slice(5, -5),
    )  # outside it, the surface meets the border of the array
    assert ((soft - mm).abs() <= 0.15 * lam + 0.10 * mm.abs())[middle].all()


def test_soft_distance_of_a_ball():
    """Close to the true distance outside; inside, where the surface surrounds a voxel, never overestimated."""
    axis = torch.arange(36) - 17.5
    mm = sum(a**2 for a in torch.meshgrid(axis, axis, axis, indexing="ij")).sqrt() - 9
    soft = soft_distance((mm <= 0).float()[None, None], (1.0, 1.0, 1.0), 1.0)[0, 0]
    outside, inside = (mm >= 0) & (mm < 6), (mm < 0) & (mm > -6)
    assert (soft - mm).abs()[outside].max() < 0.4
    assert (soft - mm)[inside].min() > 0
    assert ((soft - mm)[inside] < 0.4 + 0.3 * mm[inside].abs()).all()


def test_soft_distance_is_odd_finite_and_batched():
    probability = torch.rand(3, 1, 9, 10, 7, generator=torch.Generator().manual_seed(0))
    soft = soft_distance(probability, CT, 2.0)
    assert soft.shape == probability.shape
    assert soft.dtype == torch.float32
    torch.testing.assert_close(soft_distance(1 - probability, CT, 2.0), -soft, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(soft[1:2], soft_distance(probability[1:2], CT, 2.0), atol=1e-5, rtol=1e-4)
    for constant in (0.0, 1.0):
        far = soft_distance(torch.full((1, 1, 8, 8, 8), constant), CT, 2.0, reach=5.0)
        torch.testing.assert_close(far, torch.full_like(far, (1 - 2 * constant) * 10.0), atol=0.1, rtol=0)


def test_soft_distance_gradient_matches_finite_differences():
    """And a higher probability nearby lowers the distance of every voxel."""
    probability = torch.rand(1, 1, 4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probability = (0.2 + 0.6 * probability).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: soft_distance(p, CT, 2.0), probability)
    soft_distance(probability, CT, 2.0).sum().backward()
    assert (probability.grad < 0).all()


def test_soft_distance_against_direct_convolution():
    """The FFT and its padding against a plain sum over the neighbours."""
    probability = torch.rand(1, 1, 5, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lam, reach = 1.0, 2.0
    total = torch.zeros_like(probability)
    weight = 0.0
    for dx in range(-3, 4):  # 2 / 0.8 mm, rounded up
        for dy in range(-3, 4):
            for dz in range(-1, 2):
                w = np.exp(-np.linalg.norm(np.multiply((dx, dy, dz), CT)) / lam)
                x, y, z = ((torch.arange(n) + d).clamp(0, n - 1) for n, d in ((5, dx), (4, dy), (3, dz)))
                total += w * probability[:, :, x][:, :, :, y][..., z]
                weight += w
    expected = -lam * torch.logit(total / weight)
    torch.testing.assert_close(soft_distance(probability, CT, lam, reach), expected.clamp(-2, 2), atol=0.01, rtol=0.01)


# -- golden values; (x, y, z) here is (k, j, i) there -------------------------------------------------------

K, J, I = torch.meshgrid(*[torch.arange(24, dtype=torch.float64)] * 3, indexing="ij")  # noqa: E741
A = (((I - 11) / 7) ** 2 + ((J - 12) / 6) ** 2 + ((K - 12.5) / 5) ** 2 <= 1).double()
L = 3 * torch.sin(0.3 * I) + 2 * torch.cos(0.2 * J) - 1.5 * torch.sin(0.25 * K + 0.5)
SDF_A = torch.from_numpy(published_distance(A.numpy()))


def test_golden_threshold_conversion():
    assert dice_loss(threshold_conversion(torch.tanh(L)), A).item() == pytest.approx(0.8664056764, rel=1e-9)
    converted = threshold_conversion(SDF_A)
    assert torch.equal(converted, A)
    # The published pair of thresholds also lets through the one voxel at exactly 1; ours does not.
    converted[SDF_A == 1] = 1
    assert converted.sum() == 859
    assert dice_loss(converted, A).item() == pytest.approx(0.000582411182, rel=1e-8)


@pytest.mark.parametrize(
    ("k", "value"),
    [(10, 0.3873439066), (50, 0.1162081472), (100, 0.105359399), (500, 0.1049581455), (1500, 0.1049581455)],
)
def test_golden_sigmoid_conversion(k, value):
    """However steep, the layer that published code sets to 0 stays at one half: the loss never falls below 0.10."""
    assert dice_loss(distance_to_probability(SDF_A, 1 / k), A).item() == pytest.approx(value, rel=1e-9)


def test_mm_conversion_of_the_true_distance_costs_almost_nothing():
    mm = signed_distance(A, (1.0, 1.0, 1.0))
    assert dice_loss(distance_to_probability(mm, 0.1), A).item() < 1e-3
    assert to_band(mm).abs().max() <= 1
