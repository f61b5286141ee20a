"""The signed distance, against brute force, SciPy, spheres and golden values, and the traps that it avoids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from dualtask_lite.method.distance import BAND, from_band, published_distance, signed_distance, to_band

CT = (0.8, 0.8, 5.0)  # mm, a thick-slice CT
MM = st.floats(0.25, 8.0, width=32)
SPACINGS = st.tuples(MM, MM, MM)
MASKS = arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=6))


def brute_force(mask, spacing):
    """Compare each voxel with each voxel of the other side."""
    places = np.argwhere(np.ones_like(mask)) * np.asarray(spacing)  # (N, 3) mm
    inside = mask.ravel()
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)  # (N, N) mm
    nearest = np.where(inside[:, None] != inside[None], apart, np.inf).min(1)
    return np.where(inside, -nearest, nearest).reshape(mask.shape)


def scipy_distance(mask, spacing):
    inside = ndimage.distance_transform_edt(mask, spacing)
    outside = ndimage.distance_transform_edt(~mask, spacing)
    return outside - inside


def has_surface(mask):
    return mask.any() and not mask.all()


def random_masks(shapes=((24, 17, 20), (1, 23, 9), (31, 1, 1), (20, 20, 20)), shares=(0.01, 0.1, 0.5, 0.9, 0.99)):
    generator = np.random.default_rng(0)
    masks = [generator.random(shape) < share for shape, share in itertools.product(shapes, shares)]
    return [mask for mask in masks if has_surface(mask)]


def radius_mm(shape, spacing):
    """Distance of each voxel from the middle of the array."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


# -- exact ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(mask=MASKS, spacing=SPACINGS)
def test_any_mask_equals_brute_force(mask, spacing):
    distance = signed_distance(mask, spacing)
    assert distance.dtype == np.float32
    assert distance.shape == mask.shape
    if has_surface(mask):
        np.testing.assert_allclose(distance, brute_force(mask, spacing), rtol=5e-7)
    else:
        diagonal = np.linalg.norm(np.multiply(mask.shape, spacing))
        np.testing.assert_allclose(distance, -diagonal if mask.any() else diagonal, rtol=1e-6)


@settings(deadline=None, max_examples=200)
@given(mask=MASKS, spacing=SPACINGS)
def test_distance_is_finite_nonzero_and_antisymmetric(mask, spacing):
    distance = signed_distance(mask, spacing)
    assert np.isfinite(distance).all()
    np.testing.assert_array_equal(distance < 0, mask)
    assert (np.abs(distance) >= np.float32(min(spacing))).all()  # never 0: the surface is between voxels
    np.testing.assert_array_equal(signed_distance(~mask, spacing), -distance)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 3, 3), (1, 2, 4), (0.5, 0.75, 2.5), (0.703125, 0.703125, 2.5)])
def test_equal_to_scipy_where_float32_holds_the_squared_spacing(spacing):
    for mask in random_masks():
        expected = scipy_distance(mask, spacing).astype(np.float32)
        np.testing.assert_array_equal(signed_distance(mask, spacing), expected)


@pytest.mark.parametrize("spacing", [CT, (0.7, 0.9, 2.3), (0.683, 0.683, 1.25)])
def test_within_two_ulp_of_scipy_at_other_spacings(spacing):
    for mask in random_masks():
        np.testing.assert_array_max_ulp(
            signed_distance(mask, spacing), scipy_distance(mask, spacing).astype(np.float32), maxulp=2
        )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5), CT])
def test_sphere_is_measured_to_within_a_voxel(spacing):
    """The nearest voxel of the other side lies beyond the sphere, by less than a voxel's diagonal."""
    shape = [int(60 / s) for s in spacing]
    from_middle = radius_mm(shape, spacing)
    distance = signed_distance(from_middle <= 20, spacing)
    excess = np.abs(distance) - np.abs(from_middle - 20)  # mm
    assert excess.min() > -1e-5
    assert excess.max() <= np.linalg.norm(spacing)


