"""The objective: golden values, hand-computed cases, independent samples, and which term trains which part."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dualtask_lite.method import losses
from dualtask_lite.method.contrast import core_and_shell, draw_voxels, gather, nt_xent
from dualtask_lite.method.distance import published_distance, signed_distance
from dualtask_lite.method.losses import (
    PAPER_WEIGHTS,
    TERMS,
    Objective,
    Target,
    conv_distance_term,
    conv_mask_term,
    dice_loss,
    distance_term,
    feat_term,
    out_term,
    seg_term,
    slice_term,
)
from dualtask_lite.method.network import DualTaskNet, Outputs

MM = (1.0, 1.0, 1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ball(shape=(48, 48, 32), centre=(22, 25, 15), radius=7.0):
    """(1, 1, X, Y, Z) mask."""
    axes = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    inside = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2
    return inside[None, None].float()


def bar():
    """(1, 1, 48, 48, 32) mask of a lesion whose skeleton, of every eighth voxel, is a line of three."""
    mask = torch.zeros(1, 1, 48, 48, 32)
    mask[..., 15:18, 22:27, 2:31] = 1
    return mask


def target_of(mask, spacing=MM):
    return Target(mask, signed_distance(mask, spacing))


def random_outputs(batch, shape=(16, 16, 16), seed=0, **fields):
    g = generator(seed)
    seg = torch.randn(batch, 1, *shape, generator=g)
    distance = torch.randn(batch, 1, *shape, generator=g).tanh()
    embedding = torch.randn(batch, 32, *(n // 8 for n in shape), generator=g).relu()
    slices = torch.randn(batch, shape[2], generator=g)
    return Outputs(seg, distance, embedding, slices)._replace(**fields)


# -- golden values; (x, y, z) here is (k, j, i) there -------------------------------------------------------

K, J, I = torch.meshgrid(*[torch.arange(24, dtype=torch.float64)] * 3, indexing="ij")  # noqa: E741
A = (((I - 11) / 7) ** 2 + ((J - 12) / 6) ** 2 + ((K - 12.5) / 5) ** 2 <= 1).double()[None, None]
B = (((I - 12) / 7) ** 2 + ((J - 12) / 6) ** 2 + ((K - 13.5) / 5) ** 2 <= 1).double()[None, None]
L = (3 * torch.sin(0.3 * I) + 2 * torch.cos(0.2 * J) - 1.5 * torch.sin(0.25 * K + 0.5))[None, None]
SDF_A = torch.from_numpy(published_distance(A[0, 0].numpy()))[None, None]
TWO_L, A_B = torch.cat([L, -0.5 * L]), torch.cat([A, B])


def near(value, rel=1e-9):
    return pytest.approx(value, rel=rel)


def test_golden_inputs():
    assert (A.sum().item(), B.sum().item()) == (858, 858)
    assert L.mean().item() == near(-0.2469435871)
    assert L[0, 0, 7, 5, 3].item() == near(2.263475545)


def test_golden_dice_and_cross_entropy():
    assert dice_loss(L.sigmoid(), A).item() == near(0.9133016311)
    assert dice_loss(TWO_L.sigmoid(), A_B).item() == near(0.889926434)
    assert seg_term(L, A).item() == near(0.9133016311 + 1.242259695)
    assert seg_term(TWO_L, A_B).item() == near(0.889926434 + 1.076586981)


def test_golden_consistency():
    assert out_term(L, 0.8 * L).item() == near(0.001239569454)


def test_golden_distance_term():
    """The published distance lies in [-1, 1] already, so the band is 1. It was computed in float32."""
    assert distance_term(L.tanh(), SDF_A, band=1).item() == near(0.8396892648, 1e-7)
    assert distance_term((0.5 * L).tanh(), SDF_A, band=1).item() == near(0.7175767046, 1e-7)


@pytest.mark.parametrize(
    ("k", "loss"),
    [(10, 0.3873439066), (50, 0.1162081472), (100, 0.105359399), (500, 0.1049581455), (1500, 0.1049581455)],
)
def test_golden_conversion_of_a_distance(k, loss):
    assert conv_mask_term(SDF_A, A, tau=1 / k, band=1).item() == near(loss, 1e-7)


# -- each term ----------------------------------------------------------------------------------------------


#: Of a prediction and its truth.
OF_TWO = [dice_loss, seg_term, distance_term, conv_mask_term, conv_distance_term, out_term]


@pytest.mark.parametrize("term", OF_TWO)
@pytest.mark.parametrize("shape", [(4, 8, 8, 8), (1, 1, 8, 8, 8), (4, 1, 8, 8)], ids=["no channel", "one sample", "2D"])
def test_a_truth_of_another_shape_is_refused(term, shape):
    """PyTorch would compare each sample with the truth of all others."""
    with pytest.raises(ValueError, match="differ in shape"):
        term(torch.rand(4, 1, 8, 8, 8), torch.ones(shape))


@pytest.mark.parametrize("term", [dice_loss, seg_term, conv_mask_term])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_a_mask_may_have_any_type(term, dtype):
    mask, predicted = ball(), torch.rand(1, 1, 48, 48, 32, generator=generator())
    assert term(predicted, mask.to(dtype)) == term(predicted, mask)


@pytest.mark.parametrize("term", OF_TWO)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(term, dtype):
    """Its largest value is 65,504, and a patch has more voxels."""
    predicted = torch.rand(1, 1, 64, 64, 64, generator=generator()).to(dtype)
    truth = (torch.rand(1, 1, 64, 64, 64, generator=generator(1)) < 0.5).to(dtype)
    assert term(predicted, truth) == pytest.approx(float(term(predicted.float(), truth.float())), rel=1e-5)


def test_dice_of_empty_masks_is_defined():
    nothing = torch.zeros(1, 1, 4, 4, 4)
    assert dice_loss(nothing, nothing).item() == 0
    assert dice_loss(nothing + 0.5, nothing).item() == pytest.approx(1)


def test_true_distance_has_no_loss():
    mask, distance_mm = target_of(ball())
    assert distance_term((distance_mm / 20).clamp(-1, 1), distance_mm).item() == 0
    assert conv_distance_term(-distance_mm / 2, distance_mm).item() == pytest.approx(0, abs=1e-7)
    assert conv_mask_term((distance_mm / 20).clamp(-1, 1), mask, tau=0.1).item() < 0.01


@pytest.mark.parametrize("band", [20.0, 8.0])
def test_surface_weight_applies_near_the_surface(band):
    """Two voxels, one of them just within a quarter of the band: (5 * 0.1 + 1 * 0.4) / 6."""
    distance_mm = band * torch.tensor([0.24, -0.26]).reshape(1, 1, 2, 1, 1)
    regressed = distance_mm / band + torch.tensor([0.1, -0.4]).reshape(1, 1, 2, 1, 1)
    assert distance_term(regressed, distance_mm, band=band, surface_weight=5).item() == pytest.approx(0.9 / 6)
    assert distance_term(regressed, distance_mm, band=band).item() == pytest.approx(0.25)


@pytest.mark.parametrize(("tau", "band"), [(2.0, 20.0), (3.0, 8.0)])
def test_conversion_to_distance_counts_only_within_the_band(tau, band):
    """A logit of 0 is a distance of 0 mm; the error is |d| / band, and the voxel beyond the band does not count."""
    distance_mm = band * torch.tensor([-0.25, 0.75, 1.25]).reshape(1, 1, 3, 1, 1)
    logit = torch.zeros(1, 1, 3, 1, 1, requires_grad=True)
    loss = conv_distance_term(logit, distance_mm, tau=tau, band=band)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 0.75) / 2)
    assert logit.grad.flatten().tolist() == pytest.approx([-tau / band / 2, tau / band / 2, 0])


def test_consistency_sums_both_heads():
    first, second = random_outputs(2, seed=1), random_outputs(2, seed=2)
    masks = F.mse_loss(first.seg.sigmoid(), second.seg.sigmoid())
    distances = F.mse_loss(first.distance, second.distance)
    both = out_term(first.seg, second.seg, first.distance, second.distance)
    assert both.item() == pytest.approx((masks + distances).item())
    assert out_term(first.seg, first.seg, first.distance, first.distance).item() == 0


def test_tumour_slice_has_more_than_ten_voxels():
    mask = torch.zeros(1, 1, 8, 8, 3)
    mask[0, 0, 0, :5, 1], mask[0, 0, 1, :5, 1] = 1, 1  # 10 voxels: no tumour slice
    mask[0, 0, 0, :6, 2], mask[0, 0, 1, :5, 2] = 1, 1  # 11
    logits = torch.tensor([[-20.0, -20.0, 20.0]])
    assert slice_term(logits, mask).item() < 1e-6
    assert slice_term(-logits, mask).item() == pytest.approx(20)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "core": "skeleton"}])
def test_contrast_covers_all_slices_of_the_batch(options):
    mask, distance_mm = target_of(torch.cat([bar(), ball(centre=(30, 12, 10), radius=4)]))
    embedding = torch.randn(2, 32, 6, 6, 4, generator=generator())
    ours = feat_term(embedding, mask, distance_mm, generator=generator(4), **options)
    g = generator(4)
    core, shell = core_and_shell(mask, distance_mm, generator=g, core=options.get("core", "deepest"))
    core_cells = gather(embedding, *draw_voxels(core, g))
    shell_cells = gather(embedding, *draw_voxels(shell, g))
    assert len(core_cells) >= 3
    assert ours.item() == nt_xent(core_cells, shell_cells, options.get("temperature", 0.05)).item() > 0


# -- samples are independent (trap 9) -----------------------------------------------------------------------


@pytest.mark.parametrize("term", ["seg", "dist", "conv_mask", "conv_distance", "slice"])
def test_loss_of_a_batch_is_the_mean_of_its_samples(term):
    """The second sample is empty; the first still counts one half."""
    shape = (16, 16, 16)
    mask = torch.cat([ball(shape, (8, 7, 8), 4), torch.zeros(1, 1, *shape)])
    objective, outputs = Objective(weights={term: 1}, surface_weight=3), random_outputs(2)

    def value(samples):
        view = Outputs(*(field[samples] for field in outputs))
        return objective([view], target_of(mask[samples]), generator=generator())[term].item()

    assert value([0, 1]) == pytest.approx((value([0]) + value([1])) / 2, rel=1e-5)


def test_sample_without_lesion_still_has_a_distance_gradient():
    mask = torch.cat([ball(), torch.zeros_like(ball())])
    regressed = torch.zeros_like(mask, requires_grad=True)
    distance_term(regressed, target_of(mask).distance_mm).backward()
    assert (regressed.grad[1] < 0).all()  # towards +1
    assert regressed.grad[0].abs().sum() == pytest.approx(regressed.grad[1].abs().sum().item())


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_empty_and_full_masks_give_finite_terms(fill):
    target = target_of(torch.full((2, 1, 16, 16, 16), fill))
    views = [random_outputs(2, seed=seed) for seed in (0, 1)]
    for view in views:
        for field in view:
            field.requires_grad_()
    objective = Objective()
    terms = objective(views, target, generator=generator())
    objective.total(terms).backward()
    assert all(math.isfinite(value.item()) for value in terms.values())
    assert terms["feat"].item() == terms["conv_distance"].item() == 0
    assert all(torch.isfinite(field.grad).all() for view in views for field in view)


# -- the objective ------------------------------------------------------------------------------------------


def test_two_views_are_averaged():
    """With two samples, so that each view must meet the target of its own sample."""
    shape = (16, 16, 16)
    target = target_of(torch.cat([ball(shape, (8, 7, 8), 4), ball(shape, (3, 12, 5), 6)]))
    views = [random_outputs(2, seed=seed) for seed in (0, 1)]
    objective = Objective(weights=PAPER_WEIGHTS | {"out": 0, "feat": 0})
    both = objective(views, target, generator=generator())
    alone = [objective([view], target, generator=generator()) for view in views]
    for term, value in both.items():
        assert value.item() == pytest.approx((alone[0][term] + alone[1][term]).item() / 2, rel=1e-6)


def test_every_term_gets_the_settings_of_the_objective():
    """Each differs from its default, and from the loss with the default."""
    mask, distance_mm = target = target_of(bar())
    view = random_outputs(1, tuple(mask.shape[2:]))
    scale = {"tau": 0.7, "band": 9.0}
    contrast = {"temperature": 0.3, "core": "skeleton"}
    objective = Objective(weights=PAPER_WEIGHTS | {"out": 0}, surface_weight=3.0, **scale, **contrast)
    found = objective([view], target, generator=generator())
    expected = {
        "dist": distance_term(view.distance, distance_mm, band=9.0, surface_weight=3.0),
        "conv_mask": conv_mask_term(view.distance, mask, **scale),
        "conv_distance": conv_distance_term(view.seg, distance_mm, **scale),
        "feat": feat_term(view.embedding, mask, distance_mm, generator=generator(), **contrast),
    }
    default = Objective()([view, view], target, generator=generator())
    for term, value in expected.items():
        assert found[term].item() == value.item() != default[term].item(), term


def test_only_terms_with_a_weight_are_computed():
    target = target_of(ball((16, 16, 16), (8, 7, 8), 4))
    only_seg = Outputs(random_outputs(1).seg, None, None, None)
    terms = Objective(weights={"seg": 2, "dist": 0})([only_seg], target, generator=generator())
    assert list(terms) == ["seg"]


def test_total_applies_weights_and_ramps():
    terms = {term: torch.tensor(float(10**i)) for i, term in enumerate(TERMS)}
    objective = Objective(weights={term: 1 + i for i, term in enumerate(TERMS)})
    assert objective.total(terms).item() == 7654321
    assert objective.total(terms, ramp=0).item() == 21  # the ramp leaves out seg and dist
    assert objective.total(terms, ramp={"slice": 0.0, "seg": 0.0}).item() == 654320


def test_default_weights_are_the_papers():
    assert Objective().weights == {
        "seg": 1,
        "dist": 1,
        "conv_mask": 1,
        "conv_distance": 1,
        "out": 1,
        "feat": 0.1,
        "slice": 1,
    }


def test_same_generator_gives_identical_terms():
    target = target_of(ball())
    views = [random_outputs(1, (48, 48, 32), seed) for seed in (0, 1)]
    first, second, third = (Objective()(views, target, generator=generator(seed)) for seed in (5, 5, 6))
    assert first == second
    assert first["feat"] != third["feat"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"sge": 1}}, "unknown term 'sge'"),
        ({"weights": {"seg": -1}}, "give 0 to switch a term off"),
        ({"weights": {"seg": float("nan")}}, "weight of seg is nan"),
        ({"weights": {"seg": 0}}, "no term"),
        ({"tau": 0}, "above 0"),
        ({"band": 0}, "above 0"),
        ({"temperature": 0}, "above 0"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


def test_error_names_the_missing_view_or_head():
    target = target_of(ball((16, 16, 16), (8, 7, 8), 4))
    view = random_outputs(1)
    with pytest.raises(ValueError, match="compares two views; give two, or set its weight to 0"):
        Objective(weights={"out": 1})([view], target, generator=generator())
    with pytest.raises(ValueError, match="one or two"):
        Objective()([], target, generator=generator())
    for term, field in {
        "dist": "distance",
        "conv_mask": "distance",
        "feat": "embedding",
        "slice": "slices",
    }.items():
        with pytest.raises(ValueError, match=f"head '{field}'"):
            Objective(weights={term: 1})([view._replace(**{field: None})], target, generator=generator())


# -- which term trains which part, at initialisation --------------------------------------------------------

VOXEL_PATH = {"encoder", "decoder"}
TRAINS = {
    "seg": {"seg_head"} | VOXEL_PATH,
    "dist": {"distance_head"} | VOXEL_PATH,
    "conv_mask": {"distance_head"} | VOXEL_PATH,
    "conv_distance": {"seg_head"} | VOXEL_PATH,
    "out": {"seg_head", "distance_head"} | VOXEL_PATH,
    "feat": {"projector", "encoder"},
    "slice": {"slice_head", "encoder"},
}
PARTS = {
    "seg_head": ["seg_head"],
    "distance_head": ["distance_head"],
    "projector": ["projector"],
    "slice_head": ["slice_head"],
    "encoder": ["stem", "encoder1", "encoder2", "encoder3", "encoder4", "context"],
    "decoder": ["fuse", "decoder3", "decoder2", "decoder1"],
}


@pytest.fixture(scope="module")
def at_initialisation():
    """A fresh network, and its outputs for two views of a batch of two, of which one is empty."""
    torch.manual_seed(0)
    net = DualTaskNet(8)
    mask = torch.cat([ball(), torch.zeros_like(ball())])
    image = 0.4 + 0.2 * mask + 0.05 * torch.randn(mask.shape, generator=generator())
    views = [net(image), net((1 - image) ** 2)]
    return net, views, target_of(mask)


def gradient_norms(at_initialisation, term):
    net, views, target = at_initialisation
    objective = Objective(weights={term: PAPER_WEIGHTS[term]})
    net.zero_grad(set_to_none=True)
    objective.total(objective(views, target, generator=generator())).backward(retain_graph=True)

    def norm(parts):
        gradients = [p.grad for part in parts for p in getattr(net, part).parameters() if p.grad is not None]
        return torch.stack([g.norm() for g in gradients]).norm().item() if gradients else 0.0

    return {name: norm(parts) for name, parts in PARTS.items()}


@pytest.mark.parametrize("term", TERMS)
def test_each_term_trains_only_its_own_parts(term, at_initialisation):
    """Trap 10: with both voxel heads near zero, no term starts with a vanishing gradient."""
    norms = gradient_norms(at_initialisation, term)
    assert all(math.isfinite(norm) for norm in norms.values())
    trained = {part for part, norm in norms.items() if norm > 0}
    assert trained == TRAINS[term]
    assert min(norms[part] for part in trained) > 1e-7


def test_whole_objective_trains_every_parameter(at_initialisation):
    net, views, target = at_initialisation
    net.zero_grad(set_to_none=True)
    objective = Objective()
    objective.total(objective(views, target, generator=generator())).backward(retain_graph=True)
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_terms_have_the_papers_order():
    assert losses.TERMS == ("seg", "dist", "conv_mask", "conv_distance", "out", "feat", "slice")
