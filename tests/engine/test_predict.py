"""The cascade: what each stage is shown, rounds, fall-backs, components, flips, and the way back to the file's grid."""

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import Box
from dualtask_lite.engine import predict
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.inference import HEADS, flips, output_head, predict_heads, predict_region
from dualtask_lite.engine.predict import keep_large_components, predict_box, predict_scan
from dualtask_lite.engine.run import Model, build_network
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.network import Outputs

SMALL = {"network.width": 8, "sample.patch": [16, 16, 16], "sample.spacing": [2, 2, 2], "augment.flip": 0.5}


class Threshold(torch.nn.Module):
    """A stand-in network that calls bright voxels the target."""

    def __init__(self, level=0.5):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(level))

    def forward(self, x):
        logit = (x - self.level) * 40
        return Outputs(seg=logit, distance=(-logit / 10).clamp(-1, 1), embedding=None, slices=None)


def model(stage, level=0.5, **overrides):
    settings = Settings.of("laptop", {"stage": stage, **SMALL, "objective.tau": 2.0, **overrides})
    return Model(Threshold(level), settings, (), stage)


def bright_box(shape=(30, 28, 26), spacing=(2.0, 2.0, 2.0), hu=240, where=(slice(8, 20), slice(9, 19), slice(7, 17))):
    volume = np.full(shape, -200, np.float32)
    volume[where] = hu
    volume += np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    return Case("box", "A", volume, None, np.diag([*spacing, 1.0])).load()


def test_an_answer_that_is_no_number_is_an_error_and_no_empty_mask():
    with pytest.raises(DualTaskError, match="box: the answer of pancreas-coarse is not finite; fetch this model again"):
        predict_scan([model("pancreas-coarse", level=float("nan"))], bright_box())


def test_stages_run_in_cascade_order_for_any_input_order():
    scan = bright_box()
    stages = ["tumour-fine", "pancreas-fine", "tumour-coarse", "pancreas-coarse"]
    prediction = predict_scan([model(stage) for stage in stages], scan)
    assert [r["stage"] for r in prediction.report] == [
        "pancreas-coarse",
        "pancreas-fine",
        "tumour-coarse",
        "tumour-fine",
    ]
    assert [r["looked_in"] for r in prediction.report] == ["volume", "pancreas", "pancreas", "tumour"]
    assert prediction.target == "tumour"
    truth = scan.volume > 70
    assert np.array_equal(prediction.mask == 2, truth)
    assert prediction.report[0]["volume_ml"] == pytest.approx(truth.sum() * 8 / 1000, abs=1e-3)
    assert prediction.report[1]["rounds"] <= 2
    assert prediction.report[1]["agreement"] >= 0.92


def test_empty_prediction_falls_back_to_the_wider_region():
    scan = bright_box()
    nothing = model("pancreas-coarse", level=2.0)
    prediction = predict_scan([nothing, model("tumour-coarse")], scan)
    assert [r["looked_in"] for r in prediction.report] == ["volume", "volume"]
    assert (prediction.mask == 2).any()
    assert not (prediction.mask == 1).any()


@pytest.mark.parametrize("blind", ["pancreas-coarse", "tumour-coarse", None])
def test_a_stage_that_falls_back_warns(blind):
    """Else a tumour without a pancreas is reported as if all were well; a stage that is not there is not missed."""
    stages = ("pancreas-coarse", "tumour-coarse", "tumour-fine")
    prediction = predict_scan([model(stage, level=2.0 if stage == blind else 0.5) for stage in stages], bright_box())
    warned = {stage["stage"]: stage["warning"] for stage in prediction.report if stage["warning"]}
    assert (
        warned
        == {
            "pancreas-coarse": {
                "tumour-coarse": "no pancreas was found before tumour-coarse, so it looked in the whole volume",
            },
            "tumour-coarse": {
                "tumour-fine": "no tumour was found before tumour-fine, so it looked in the box around the pancreas"
            },
            None: {},
        }[blind]
    )
    assert prediction.warnings == list(warned.values())
    assert predict_scan([model("tumour-coarse")], bright_box()).warnings == []