def test_zero_crossing_is_on_the_surface():
    """The two voxels on either side of a flat surface are equally far from it."""
    for axis in range(3):
        mask = np.zeros((12, 12, 12), bool)
        np.moveaxis(mask, axis, 0)[:5] = True
        profile = np.moveaxis(signed_distance(mask, CT), axis, 0)[:, 3, 3]
        np.testing.assert_allclose(
            profile, [CT[axis] * n for n in (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7)], rtol=1e-6
        )


# -- edges ------------------------------------------------------------------------------------------------


def thin(shape, *where):
    mask = np.zeros(shape, bool)
    mask[where] = True
    return mask


THIN = {
    "a voxel": thin((16, 16, 16), 8, 8, 8),
    "a line": thin((16, 16, 16), 8, 8, slice(4, 12)),
    "a sheet": thin((16, 16, 16), slice(4, 12), slice(4, 12), 8),
    "two voxels thick": thin((16, 16, 16), slice(4, 12), slice(4, 12), slice(8, 10)),
    "at the corner": thin((16, 16, 16), 0, 0, 0),
}


@pytest.mark.parametrize("name", THIN)
def test_thin_lesion_keeps_a_regression_target(name):
    """Trap 3: the published normalisation sets all of it to 0."""
    mask = THIN[name]
    assert (signed_distance(mask, CT)[mask] <= np.float32(-0.8)).all()
    assert (published_distance(mask)[mask] == 0).all()


def test_border_of_the_array_is_no_surface():
    """A lesion that continues beyond the crop is deepest at the border."""
    mask = thin((20, 8, 8), slice(0, 6))
    np.testing.assert_array_equal(signed_distance(mask, (1, 1, 1))[0], -6)


def test_one_mm_has_the_same_value_in_every_crop():
    """Trap 2: distances near a lesion do not depend on the crop."""
    small, large = (signed_distance(radius_mm((n,) * 3, (1, 1, 1)) <= 6, (1, 1, 1)) for n in (24, 48))
    np.testing.assert_array_equal(small, large[12:36, 12:36, 12:36])
    published = [published_distance(radius_mm((n,) * 3, (1, 1, 1)) <= 6) for n in (24, 48)]
    assert np.abs(published[0] - published[1][12:36, 12:36, 12:36]).max() > 0.5


# -- shapes, types, errors --------------------------------------------------------------------------------


def test_result_has_the_type_of_the_mask():
    mask = random_masks()[0]
    expected = signed_distance(mask, CT)
    for dtype in (torch.bool, torch.uint8, torch.float32, torch.bfloat16):
        given_mask = torch.from_numpy(mask).to(dtype)
        distance = signed_distance(given_mask, CT)
        assert distance.dtype == torch.float32
        assert distance.device == given_mask.device
        np.testing.assert_array_equal(distance.numpy(), expected)
    assert isinstance(signed_distance(mask.astype(np.int16) * 2, CT), np.ndarray)
    permuted = np.asfortranarray(mask).transpose(2, 0, 1)  # any memory order
    np.testing.assert_allclose(signed_distance(permuted, (5.0, 0.8, 0.8)), expected.transpose(2, 0, 1), rtol=3e-7)


def test_batch_equals_its_samples():
    masks = torch.rand(3, 1, 9, 8, 7, generator=torch.Generator().manual_seed(0)) < 0.2
    masks[1] = False
    shared = signed_distance(masks, CT)
    spacings = torch.tensor([[1.0, 1.0, 1.0], [0.8, 0.8, 5.0], [2.0, 1.0, 3.0]])
    own = signed_distance(masks, spacings)
    assert shared.shape == own.shape == masks.shape
    for sample in range(3):
        assert torch.equal(shared[sample, 0], signed_distance(masks[sample, 0], CT))
        assert torch.equal(own[sample, 0], signed_distance(masks[sample, 0], spacings[sample]))
    assert torch.equal(own, signed_distance(masks, spacings.tolist()))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, float("nan")), (1, 1, float("inf")), 1.0])
def test_invalid_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        signed_distance(np.eye(4)[None] > 0, spacing)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4, 4), (2, 3, 4, 4, 4)])
def test_wrong_shape_is_refused(shape):
    for mask in (np.zeros(shape, bool), torch.zeros(shape)):
        with pytest.raises(ValueError, match="give \\(X, Y, Z\\)"):
            signed_distance(mask, CT)


