"""Core, shell, one cell per slice and NT-Xent, against golden values, SciPy, brute force, and empty batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import skeletonize

from dualtask_lite.method import contrast
from dualtask_lite.method.contrast import core_and_shell, dilate, draw_voxels, draw_windows, gather, nt_xent
from dualtask_lite.method.distance import signed_distance
from dualtask_lite.method.losses import feat_term


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ellipsoid(shape, centre, radii):
    """(1, 1, X, Y, Z) mask."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1
    return torch.from_numpy(inside)[None, None].float()


def regions(mask, seed=0, spacing=(1.0, 1.0, 1.0), **options):
    return core_and_shell(mask, signed_distance(mask, spacing), generator=generator(seed), **options)


# golden masks A and C; their (z, y, x) is our (x, y, z) reversed
GOLDEN_A = ellipsoid((24, 24, 24), (12.5, 12, 11), (5, 6, 7))
GOLDEN_C = ellipsoid((56, 48, 32), (29, 22, 15), (17, 15, 11))


# -- dilation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "full", "cells"), [(10, 6228, 8), (11, 7356, 8), (12, 8606, 8)])
def test_golden_dilation_of_a(k, full, cells):
    out = dilate(GOLDEN_A, torch.tensor([[k, k, k - 3]]))
    assert (int(out.sum()), int(out[..., ::8, ::8, ::8].sum())) == (full, cells)


@pytest.mark.parametrize(
    ("k", "full", "cells", "coordinates_zyx"),
    [(10, 32316, 57, [112, 149, 207]), (11, 35922, 70, [130, 198, 254]), (20, 70492, 133, [210, 350, 473])],
)
def test_golden_dilation_of_c(k, full, cells, coordinates_zyx):
    out = dilate(GOLDEN_C, torch.tensor([[k, k, k - 3]]))[0, 0]
    at = out[::8, ::8, ::8].nonzero()
    assert (int(GOLDEN_C.sum()), int(out.sum()), len(at)) == (11715, full, cells)
    assert at.sum(0).flip(0).tolist() == coordinates_zyx


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    windows=st.lists(st.tuples(*[st.integers(1, 12)] * 3), min_size=1, max_size=3),
)
def test_dilation_agrees_with_scipy(seed, windows):
    """SciPy's window of an even size extends further towards lower indices: shift its origin by one."""
    rng = np.random.default_rng(seed)
    mask = rng.random((len(windows), 1, 9, 11, 7)) < 0.02
    ours = dilate(torch.from_numpy(mask), torch.tensor(windows)).numpy()
    for sample, window, out in zip(mask, windows, ours, strict=True):
        origin = [-1 if k % 2 == 0 else 0 for k in window]
        theirs = ndimage.maximum_filter(sample[0], window, mode="constant", origin=origin)
        np.testing.assert_array_equal(out[0], theirs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), window=st.tuples(*[st.integers(1, 12)] * 3), stride=st.integers(2, 5))
def test_cell_is_set_when_any_of_its_voxels_is(seed, window, stride):
    mask = torch.from_numpy(np.random.default_rng(seed).random((2, 1, 16, 13, 20)) < 0.01)
    windows = torch.tensor([window, window[::-1]])
    slow = torch.nn.functional.max_pool3d(dilate(mask, windows).float(), stride) > 0
    assert torch.equal(dilate(mask, windows, stride), slow)


def test_windows_cover_the_whole_range():
    window = draw_windows(2000, generator())
    assert set(window[:, 0].tolist()) == set(range(10, 21))
    assert torch.equal(window[:, 1], window[:, 0])
    assert torch.equal(window[:, 2], window[:, 0] - 3)


# -- core and shell -----------------------------------------------------------------------------------------


def test_golden_skeleton():
    core, _ = regions(GOLDEN_C, core="skeleton")
    assert core[0].nonzero().tolist() == [[4, 3, 2]]  # golden (2, 3, 4) in (z, y, x)


def test_published_core_misses_lesion_between_every_eighth_voxel():
    """Golden: 858 voxels of A, none of them at [::8]."""
    assert not regions(GOLDEN_A, core="skeleton")[0].any()
    assert regions(GOLDEN_A, core="deepest")[0].any()