def test_empty_fine_stage_keeps_the_coarse_prediction():
    """Its mask with its own maps, and no agreement with itself."""
    scan = bright_box()
    coarse = predict_scan([model("pancreas-coarse")], scan)
    both = predict_scan([model("pancreas-coarse"), model("pancreas-fine", level=2.0)], scan)
    for name in ("mask", "probability", "distance_mm"):
        assert np.array_equal(getattr(both.targets["pancreas"], name), getattr(coarse.targets["pancreas"], name))
    assert (both.distance_mm[both.mask == 1] <= 0).all()
    assert both.report[1]["agreement"] == 0
    assert "pancreas-fine found nothing in its box" in both.warnings[0]


def test_kept_prediction_has_the_mask_of_each_head():
    """One layer of the box is grey: by the segmentation it is inside, by the distance of this network outside."""

    class Apart(Threshold):
        def forward(self, x):
            outputs = super().forward(x)
            return outputs._replace(distance=outputs.distance + 0.3)

    scan = bright_box()
    scan.volume[8, 9:19, 7:17] = 77
    coarse = replace(model("pancreas-coarse"), net=Apart())
    before = predict_scan([coarse], scan).targets["pancreas"].masks
    kept = predict_scan([coarse, model("pancreas-fine", level=2.0)], scan).targets["pancreas"].masks
    assert before["segmentation"].sum() - before["distance"].sum() == 100
    assert list(kept) == list(before)
    assert all(np.array_equal(kept[head], before[head]) for head in HEADS)


def test_stages_can_be_run_one_after_the_other():
    scan, stages = bright_box(), ("pancreas-coarse", "tumour-coarse")
    together = predict_scan([model(stage) for stage in stages], scan)
    first = predict_scan([model(stages[0])], scan)
    second = predict_scan([model(stages[1])], scan, first.targets)
    assert [stage["looked_in"] for stage in second.report] == ["pancreas"]
    assert np.array_equal(second.mask, together.mask)
    assert list(first.targets) == ["pancreas"]  # unchanged


def test_empty_round_keeps_the_previous_prediction(monkeypatch):
    scan, rounds = bright_box(), itertools.count()

    def fading(model, scan, box):
        """All of the box in the first stage, half of that in the next round, then nothing."""
        probability = np.zeros(scan.shape, np.float32)
        probability[: (16, 4, 0)[next(rounds)], :8, :8] = 1
        maps = np.stack([probability, 0.5 - probability])
        return predict.BoxMaps(maps, Box.whole(scan.shape), scan.shape, ("segmentation",), "segmentation", 20.0)

    monkeypatch.setattr(predict, "predict_box", fading)
    prediction = predict_scan([model("pancreas-coarse"), model("pancreas-fine")], scan)
    assert np.array_equal(prediction.mask == 1, prediction.distance_mm < 0)
    assert (prediction.mask == 1).sum() == 4 * 8 * 8
    assert (prediction.report[1]["rounds"], prediction.report[1]["agreement"]) == (2, 0)


def test_a_cascade_that_finds_nothing_agrees_on_nothing():
    stages = ("pancreas-coarse", "pancreas-fine")
    prediction = predict_scan([model(stage, level=2.0) for stage in stages], bright_box())
    assert not prediction.mask.any()
    assert prediction.report[1]["agreement"] is None


def test_a_fine_stage_stops_after_four_rounds(monkeypatch):
    scan = bright_box()
    calls = itertools.count()

    def moving(model, scan, box):
        start = 2 * next(calls)
        probability = np.zeros(scan.shape, np.float32)
        probability[start : start + 4, :6, :6] = 1
        maps = np.stack([probability, 1 - probability])
        return predict.BoxMaps(maps, Box.whole(scan.shape), scan.shape, ("segmentation",), "segmentation", 20.0)

    monkeypatch.setattr(predict, "predict_box", moving)
    report = predict_scan([model("pancreas-coarse"), model("pancreas-fine")], scan).report
    assert report[1]["rounds"] == 4
    assert report[1]["agreement"] < 0.92