def test_spacings_for_another_batch_size_are_refused():
    with pytest.raises(ValueError, match="spacing"):
        signed_distance(np.zeros((2, 1, 4, 4, 4), bool), np.ones((3, 3)))


# -- band -------------------------------------------------------------------------------------------------


def test_band_scales_and_clips():
    mm = torch.tensor([-50.0, -20.0, -5.0, 0.0, 1.0, 19.0, 21.0])
    assert to_band(mm).tolist() == pytest.approx([-1, -1, -0.25, 0, 0.05, 0.95, 1])
    torch.testing.assert_close(from_band(to_band(mm)), mm.clamp(-BAND, BAND))
    np.testing.assert_allclose(from_band(to_band(mm.numpy(), 30.0), 30.0), mm.clamp(-30, 30), rtol=1e-6)


# -- golden values of the published definition; (x, y, z) here is (k, j, i) there -------------------------

K, J, I = np.meshgrid(*[np.arange(24)] * 3, indexing="ij")  # noqa: E741
A = ((I - 11) / 7) ** 2 + ((J - 12) / 6) ** 2 + ((K - 12.5) / 5) ** 2 <= 1
KC, JC, IC = np.meshgrid(np.arange(56), np.arange(48), np.arange(32), indexing="ij")
C = ((IC - 15) / 11) ** 2 + ((JC - 22) / 15) ** 2 + ((KC - 29) / 17) ** 2 <= 1


def test_golden_published_distance_of_a():
    distance = published_distance(A)
    assert A.sum() == 858
    assert (distance.min(), distance.max()) == (-1, 1)
    assert distance.mean() == pytest.approx(0.3681260559, rel=1e-9)
    assert np.abs(distance).sum() == pytest.approx(5595.80058, rel=1e-9)
    assert ((distance == 0).sum(), (distance < 0).sum()) == (326, 532)
    expected = {
        (0, 0, 0): 0.9643864123,
        (23, 23, 23): 0.8888888889,
        (11, 12, 12): -1.0,
        (11, 12, 13): -1.0,
        (11, 12, 17): 0.0,
        (11, 12, 18): 0.06415002991,
        (11, 12, 19): 0.1283000598,
        (4, 12, 12): 0.06415002991,
        (5, 12, 12): 0.0,
        (3, 12, 12): 0.1283000598,
        (11, 6, 12): 0.06415002991,
        (8, 10, 14): -0.5,
    }
    for (i, j, k), value in expected.items():
        assert distance[k, j, i] == pytest.approx(value, rel=1e-9)


def test_golden_published_distance_of_c():
    distance = published_distance(C)
    assert C.sum() == 11715
    assert (distance.min(), distance.max(), (distance == 0).sum()) == (-1, 1, 2074)
    assert distance.mean() == pytest.approx(0.2649127154, rel=1e-9)
    expected = {
        (0, 0, 0): 0.9167051494,
        (15, 22, 29): -1.0,
        (15, 22, 40): -0.5507074437,
        (15, 22, 46): 0.0,
        (15, 22, 47): 0.03809696589,
        (31, 47, 55): 0.9285036419,
    }
    for (i, j, k), value in expected.items():
        assert distance[k, j, i] == pytest.approx(value, rel=1e-9)


def test_golden_extremes_of_a():
    distance = signed_distance(A, (1, 1, 1))
    assert distance.max() == pytest.approx(15.58845727, rel=1e-7)
    assert distance.min() == pytest.approx(-4.898979486, rel=1e-7)


@pytest.mark.parametrize(("scale", "value"), [(1.0, 0.8396892648), (0.5, 0.7175767046)])
def test_golden_distance_term(scale, value):
    logits = 3 * np.sin(0.3 * I) + 2 * np.cos(0.2 * J) - 1.5 * np.sin(0.25 * K + 0.5)
    assert np.abs(np.tanh(scale * logits) - published_distance(A)).mean() == pytest.approx(value, rel=1e-9)


def test_published_distance_without_a_surface_is_zero():
    for mask in (np.zeros((4, 5, 6)), np.ones((4, 5, 6))):
        assert (published_distance(mask) == 0).all()