def test_published_core_can_vanish_by_thinning():
    cube = torch.zeros(1, 1, 64, 64, 64)
    cube[..., 16:48, 16:48, 16:48] = 1
    assert cube[..., ::8, ::8, ::8].sum() == 64
    assert not regions(cube, core="skeleton")[0].any()
    assert regions(cube, core="deepest")[0].any()


def test_skeletons_of_a_batch_are_independent():
    rng = np.random.default_rng(0)
    batch = torch.from_numpy(ndimage.gaussian_filter(rng.random((3, 64, 48, 40)), (0, 5, 5, 5)) > 0.5)[:, None]
    ours = contrast._skeleton(batch, 4)
    for sample, out in zip(batch, ours, strict=True):
        alone = skeletonize(np.ascontiguousarray(sample[0, ::4, ::4, ::4].numpy().T)) > 0
        np.testing.assert_array_equal(out.numpy(), alone.T)
    assert ours[:, 0].any()  # also where the samples meet
    assert ours[:, -1].any()


@settings(max_examples=40, deadline=None)
@given(at=st.tuples(*[st.integers(0, 31)] * 3), size=st.integers(1, 3), seed=st.integers(0, 1000))
def test_every_lesion_has_a_core_and_a_shell(at, size, seed):
    mask = torch.zeros(1, 1, 32, 32, 32)
    x, y, z = at
    mask[..., x : x + size, y : y + size, z : z + size] = 1
    core, shell = regions(mask, seed)
    holds = torch.nn.functional.max_pool3d(mask, 8)[:, 0] > 0
    assert core.any()
    assert not (core & ~holds).any()
    assert shell.any()
    assert not (shell & holds).any()


def test_small_lesion_beside_a_large_one_has_a_core():
    mask = ellipsoid((80, 48, 48), (24, 24, 24), (20, 18, 18))
    mask[..., 70:72, 10:12, 13] = 1
    core, _ = regions(mask)
    assert core[0, 8, 1, 1]  # the cell of voxels 64..71, 8..15, 8..15