def test_rounds_agree_at_a_dice_of_92_percent(monkeypatch):
    """Runs of 100 voxels, the first round 9 behind the coarse stage, the second another 7: Dice 0.91, then 0.93."""
    scan, starts = bright_box(), iter((0, 9, 16))

    def shifted(model, scan, box):
        probability, start = np.zeros(scan.shape, np.float32), next(starts)
        plane = np.zeros(30 * 28, np.float32)
        plane[start : start + 100] = 1
        probability[:, :, 3] = plane.reshape(30, 28)
        maps = np.stack([probability, 1 - probability])
        return predict.BoxMaps(maps, Box.whole(scan.shape), scan.shape, ("segmentation",), "segmentation", 20.0)

    monkeypatch.setattr(predict, "predict_box", shifted)
    report = predict_scan([model("pancreas-coarse"), model("pancreas-fine")], scan).report[1]
    assert (report["rounds"], report["agreement"]) == (2, 0.93)


def test_box_of_a_stage_has_its_margin_in_mm():
    """20 mm for tumour-coarse; 25 mm for pancreas-fine, which here begins with the whole volume."""
    start, stop = np.array([28, 20, 16]), np.array([40, 30, 24])
    where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    scan = bright_box((60, 56, 40), (1.0, 2.0, 5.0), where=where)
    for stages, margin in ((("pancreas-coarse", "tumour-coarse"), (20, 10, 4)), (("pancreas-fine",), (25, 13, 5))):
        prediction = predict_scan([model(stage) for stage in stages], scan)
        pancreas = Box.around(prediction.targets["pancreas"].mask)
        assert np.abs(np.subtract([pancreas.start, pancreas.stop], [start, stop])).max() <= 1  # the grid is another
        expected = np.subtract(pancreas.start, margin), np.add(pancreas.stop, margin)
        found = [prediction.report[-1][name] for name in ("box_start", "box_stop")]
        assert np.abs(np.subtract(found, np.clip(expected, 0, scan.shape))).max() <= 1  # around the round before
        assert prediction.report[0]["volume_ml"] == pytest.approx(prediction.targets["pancreas"].mask.sum() * 0.01)


@pytest.mark.parametrize(("threshold", "layers"), [(0.5, 12), (0.8, 11)])
def test_every_mask_has_the_threshold_of_the_model(threshold, layers):
    """One layer of the box is grey: both heads give it a probability of about 0.7."""
    scan = bright_box()
    scan.volume[8, 9:19, 7:17] = 77
    found = predict_scan([model("pancreas-coarse", **{"prediction.threshold": threshold})], scan).targets["pancreas"]
    assert found.probability[8, 12, 12] == pytest.approx(0.7, abs=0.05)
    for mask in (found.mask, *found.masks.values()):
        assert mask.any((1, 2)).sum() == layers


@pytest.mark.parametrize("shape", [(9, 40, 1), (64, 5, 20), (17, 17, 17)])
def test_any_volume_size_works_and_only_its_box_matters(shape):
    scan = bright_box(shape, where=(slice(2, 6), slice(1, 4), slice(0, 1)))
    box = Box((1, 0, 0), (8, 5, 1))
    maps = predict_box(model("pancreas-coarse", **{"objective.band": 12}), scan, box)
    probability, distance = maps.probability, maps.distance_mm
    assert probability.shape == distance.shape == shape
    outside = np.ones(shape, bool)
    outside[box.slices] = False
    assert not probability[outside].any()
    assert (distance[outside] == 12).all()


