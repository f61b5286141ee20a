"""Changes of a sample: identity, exact moves, one map for image and mask, mm, and nothing drawn when applied."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from monai.transforms import Affine
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation

from dualtask_lite.engine.config import Augment
from dualtask_lite.engine.data.augment import (
    DISPLACEMENT,
    GAMMA,
    IDENTITY,
    KNOTS,
    NOISE,
    Change,
    _splines,
    draw_change,
    move,
    recolour,
)

MM = (1.0, 1.0, 1.0)
sides = st.integers(1, 40)


def noise(*shape, seed=0):
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))


def cut(volume, centre, patch):
    """By plain slices of a volume that is padded with air."""
    padded = np.pad(volume[0].numpy(), [(side, side) for side in patch])
    return padded[tuple(slice(c + s - s // 2, c + 2 * s - s // 2) for c, s in zip(centre, patch, strict=True))]


@examples(max_examples=60, deadline=None)
@given(st.tuples(sides, sides, sides), st.tuples(sides, sides, sides), st.data())
def test_identity_transform_changes_no_patch(shape, patch, data):
    """Trap 12: no half-voxel shift, and none between image and mask, for even and odd sizes; outside is air."""
    image = noise(*shape)
    mask = (image > 0.5).to(torch.uint8)
    centre = [data.draw(st.integers(0, side - 1)) for side in shape]
    spacing = [data.draw(st.floats(0.5, 5)) for _ in shape]
    flat = Change(np.eye(3), displacement=np.zeros((3, *(-(-side // KNOTS) + 3 for side in patch)), np.float32))
    for nothing in (IDENTITY, flat):
        moved, moved_mask = move(image, mask, centre, patch, spacing, nothing)
        assert moved.shape == moved_mask.shape == (1, *patch)
        np.testing.assert_allclose(moved[0], cut(image, centre, patch), atol=2e-5)
        np.testing.assert_array_equal(moved_mask[0], cut(mask, centre, patch))
    assert torch.equal(recolour(image.clone(), IDENTITY), image)


def test_quarter_turns_and_flips_are_exact():
    image, centre, patch = noise(31, 29, 33), (15, 14, 16), (9, 9, 9)
    plain = cut(image, centre, patch)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned, _ = move(image, image, centre, patch, MM, Change(turn))
    np.testing.assert_allclose(turned[0], np.rot90(plain, -1), atol=2e-5)
    for axis in range(3):
        sign = np.ones(3)
        sign[axis] = -1
        flipped, _ = move(image, image, centre, patch, MM, Change(np.diag(sign)))
        np.testing.assert_allclose(flipped[0], np.flip(plain, axis), atol=2e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_any_affine_change_agrees_with_scipy(mode):
    volume = noise(40, 36, 28)
    rng = np.random.default_rng(0)
    spacing, centre, patch = np.array([0.8, 1.1, 2.5]), (22, 15, 13), (24, 17, 12)
    for _ in range(5):
        change = draw_change(Augment(elastic=0), patch, rng)
        matrix = np.diag(1 / spacing) @ change.matrix @ np.diag(spacing)
        offset = centre - matrix @ (np.array(patch) // 2)
        order = {"bilinear": 1, "nearest": 0}[mode]
        args = {"output_shape": patch, "order": order, "mode": "grid-constant"}
        expected = ndimage.affine_transform(volume[0].numpy().astype(float), matrix, offset, **args)
        moved = move(volume, volume, centre, patch, spacing, change)[mode == "nearest"]
        apart = np.abs(moved[0].numpy() - expected)
        assert (apart > 1e-4).mean() < (0.001 if mode == "nearest" else 1e-9)  # a tie may round either way


def test_the_same_turn_and_zoom_as_monai():
    """On cubic voxels the grid is MONAI's, which turns about the middle of an odd patch as well."""
    volume = torch.from_numpy(ndimage.gaussian_filter(noise(33, 33, 33).numpy(), (0, 2, 2, 2)))
    angle, zoom = 0.2, np.array([1.1, 0.9, 1.2])
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    ours, _ = move(volume, volume, (16, 16, 16), (33, 33, 33), MM, Change(turn * zoom))
    theirs = Affine(rotate_params=(0, 0, angle), scale_params=zoom.tolist(), padding_mode="zeros", image_only=True)
    inner = (0, *[slice(6, -6)] * 3)
    np.testing.assert_allclose(ours[inner], torch.as_tensor(theirs(volume))[inner], atol=1e-4)


