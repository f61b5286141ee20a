"""Training samples: reproducible, image and mask together, identity when nothing is to change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import Box
from dualtask_lite.engine.config import Augment, Settings
from dualtask_lite.engine.data.dataset import Region, Samples, crop_randomly, draw_case, draw_centre, training_region
from dualtask_lite.errors import DualTaskError

STILL = {f"augment.{name}": 0 for name in Augment.model_fields}
PATCH = (24, 32, 16)


def ball_case(name="ball", label_value=2):
    """A bright ball in fat, off centre, on an anisotropic grid."""
    shape, spacing = (40, 36, 24), (2.0, 2.5, 4.0)
    x, y, z = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    ball = (x - 36) ** 2 + (y - 50) ** 2 + (z - 52) ** 2 <= 18**2
    rng = np.random.default_rng(0)
    volume = np.where(ball, 150, -60) + rng.normal(0, 5, shape)
    return Case(name, "A", volume.astype(np.float32), (ball * label_value).astype(np.uint8), np.diag([*spacing, 1.0]))


def settings(**overrides):
    start = {"sample.spacing": [2.5, 2.5, 4], "sample.patch": PATCH, "stage": "tumour-coarse"}
    return Settings.of("laptop", {**start, **overrides})


def test_sample_i_is_the_same_whoever_makes_it():
    chosen = settings()
    regions = [training_region(ball_case(), chosen), training_region(ball_case("other"), chosen)]
    once, again = Samples(regions, chosen, range(6)), Samples(regions, chosen, [4])
    for _ in range(3):  # the transform's earlier draws must leave no trace
        once[0]
    a, b = once[4], again[0]
    assert a["case_id"] == b["case_id"]
    assert a["index"] == b["index"] == 4
    for key in ("image", "mask", "distance_mm"):
        assert torch.equal(a[key], b[key])
        assert a[key].shape == (1, *PATCH)
        assert a[key].dtype == torch.float32
    assert not torch.equal(a["image"], once[5]["image"])


def test_every_case_comes_once_an_epoch():
    epochs = [[draw_case(5 * epoch + i, 5, seed=1) for i in range(5)] for epoch in range(4)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_another_seed_gives_another_order_and_other_samples():
    orders = {tuple(draw_case(i, 5, seed) for i in range(5)) for seed in range(4)}
    assert len(orders) > 1
    region = training_region(ball_case(), settings())
    one, other = (Samples([region], settings(**STILL, seed=seed), range(4)) for seed in (0, 1))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))


def test_image_and_mask_move_together():
    chosen = settings(**{"augment.noise": 0, "augment.gamma": 0, "augment.elastic": 1})
    samples = Samples([training_region(ball_case(), chosen)], chosen, range(20))
    for sample in samples:
        image, mask = sample["image"][0], sample["mask"][0]
        if mask.sum() < 50:
            continue
        bright = image > 0.45  # halfway between fat and ball
        dice = 2 * (bright & (mask > 0)).sum() / (bright.sum() + mask.sum())
        assert dice > 0.85


@pytest.mark.parametrize("patch", [(8, 8, 8), PATCH])
def test_distance_includes_the_surroundings_of_the_patch(patch):
    """Within the band it is the distance in the whole region, cut out: not that of the patch taken alone."""
    chosen = settings(**STILL, **{"sample.foreground": 1.0, "sample.patch": patch})
    region = training_region(ball_case(), chosen)
    for found, whole in distances(region, chosen, range(6)):
        assert np.abs(found.clip(-20, 20) - whole.clip(-20, 20)).max() < 1e-3


def test_surroundings_reach_as_far_as_the_band():
    """In a long region with the target at its end, a band of 40 mm: farther than the default of 20 mm."""
    chosen = settings(**STILL, **{"sample.foreground": 0, "sample.patch": (8, 8, 8), "objective.band": 40})
    mask = torch.zeros(1, 16, 16, 100)
    mask[..., :10] = 1
    region = Region("a", torch.ones_like(mask), mask, (1.0, 1.0, 1.0), Box.whole((16, 16, 100)))
    pairs = list(distances(region, chosen, range(20)))
    assert any(((whole > 30) & (whole < 40)).any() for _, whole in pairs)
    for found, whole in pairs:
        assert np.abs(found.clip(-40, 40) - whole.clip(-40, 40)).max() < 1e-3


def distances(region, chosen, indices):
    """The signed distance of each sample, and SciPy's in the whole region, cut out at the same place."""
    mask = np.pad(region.mask[0].numpy() > 0, 40)
    outside, inside = (ndimage.distance_transform_edt(part, sampling=region.spacing) for part in (~mask, mask))
    samples = Samples([region], chosen, indices)
    for sample in samples:
        rng = np.random.default_rng((chosen.seed, sample["index"]))
        centre = draw_centre(region.mask.shape[1:], samples.targets[0], chosen.sample.foreground, rng)
        sides = zip(centre, chosen.sample.patch, strict=True)
        cut = tuple(slice(c + 40 - side // 2, c + 40 + side - side // 2) for c, side in sides)
        yield sample["distance_mm"][0].numpy(), (outside - inside)[cut]


def test_a_target_that_the_scan_cuts_off_ends_at_its_edge():
    """In mask and distance alike, as the image does: outside is air."""
    region = Region("a", torch.ones(1, 12, 12, 12), torch.ones(1, 12, 12, 12), (2.0, 2.0, 2.0), Box.whole((12,) * 3))
    for sample in Samples([region], settings(**STILL, **{"sample.patch": [16, 16, 16]}), range(4)):
        assert torch.equal(sample["distance_mm"] < 0, sample["mask"] > 0)
        assert torch.equal(sample["mask"] > 0, sample["image"] > 0.5)
        assert sample["distance_mm"].min() == -12  # six voxels deep


def test_the_distance_is_of_the_moved_mask():
    chosen = settings(**{"augment.elastic": 1})
    region = training_region(ball_case(), chosen)
    for sample in Samples([region], chosen, range(6)):
        assert torch.equal(sample["distance_mm"] < 0, sample["mask"] > 0)


def test_foreground_share_centres_patches_on_the_target():
    chosen = settings(**STILL, **{"sample.foreground": 1.0, "sample.patch": [8, 8, 8]})
    region = training_region(ball_case(), chosen)
    assert all(sample["mask"][0, 4, 4, 4] == 1 for sample in Samples([region], chosen, range(20)))


def test_share_of_the_patches_is_centred_on_the_target():
    """On a target of one voxel a quarter of them, the others anywhere in the region; without a target all of them."""
    rng, corner = np.random.default_rng(0), torch.tensor([0])
    some, none = (
        np.array([draw_centre((4, 5, 6), target, 0.25, rng) for _ in range(3000)])
        for target in (corner, torch.zeros(0, dtype=torch.int64))
    )
    at_corner = [(centres == 0).all(1).mean() for centres in (some, none)]
    assert at_corner == pytest.approx([0.25 + 0.75 / 120, 1 / 120], abs=0.03)
    for axis, side in enumerate((4, 5, 6)):
        np.testing.assert_allclose(np.bincount(none[:, axis], minlength=side) / 3000, 1 / side, atol=0.035)


@pytest.mark.parametrize("wanted", [(3.0, 3.0, 5.0), (1.3, 2.0, 7.0)])
def test_region_on_the_working_grid_covers_its_box(wanted):
    """The spacing is that of the whole number of voxels that fit, neither the scan's nor exactly the wanted one."""
    region = training_region(ball_case(), settings(**{"sample.spacing": wanted}))
    assert np.multiply(region.image.shape[1:], region.spacing) == pytest.approx(
        np.multiply(region.box.shape, (2.0, 2.5, 4.0))
    )
    volume_ml = float(region.mask.sum() * np.prod(region.spacing)) / 1000
    assert volume_ml == pytest.approx(4 / 3 * np.pi * 1.8**3, rel=0.04)


@pytest.mark.parametrize(
    ("stage", "start"), [("pancreas-fine", (0, 3, 2)), ("tumour-coarse", (0, 5, 4)), ("tumour-fine", (0, 1, 1))]
)
def test_box_of_a_stage_has_its_margin_in_mm(stage, start):
    """25, 20 and, with its jitter, 30 mm before voxels 9, 13 and 9 of 2, 2.5 and 4 mm, but not beyond the volume."""
    assert training_region(ball_case(), settings(stage=stage)).box.start == start


@pytest.mark.parametrize(
    ("stage", "whole"), [("pancreas-coarse", True), ("tumour-coarse", False), ("tumour-fine", False)]
)
def test_a_stage_sees_its_region(stage, whole):
    region = training_region(ball_case(), settings(stage=stage))
    assert (region.box.shape == (40, 36, 24)) is whole
    assert region.mask.sum() > 0


def test_case_without_organ_uses_the_whole_volume():
    region = training_region(ball_case(label_value=0), settings())
    assert region.box.shape == (40, 36, 24)
    assert region.mask.sum() == 0


def test_a_case_without_a_label_cannot_train():
    case = ball_case()
    with pytest.raises(DualTaskError, match="ball: has no label"):
        training_region(Case("ball", "A", case.image, None, case.affine), settings())
    region = replace(training_region(case, settings()), mask=None)
    with pytest.raises(DualTaskError, match="ball: has no label"):
        Samples([region], settings(), range(1))


@pytest.mark.parametrize("where", [slice(30, 40), slice(0, 9)])  # with its margin, and at the border of the volume
def test_a_jittered_box_moves_and_never_cuts_the_target(where):
    mask = torch.zeros(1, 60, 60, 60, dtype=torch.uint8)
    mask[0, where, where, where] = 1
    region = Region("a", torch.ones(1, 60, 60, 60), mask, (1.0, 1.0, 2.0), Box.whole((60, 60, 60)))
    rng = np.random.default_rng(0)
    shown = [crop_randomly(region, 10, rng) for _ in range(8)]
    assert all((image[mask > 0] == 1).all() for image in shown)
    assert len({int(image.sum()) for image in shown}) > 4
    assert all(0 < image.mean() < 1 for image in shown)
    assert torch.equal(crop_randomly(region, 0, rng), region.image)


def test_each_face_of_a_jittered_box_moves_by_up_to_twice_the_jitter():
    """0 to 20 mm into the region, evenly: 0 to 19 voxels of 1 mm, 0 to 9 of 2 mm."""
    mask = torch.zeros(1, 60, 60, 60, dtype=torch.uint8)
    mask[0, 28:32, 28:32, 28:32] = 1
    region = Region("a", torch.ones(1, 60, 60, 60), mask, (1.0, 1.0, 2.0), Box.whole((60, 60, 60)))
    rng = np.random.default_rng(0)
    boxes = [Box.around(crop_randomly(region, 10, rng)[0].numpy()) for _ in range(150)]
    hidden = np.array([(*box.start, *np.subtract(60, box.stop)) for box in boxes])
    assert hidden.min(0).tolist() == [0] * 6
    assert hidden.max(0).tolist() == [19, 19, 9] * 2
    np.testing.assert_allclose(hidden.mean(0), [9.5, 9.5, 4.5] * 2, rtol=0.2)