def test_eight_flips_are_eight_and_their_mean_is_flip_invariant():
    assert len(set(flips(8))) == 8
    assert flips(1) == [()]
    torch.manual_seed(0)
    settings = Settings.of("laptop", {**SMALL, "prediction.flips": 8, "prediction.overlap": 0})
    net = build_network(settings).eval()
    torch.nn.init.normal_(net.seg_head.weight)
    image = torch.rand(1, 16, 16, 16)
    straight = predict_region(net, image, settings)
    for axis in (1, 2, 3):
        assert torch.allclose(predict_region(net, image.flip(axis), settings).flip(axis), straight, atol=1e-4)
    one = predict_region(net, image, settings.changed({"prediction.flips": 1}))
    assert not torch.allclose(one, straight, atol=1e-4)


def test_maps_are_converted_by_the_settings_of_the_model():
    image = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    logit = (image - 0.5) * 40
    distance = (-logit / 10).clamp(-1, 1) * 12
    chosen = model("pancreas-coarse", **{"objective.tau": 3, "objective.band": 12})
    maps = predict_heads(chosen.net, image, chosen.settings)
    torch.testing.assert_close(maps, torch.cat([logit.sigmoid(), distance, (-distance / 3).sigmoid()]))
    off = {f"objective.weights.{term}": 0 for term in ("dist", "conv_mask", "conv_distance")}
    maps = predict_heads(chosen.net, image, chosen.settings.changed(off))
    torch.testing.assert_close(maps, torch.cat([logit.sigmoid(), (-3 * logit).clamp(-12, 12)]))


def test_prediction_is_without_dropout_and_the_network_trains_on():
    torch.manual_seed(0)
    settings = Settings.of("laptop", SMALL)
    net, image = build_network(settings).train(), torch.rand(1, 16, 16, 16)
    torch.nn.init.normal_(net.seg_head.weight)
    one, other = (predict_region(net, image, settings) for _ in range(2))
    assert torch.equal(one, other)
    assert net.training
    predict_region(net.eval(), image, settings)
    assert not net.training


def test_windows_give_what_one_pass_gives_for_a_pointwise_network():
    image = torch.rand(1, 40, 24, 19, generator=torch.Generator().manual_seed(0))
    chosen = model("pancreas-coarse")
    windows = predict_region(chosen.net, image, chosen.settings)
    wide = predict_region(chosen.net, image, chosen.settings.changed({"sample.patch": [40, 24, 24]}))
    assert windows.shape == (2, 40, 24, 19)
    assert torch.allclose(windows, wide, atol=1e-5)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("shape", [(40, 24, 19), (24, 20, 13), (9, 33, 1)])
def test_windows_equal_the_mean_of_monai_over_flips(shape, count):
    """Larger than a window, and smaller, where they are padded; with air, which goes through the network once."""
    torch.manual_seed(0)
    how = {"prediction.overlap": 0.25, "prediction.heads": "segmentation", "prediction.flips": count}
    settings = Settings.of("laptop", {**SMALL, **how})
    net, image = build_network(settings).eval(), torch.rand(1, *shape)
    torch.nn.init.normal_(net.seg_head.weight)
    image[:, :20] = 0
    with torch.no_grad():
        plain = [
            sliding_window_inference(
                image[None].flip(axes), settings.sample.patch, 4, lambda x: net(x).seg.sigmoid(), 0.25, mode="gaussian"
            ).flip(axes)[0]
            for axes in flips(count)
        ]
    assert torch.allclose(predict_region(net, image, settings)[:1], torch.stack(plain).mean(0), atol=1e-5)


def test_windows_of_air_go_through_the_network_once():
    chosen, seen = model("pancreas-coarse", **{"prediction.flips": 8, "prediction.overlap": 0}), []

    class Counting(Threshold):
        def forward(self, x):
            seen.extend(x.flatten(1).any(1).tolist())
            return super().forward(x)

    image = torch.zeros(1, 64, 64, 32)
    image[:, 10:20, 40:44, 5] = 1  # in two windows
    maps = predict_region(Counting(), image, chosen.settings)
    assert seen.count(True) == 2 * 8
    assert seen.count(False) == 1
    assert torch.equal(maps[0] > 0.5, image[0] > 0.5)