@pytest.mark.parametrize(("margin", "stride"), [(6, 4), (12, 8)])
def test_core_and_shell_follow_their_definitions(margin, stride):
    """By SciPy, with a window and a stride that are not the defaults; the lesion has a thick and a thin part."""
    mask = ellipsoid((64, 48, 32), (22, 20, 15), (15, 12, 10)) + ellipsoid((64, 48, 32), (44, 28, 17), (14, 3, 3))
    core, shell = regions(mask, margin=(margin, margin), stride=stride)

    def cells(volume):
        sides = [side for n in volume.shape for side in (n // stride, stride)]
        return volume.reshape(sides).max((1, 3, 5))

    depth = cells(-signed_distance(mask[0, 0].numpy(), (1.0, 1.0, 1.0)))
    deepest = ndimage.maximum_filter(depth, 3, mode="nearest")
    np.testing.assert_array_equal(core[0], (depth > 0) & (2 * depth >= deepest))
    window = (margin, margin, margin - 3)
    dilated = ndimage.maximum_filter(mask[0, 0].numpy(), window, mode="constant", origin=(-1, -1, 0))
    np.testing.assert_array_equal(shell[0], (cells(dilated) > 0) & (cells(mask[0, 0].numpy()) == 0))
    assert regions(mask, core="skeleton", stride=stride)[0].shape == core.shape


def test_each_sample_has_the_shell_that_it_has_alone():
    """The dilation of one voxel stays within its cell, so its shell is the cells around; that of a ball does not."""
    voxel, ball = torch.zeros(1, 1, 32, 32, 32), ellipsoid((32, 32, 32), (15, 15, 15), (6, 6, 6))
    voxel[..., 12, 12, 12] = 1
    shells = [regions(mask, margin=(4, 4))[1] for mask in (voxel, ball, torch.cat([voxel, ball]))]
    assert shells[0].sum() == 3**3 - 1
    assert torch.equal(torch.cat(shells[:2]), shells[2])


def test_core_of_a_large_lesion_excludes_its_rim():
    mask = ellipsoid((64, 64, 64), (32, 32, 32), (28, 28, 28))
    core, _ = regions(mask)
    depth = torch.nn.functional.max_pool3d(-signed_distance(mask, (1.0, 1.0, 1.0)), 8)[:, 0]
    assert core.sum() > 20
    assert depth[core].min() > 8
    assert (~core & (depth > 0)).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_shell_surrounds_the_lesion_without_overlap(seed):
    rng = np.random.default_rng(seed)
    mask = ellipsoid((48, 40, 32), rng.uniform(5, 30, 3), rng.uniform(1, 12, 3))
    core, shell = regions(mask, seed, core=("deepest", "skeleton")[seed % 2])
    holds = torch.nn.functional.max_pool3d(mask, 8)[:, 0] > 0
    assert not (shell & holds).any()
    assert not (shell & core).any()
    farthest = dilate(mask, torch.tensor([[20, 20, 17]]))
    assert not (shell & ~(torch.nn.functional.max_pool3d(farthest.float(), 8)[:, 0] > 0)).any()


def test_sample_without_lesion_or_shell_has_neither_region():
    ball = ellipsoid((32, 32, 32), (15, 15, 15), (6, 6, 6))
    batch = torch.cat([torch.zeros_like(ball), ball, torch.ones_like(ball)])
    core, shell = regions(batch)
    assert core.flatten(1).any(1).tolist() == [False, True, False]
    assert shell.flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("core", ["deepest", "skeleton"])
def test_core_and_shell_have_one_grid_also_on_a_patch_that_no_stride_divides(core):
    mask = ellipsoid((20, 27, 32), (9, 12, 16), (6, 7, 8))
    assert {tuple(region.shape) for region in regions(mask, core=core)} == {(1, 2, 3, 4)}


def test_unknown_core_is_refused():
    with pytest.raises(ValueError, match="deepest, skeleton"):
        regions(GOLDEN_A, core="middle")


# -- one cell per slice -------------------------------------------------------------------------------------


def test_one_cell_is_drawn_in_each_slice_with_candidates():
    region = torch.rand(4, 6, 5, 7, generator=generator()) < 0.1
    index, found = draw_voxels(region, generator(1))
    assert torch.equal(found, region.any(2).any(1))
    for b, z in found.nonzero().tolist():
        assert region[b, :, :, z].flatten()[index[b, z]]


def test_candidates_are_drawn_uniformly():
    """Trap 7: each candidate of a slice, the corners included, comes as often as any other (chi-squared)."""
    candidates = [(0, 0), (0, 5), (2, 3), (3, 3), (7, 5), (7, 0)]
    region = torch.zeros(3000, 8, 6, 2, dtype=torch.bool)
    for x, y in candidates:
        region[:, x, y, 1] = True
    index, found = draw_voxels(region, generator())
    assert found[:, 1].all()
    assert not found[:, 0].any()
    counts = torch.bincount(index[:, 1], minlength=48)
    drawn = counts[[6 * x + y for x, y in candidates]].double()
    assert drawn.sum() == 3000
    assert ((drawn - 500) ** 2 / 500).sum() < 20.5  # 5 degrees of freedom: passed with probability 0.999


def test_slices_are_drawn_independently():
    """Two slices of six candidates each get the same cell in one sample of six (standard deviation 0.007)."""
    index, _ = draw_voxels(torch.ones(3000, 2, 3, 2, dtype=torch.bool), generator())
    assert (index[:, 0] == index[:, 1]).double().mean().item() == pytest.approx(1 / 6, abs=0.03)


def test_same_seed_draws_the_same_cells():
    region = torch.rand(2, 6, 5, 7, generator=generator()) < 0.5
    assert torch.equal(draw_voxels(region, generator(2))[0], draw_voxels(region, generator(2))[0])


def test_gather_returns_the_drawn_embeddings():
    embedding = torch.randn(3, 4, 5, 6, 7, generator=generator())
    index, found = draw_voxels(torch.rand(3, 5, 6, 7, generator=generator()) < 0.05, generator(1))
    rows = [embedding[b, :, i // 6, i % 6, z] for b, z in found.nonzero().tolist() for i in [int(index[b, z])]]
    assert 0 < len(rows) < 21
    assert torch.equal(gather(embedding, index, found), torch.stack(rows))


# -- NT-Xent ------------------------------------------------------------------------------------------------


def by_hand(positive, negative, temperature):
    """The definition, pair by pair."""
    losses = []
    for own, other in ((positive, negative), (negative, positive)):
        for i in range(len(own)):
            for j in range(len(own)):
                if i != j:
                    s = torch.cosine_similarity(own[i], own[j], dim=0) / temperature
                    rest = torch.stack([torch.cosine_similarity(own[i], o, dim=0) / temperature for o in other])
                    losses.append(torch.logsumexp(torch.cat([s[None], rest]), 0) - s)
    return torch.stack(losses).mean()


def test_golden_nt_xent():
    c = torch.arange(32, dtype=torch.float64)
    n = torch.arange(5, dtype=torch.float64)[:, None]
    positive = (torch.sin(0.3 * c + 0.1 * n[:4]) + 0.2).clamp_min(0)
    negative = (torch.cos(0.3 * c + 0.2 * n) + 0.1).clamp_min(0)
    assert nt_xent(positive, negative).item() == pytest.approx(0.002018265116, abs=1e-11)


@pytest.mark.parametrize(("p", "n"), [(2, 1), (1, 2), (3, 4), (6, 2)])
def test_nt_xent_follows_its_definition(p, n):
    vectors = torch.randn(p + n, 8, generator=generator(p), dtype=torch.float64)
    ours = nt_xent(vectors[:p], vectors[p:], 0.2)
    assert ours.item() == pytest.approx(by_hand(vectors[:p], vectors[p:], 0.2).item(), rel=1e-12)


@pytest.mark.parametrize(("p", "n"), [(0, 0), (0, 3), (3, 0), (1, 1), (1, 0)])
def test_nt_xent_without_pairs_has_zero_loss_and_gradient(p, n):
    positive, negative = torch.ones(p, 8, requires_grad=True), torch.ones(n, 8, requires_grad=True)
    loss = nt_xent(positive, negative)
    assert loss.shape == ()
    assert loss.item() == 0
    assert loss.requires_grad
    loss.backward()
    assert not positive.grad.any()
    assert not negative.grad.any()


def test_nt_xent_of_zero_embeddings_is_finite():
    """After its ReLU the projector may output only zeros for a cell."""
    raw = torch.randn(6, 8, generator=generator()).requires_grad_()
    vectors = torch.relu(raw - torch.tensor([9.0, 0, 9, 0, 0, 9])[:, None])
    loss = nt_xent(vectors[:3], vectors[3:])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(raw.grad).all()


# -- what is read from the device -----------------------------------------------------------------------------


def plain_gather(embedding, index, found):
    cells = embedding.flatten(2, 3).permute(0, 3, 2, 1)
    return cells.take_along_dim(index[:, :, None, None], dim=2)[found][:, 0]


def plain_nt_xent(positive, negative, temperature=0.05):
    vectors = torch.cat([positive, negative])
    label = torch.arange(len(vectors)) < len(positive)
    same = label[:, None] == label
    pair = same & ~torch.eye(len(vectors), dtype=torch.bool)
    similarity = torch.cosine_similarity(vectors[:, None], vectors, dim=2) / temperature
    others = similarity.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    return torch.nn.functional.softplus(others - similarity)[pair].mean()


@pytest.mark.parametrize("seed", range(4))
def test_the_contrast_keeps_the_bits_of_the_plain_formula(seed):
    mask = torch.cat([GOLDEN_A, GOLDEN_A.flip(2)])
    distance = signed_distance(mask, (1.0, 1.0, 1.0))
    embedding = torch.randn(2, 8, 3, 3, 3, generator=generator(seed)).relu().requires_grad_()
    ours = feat_term(embedding, mask, distance, generator=generator(seed))
    (our_gradient,) = torch.autograd.grad(ours, embedding)
    drawn = generator(seed)
    parts = core_and_shell(mask, distance, generator=drawn)
    plain = plain_nt_xent(*(plain_gather(embedding, *draw_voxels(part, drawn)) for part in parts))
    (gradient,) = torch.autograd.grad(plain, embedding)
    assert ours.item() == plain.item() > 0
    assert torch.equal(our_gradient, gradient)
