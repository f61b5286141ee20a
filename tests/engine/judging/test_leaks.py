"""Three leaks: each must inflate when there is something to leak, and nothing but the leak may differ."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import Box
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import cut_region
from dualtask_lite.engine.judging import leaks as engine
from dualtask_lite.engine.judging.leaks import box_leak, slice_leak, slices_of, threshold_leak
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.run import Model, TrainingCase, load_model
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.network import Outputs


class Bright(torch.nn.Module):
    """A stand-in network: the probability of a voxel is its grey value."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        logit = torch.logit(x.clamp(1e-4, 1 - 1e-4))
        return Outputs(seg=logit, distance=(-logit / 10).clamp(-1, 1), embedding=None, slices=None)


def model(stage="pancreas-coarse", seen=(), **overrides):
    values = {"sample.patch": [16, 16, 16], "sample.spacing": [2, 2, 2], "prediction.heads": "segmentation"}
    return Model(Bright(), Settings.of("laptop", {"stage": stage, **values, **overrides}), tuple(seen), stage)


def case(name, organ=0.9, around=0.1, *, lesion=None, noise=1.0, seed=0):
    """A box of pancreas; grey values are shares of the CT window, and so what the stand-in network answers."""
    grey = np.full((24, 20, 18), around)
    label = np.zeros(grey.shape, np.uint8)
    label[6:18, 5:15, 4:14] = 1
    grey[label == 1] = organ
    if lesion is not None:
        label[9:13, 8:12, 7:11] = 2
        grey[label == 2] = lesion
    volume = -100 + 340 * grey + np.random.default_rng(seed).normal(0, noise, grey.shape)
    return Case(name, "C", volume.astype(np.float32), label, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_a_threshold_chosen_on_the_test_cases_reports_its_best():
    """The organ is dimmer in the test cases: only a low threshold finds it, and only they can tell."""
    validation = [case("v", organ=0.9, around=0.55, seed=1)]
    test = [case("t1", organ=0.4, seed=2), case("t2", organ=0.45, seed=3)]
    found = threshold_leak([model()], validation, test, (0.2, 0.3, 0.5, 0.7, 0.8))
    assert found.reported == pytest.approx(1)
    assert found.honest == found.default == 0
    assert found.row["too high by"] == pytest.approx(1)
    assert "threshold 0.2" in found.how_reported
    assert "threshold 0.7" in found.how_honest
    everything = 2 * 1200 / (1200 + 24 * 20 * 18)  # the organ has 1200 voxels
    assert found.on_validation == pytest.approx([everything] * 3 + [1, 1])
    assert [row["case"] for row in found.cases] == ["t1", "t2"]


def test_threshold_tuned_on_test_cases_has_the_highest_score():
    test = [case(f"t{i}", organ=0.3 + 0.2 * i, around=0.25, noise=20, seed=i) for i in range(3)]
    found = threshold_leak([model()], [case("v", seed=9)], test)
    assert found.reported == max(found.on_test) >= max(found.honest, found.default)
    assert found.default == found.on_test[list(found.thresholds).index(0.5)]


def test_box_from_the_label_hides_misses_of_the_first_stage():
    """A long organ, of which only one end is bright enough for the first stage; the tumour is at the other end."""
    label = np.zeros((60, 8, 8), np.uint8)
    label[5:55, 2:6, 2:6] = 1
    grey = np.where(label > 0, 0.3, 0.1)
    grey[5:15, 2:6, 2:6] = 0.9
    label[45:49, 2:6, 2:6] = 2
    grey[label == 2] = 1
    long = Case("hit", "C", (-100 + 340 * grey).astype(np.float32), label, np.diag([2.0, 2.0, 2.0, 1.0]))
    cascade = [model(), model("tumour-coarse", **{"prediction.threshold": 0.95})]
    found = box_leak(cascade, [long, case("healthy", seed=2)])
    assert (found.reported, found.honest) == (1, 0)
    assert [row["case"] for row in found.cases] == ["hit"]  # without a tumour there is no Dice


def test_the_two_boxes_are_all_that_differs(monkeypatch):
    """Where the cascade finds the organ exactly, box by label and box by prediction are the same box."""
    cascade = [model(), model("tumour-coarse", **{"prediction.threshold": 0.95})]
    scan = case("c", organ=0.9, lesion=1.0, noise=0)
    boxes = []

    def watched(chosen, settings, box, **options):
        boxes.append((settings.stage, box))
        return cut_region(chosen, settings, box, **options)

    monkeypatch.setattr("dualtask_lite.engine.predict.cut_region", watched)
    found = box_leak(cascade, [scan])
    of_tumour = [box for stage, box in boxes if stage == "tumour-coarse"]
    assert len(of_tumour) == 2
    assert of_tumour[0] == of_tumour[1]
    assert found.reported == found.honest == 1
    boxes.clear()
    assert box_leak(cascade, [scan], {"c": predict_scan(cascade, scan.load())}) == found
    assert len(boxes) == 3, "a prediction that is known is not made again"


def test_the_box_from_the_label_has_the_margin_that_is_stated(monkeypatch):
    """Training boxes of the fine tumour stage are larger, because their faces move."""
    boxes, predict_box = [], engine.predict_box
    monkeypatch.setattr(engine, "predict_box", lambda *given: boxes.append(given[2]) or predict_box(*given))
    tested = replace(case("c", lesion=1.0), affine=np.diag([4.0, 4.0, 4.0, 1.0]))
    found = box_leak([model(), model("tumour-fine")], [tested])
    assert boxes == [Box((4, 3, 2), (18, 17, 16))]  # the tumour and 5 voxels around it
    assert found.how_reported == "20 mm around the true tumour"


def test_whole_volume_stage_has_no_box_leak():
    with pytest.raises(DualTaskError, match="no box can leak"):
        box_leak([model()], [case("c")])


@pytest.mark.parametrize("leak", [lambda m, t: threshold_leak(m, [case("v")], t), box_leak])
def test_training_case_and_case_without_target_are_refused(leak):
    tested = case("t", seed=1)
    seen = TrainingCase("t", "C", tested.digest(), "train")
    with pytest.raises(DualTaskError, match="was used in training"):
        leak([model(seen=[seen]), model("tumour-coarse")], [tested])
    with pytest.raises(DualTaskError, match="contains the target"):
        leak([model(), model("tumour-coarse")], [tested])


def test_slices_keep_their_position_and_target():
    whole = case("c", lesion=0.2, seed=1)
    cut = slices_of(whole, "tumour", 3.5)
    assert [one.id for one in cut] == [f"c_slice{z:03}" for z in range(7, 11)]
    scan, slab = whole.load(), cut[2].load()
    around = Box.around(scan.label > 0, engine.SLICE_MARGIN, scan.spacing)
    x, y, _ = around.slices
    for z in range(slab.shape[2]):
        assert np.array_equal(slab.volume[:, :, z], scan.volume[x, y, 9])
        assert np.array_equal(slab.label[:, :, z], scan.label[x, y, 9])
    here = np.array([around.start[0] + 3, around.start[1] + 4, 9, 1])
    assert np.allclose(slab.affine @ [3, 4, 0, 1], scan.affine @ here)
    assert np.allclose(slab.spacing, (*scan.spacing[:2], 3.5))
    assert slices_of(case("healthy"), "tumour", 2.5) == []


@pytest.fixture
def quick():
    changes = {
        "stage": "pancreas-coarse",
        "sample.patch": [24, 24, 8],
        "optimiser.steps": 2,
        "optimiser.batch": 1,
        "machine.device": "cpu",
    }
    return Settings.of("laptop", {**engine.SLICE_SETTINGS, **changes})


def test_both_splits_share_test_slices_and_training_size(tmp_path, quick):
    cases = [case(f"p{i}", seed=i) for i in range(4)]
    found = slice_leak(cases, tmp_path, settings=quick, progress=False)
    learned = {
        run: {seen.id for seen in load_model(tmp_path / run).training_cases} for run in ("by-slice", "by-patient")
    }
    tested = {row["case"] for row in found.cases}
    patients = {run: {name[:2] for name in names} for run, names in learned.items()}
    assert {name[:2] for name in tested} == patients["by-slice"] == {"p0", "p1"}
    assert patients["by-patient"] == {"p2", "p3"}
    assert len(learned["by-slice"]) == len(learned["by-patient"]) == 10
    assert not tested & (learned["by-slice"] | learned["by-patient"])
    neighbours = {f"{name[:-3]}{int(name[-3:]) - 1:03}" for name in tested}
    assert neighbours == learned["by-slice"]


def test_one_patient_cannot_be_split(tmp_path, quick):
    with pytest.raises(DualTaskError, match="fewer than two cases"):
        slice_leak([case("p0")], tmp_path, settings=quick)