@pytest.mark.parametrize("shape", [(27, 16, 16), (11, 16, 30)])
def test_flips_of_windows_are_flips_of_the_image(shape):
    torch.manual_seed(0)
    settings = Settings.of("laptop", {**SMALL, "prediction.flips": 8, "prediction.overlap": 0.25})
    net, image = build_network(settings).eval(), torch.rand(1, *shape)
    torch.nn.init.normal_(net.seg_head.weight)
    straight = predict_region(net, image, settings)
    for axis in (1, 2, 3):
        assert torch.allclose(predict_region(net, image.flip(axis), settings).flip(axis), straight, atol=1e-4)


def test_out_of_memory_is_answered_with_smaller_windows():
    chosen = model("pancreas-coarse", **{"sample.patch": [32, 32, 32]})
    seen = []

    class Small(Threshold):
        def forward(self, x):
            seen.append(max(x.shape))
            if max(x.shape) > 16:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
            return super().forward(x)

    image = torch.rand(1, 32, 32, 32)
    with pytest.warns(UserWarning, match="windows of 16 x 16 x 16 voxels, one at a time"):
        got = predict_region(Small(), image, chosen.settings)
    assert torch.allclose(got, predict_region(chosen.net, image, chosen.settings), atol=1e-5)
    assert seen[0] == 32
    assert min(seen) == 16


def test_out_of_memory_is_first_answered_with_fewer_windows_at_a_time(recwarn):
    chosen, batches = model("pancreas-coarse"), []

    class Narrow(Threshold):
        def forward(self, x):
            batches.append(len(x))
            if len(x) > 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
            return super().forward(x)

    image = torch.rand(1, 48, 40, 24)
    got = predict_region(Narrow(), image, chosen.settings)
    assert torch.equal(got, predict_region(chosen.net, image, chosen.settings))
    assert batches[:2] == [4, 2]
    assert set(batches[2:]) == {1}
    assert not recwarn.list