def test_a_turn_keeps_lengths_in_mm_on_an_anisotropic_grid():
    """A ball of mm stays a ball: turning voxels instead would shear it."""
    spacing = np.array([1.0, 1.0, 3.0])
    axes = np.meshgrid(
        *[(np.arange(n) - n // 2) * s for n, s in zip((61, 61, 21), spacing, strict=True)], indexing="ij"
    )
    ball = torch.from_numpy(sum(a**2 for a in axes) <= 20**2)[None].to(torch.uint8)
    change = draw_change(Augment(scale=0, rotation=90, elastic=0, flip=0), (61, 61, 21), np.random.default_rng(3))
    _, moved = move(ball, ball, (30, 30, 10), (61, 61, 21), spacing, change)
    overlap = (moved * ball).sum()
    assert 2 * overlap / (moved.sum() + ball.sum()) > 0.95


@pytest.mark.parametrize("bent", [False, True])
def test_image_and_mask_move_as_one(bent):
    volume = torch.zeros(1, 60, 50, 40)
    volume[0, 22:41, 18:33, 12:25] = 1
    rng = np.random.default_rng(1)
    for _ in range(10):
        change = draw_change(Augment(elastic=float(bent)), (48, 48, 32), rng)
        assert (change.displacement is not None) is bent
        image, mask = move(volume, volume.to(torch.uint8), (31, 25, 18), (48, 48, 32), (1, 1, 2), change)
        assert mask.sum() > 500
        certain = (image - 0.5).abs() > 0.4  # away from the surface both say the same
        assert torch.equal(image[certain] > 0.5, mask[certain] > 0)


def test_the_spline_is_scipy_s():
    side = 53
    ours = _splines(side).numpy()
    knots = (np.arange(ours.shape[1] + 4) - 3) * KNOTS
    theirs = BSpline.design_matrix(np.arange(side, dtype=float), knots.astype(float), 3).toarray()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-6)


def test_bend_follows_its_control_points():
    """Equal control points move everything alike, by so many voxels of the region."""
    volume, patch = noise(60, 60, 40), (32, 24, 16)
    bend = np.broadcast_to(np.array([3, -2, 4], np.float32)[:, None, None, None], (3, 5, 5, 4))
    moved, _ = move(volume, volume, (30, 30, 20), patch, (0.7, 1, 2), Change(np.eye(3), displacement=bend))
    np.testing.assert_allclose(moved[0], cut(volume, (33, 28, 24), patch), atol=2e-5)


def test_drawn_values_stay_in_range():
    rng = np.random.default_rng(0)
    still = draw_change(Augment(scale=0, rotation=0, elastic=0, flip=0, gamma=0, noise=0), (8, 8, 8), rng)
    np.testing.assert_array_equal(still.matrix, np.eye(3))
    assert (still.displacement, still.gamma, still.noise) == (None, 1, 0)
    changes = [draw_change(Augment(elastic=0.5), (32, 32, 16), rng) for _ in range(400)]
    zooms = np.linalg.norm([c.matrix for c in changes], axis=1)  # length of each column: 1 / zoom
    assert zooms.min() >= 1 / 1.2 - 1e-9
    assert zooms.max() <= 1 / 0.8 + 1e-9
    mirrored = np.mean([np.linalg.det(c.matrix) < 0 for c in changes])
    assert 0.4 < mirrored < 0.6
    assert 0.4 < np.mean([c.displacement is not None for c in changes]) < 0.6
    assert all(GAMMA[0] <= c.gamma <= GAMMA[1] and 0 <= c.noise <= NOISE for c in changes)
    assert np.std([b for c in changes if c.displacement is not None for b in c.displacement.ravel()]) == pytest.approx(
        np.sqrt((DISPLACEMENT[0] ** 2 + DISPLACEMENT[0] * DISPLACEMENT[1] + DISPLACEMENT[1] ** 2) / 3), rel=0.1
    )
    assert 0.2 < np.mean([c.noise > 0 for c in changes]) < 0.4


def test_each_axis_has_its_own_angle_zoom_and_flip():
    rng = np.random.default_rng(0)

    def drawn(**only):
        still = {"scale": 0, "rotation": 0, "elastic": 0, "flip": 0}
        return np.stack([draw_change(Augment(**still | only), (8, 8, 8), rng).matrix for _ in range(800)])

    angles = Rotation.from_matrix(drawn(rotation=15)).as_euler("xyz", degrees=True)
    zooms = 1 / np.linalg.norm(drawn(scale=0.2), axis=1)
    for values, reach in ((angles, 15), (zooms - 1, 0.2)):  # uniform in both directions
        assert np.abs(values).max() <= reach + 1e-9
        np.testing.assert_allclose(values.min(0), -reach, rtol=0.02)
        np.testing.assert_allclose(values.max(0), reach, rtol=0.02)
        np.testing.assert_allclose(values.std(0), reach / np.sqrt(3), rtol=0.1)
        assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.15
    mirrored = drawn(flip=0.5).diagonal(axis1=1, axis2=2) < 0
    combinations = np.bincount(mirrored @ [1, 2, 4], minlength=8)
    assert ((combinations > 60) & (combinations < 140)).all()  # 100 each, standard deviation 9


def test_gamma_is_the_exponent_and_noise_the_standard_deviation():
    image = noise(20, 20, 20)
    brighter = recolour(image.clone(), Change(np.eye(3), gamma=0.7))
    np.testing.assert_allclose(brighter, image.numpy() ** 0.7, rtol=1e-6)
    grey = torch.full((1, 50, 50, 50), 0.5)
    once, again, other = (recolour(grey.clone(), Change(np.eye(3), noise=0.04, seed=seed)) for seed in (1, 1, 2))
    assert (once.mean().item(), once.std().item()) == (pytest.approx(0.5, abs=1e-3), pytest.approx(0.04, rel=0.02))
    assert torch.equal(once, again)
    assert abs(np.corrcoef((once - grey).flatten(), (other - grey).flatten())[0, 1]) < 0.02
    assert recolour(torch.ones(1, 8, 8, 8), Change(np.eye(3), noise=0.04)).max() == 1


def test_applying_draws_nothing():
    change = draw_change(Augment(elastic=1, gamma=1, noise=1), (16, 16, 16), np.random.default_rng(5))
    volume = noise(30, 30, 30)
    state = torch.get_rng_state()
    once, again = (recolour(move(volume, volume, (15, 15, 15), (16, 16, 16), MM, change)[0], change) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 <= once.min() <= once.max() <= 1