@pytest.mark.parametrize(
    "raised", [torch.cuda.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_out_of_memory_with_small_windows_is_reported(raised):
    class Full(Threshold):
        def forward(self, x):
            raise raised

    with pytest.raises(DualTaskError, match="box: predicting its 30 x 28 x 26 voxels takes more memory than is"):
        predict_scan([replace(model("pancreas-coarse"), net=Full())], bright_box())


def test_other_device_errors_are_not_reported_as_full_memory():
    class Broken(Threshold):
        def forward(self, x):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        predict_scan([replace(model("pancreas-coarse"), net=Broken())], bright_box())


@pytest.mark.parametrize("heads", ["mean", "segmentation", "distance"])
def test_the_chosen_head_makes_the_mask(heads):
    class Opposed(Threshold):
        def forward(self, x):
            return super().forward(x)._replace(distance=torch.ones_like(x))  # nothing anywhere

    chosen = model("pancreas-coarse", **{"prediction.heads": heads})
    probability = predict_region(Opposed(), torch.ones(1, 16, 16, 16), chosen.settings)[0]
    wanted = {"mean": 0.5, "segmentation": 1.0, "distance": 0.0}[heads]
    assert probability.mean() == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("off", "head"), [(("seg", "conv_distance"), "distance"), (("dist", "conv_mask"), "segmentation")]
)
def test_the_only_trained_head_makes_the_mask(off, head):
    """By the default, the mean, also with two views: their consistency trains no head on the truth."""
    two_views = {"views.count": 2, "objective.weights.out": 1}
    chosen = model("pancreas-coarse", **{f"objective.weights.{term}": 0 for term in off}, **two_views)
    assert chosen.settings.prediction.heads == "mean"
    assert output_head(chosen.settings) == head
    assert list(predict_scan([chosen], bright_box()).targets["pancreas"].masks) == [head]


def test_every_head_is_scored_from_one_forward_pass():
    """Each head's mask is what a prediction with that head alone gives."""

    class Apart(Threshold):
        def forward(self, x):
            outputs = super().forward(x)
            return outputs._replace(distance=outputs.distance + 0.3)  # its lesion is smaller

    scan = bright_box()
    whole = Box.whole(scan.shape)
    alone = {}
    for head in HEADS:
        chosen = replace(model("pancreas-coarse", **{"prediction.heads": head}), net=Apart())
        alone[head] = predict_box(chosen, scan, whole).probability >= 0.5
        found = predict_scan([chosen], scan).targets["pancreas"]
        assert np.array_equal(found.mask, found.masks[head])
    for head, mask in found.masks.items():
        assert np.array_equal(mask, keep_large_components(alone[head]))


def test_false_tumour_does_not_change_the_pancreas_score():
    """The written label map merges the two; each target keeps its own mask."""
    scan = bright_box()
    alone = predict_scan([model("pancreas-coarse")], scan)
    everything = model("tumour-coarse", level=-10.0)  # tumour wherever it looks
    cascade = predict_scan([model("pancreas-coarse"), everything], scan)
    assert cascade.targets["tumour"].mask.sum() > alone.targets["pancreas"].mask.sum()
    assert np.array_equal(cascade.targets["pancreas"].mask, alone.targets["pancreas"].mask)
    assert np.array_equal(cascade.mask == 2, cascade.targets["tumour"].mask)


@pytest.mark.parametrize("order", list(itertools.permutations((100, 90, 50, 40))))
def test_components_below_half_the_largest_are_removed_in_any_order(order):
    """Golden's post-processing rule depends on the order of the labels (trap 8); this one must not."""
    mask = np.zeros((3, 48, 200), bool)
    for row, length in zip((3, 15, 27, 39), order, strict=True):
        mask[1, row, :length] = True
    assert keep_large_components(mask).sum() == 240  # exactly half of the largest is kept


def test_components_agree_with_scipy():
    mask = np.random.default_rng(3).random((40, 40, 40)) < 0.08
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    assert np.array_equal(keep_large_components(mask), np.isin(labels, np.flatnonzero(sizes >= sizes.max() / 2)) & mask)


def test_doubles_and_no_model_are_refused():
    with pytest.raises(DualTaskError, match="no model"):
        predict_scan([], bright_box())
    with pytest.raises(DualTaskError, match="same stage"):
        predict_scan([model("pancreas-fine"), model("pancreas-fine")], bright_box())


def test_how_the_file_orders_its_voxels_changes_nothing(tmp_path):
    """The same CT stored in any of the 48 orders of axes gets the same answer at the same place in the patient."""
    torch.manual_seed(0)
    settings = Settings.of("laptop", {"stage": "pancreas-coarse", **SMALL})
    net = build_network(settings).eval()
    torch.nn.init.normal_(net.seg_head.weight)
    trained = Model(net, settings, (), "run")
    volume = np.random.default_rng(1).normal(50, 80, (20, 18, 17)).astype(np.float32)
    affine = np.diag([2.0, 2.2, 3.0, 1.0])
    affine[:3, 3] = (-20, 11, 40)

    def answer(array, grid):
        """What is saved, looked at in the order of RAS+."""
        nib.save(nib.Nifti1Image(array, grid), tmp_path / "ct.nii")
        scan = Case("ct", "A", tmp_path / "ct.nii").load()
        saved = nib.load(scan.save(predict_scan([trained], scan).mask, tmp_path / "seg.nii"))
        assert saved.shape == array.shape
        assert np.array_equal(saved.affine, nib.load(tmp_path / "ct.nii").affine)
        there = nib.as_closest_canonical(saved)
        np.testing.assert_allclose(there.affine, affine, atol=1e-4)
        return np.asarray(there.dataobj)

    straight = answer(volume, affine)
    assert 0 < straight.sum() < straight.size
    orders = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    assert len(orders) == 48
    for axes, signs in orders:
        turn = nib.orientations.inv_ornt_aff(np.column_stack([axes, signs]), volume.shape)
        turned = nib.orientations.apply_orientation(volume, np.column_stack([axes, signs]))
        assert np.array_equal(answer(turned, affine @ turn), straight), (axes, signs)
