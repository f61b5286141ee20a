"""Overlap, surface distances, volumes and summaries: golden values, boxes by hand, SciPy, and empty masks."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from dualtask_lite.engine.judging.metrics import METRICS, case_metrics, summarise

CT = (0.8, 0.8, 5.0)  # mm, a thick-slice CT
ONE = (1.0, 1.0, 1.0)
MM = st.floats(0.25, 8.0, width=32)
ISOTROPIC = (1.0, 1.0, 1.0)
SPACINGS = st.tuples(MM, MM, MM)
UNDEFINED = math.nan
ROUNDING = 1e-4  # mm; MONAI keeps distances of up to 100 mm here in float32


@st.composite
def pairs(draw):
    """Two masks on one grid, each with at least one voxel; they often touch the border."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    masks = [draw(arrays(bool, shape)) for _ in range(2)]
    for mask in masks:
        mask[tuple(draw(st.integers(0, n - 1)) for n in shape)] = True
    return masks


def box(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def same(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True, **tolerance), name


def surface_distances(a, b, spacing):
    """From each surface voxel of a mask to the nearest of the other, by SciPy's transform; both ways."""
    a, b = np.pad(a, 1), np.pad(b, 1)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    to = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return to[1][edges[0]], to[0][edges[1]]


# -- golden values; (x, y, z) here is (k, j, i) there -------------------------------------------------------


def golden_masks():
    k, j, i = np.indices((24, 24, 24))
    a = ((i - 11) / 7) ** 2 + ((j - 12) / 6) ** 2 + ((k - 12.5) / 5) ** 2 <= 1
    b = ((i - 12) / 7) ** 2 + ((j - 12) / 6) ** 2 + ((k - 13.5) / 5) ** 2 <= 1
    assert a.sum() == b.sum() == 858
    return a, b


def test_golden_overlap():
    a, b = golden_masks()
    found = case_metrics(b, a, ONE)
    for name in ("dice", "precision", "recall"):
        assert found[name] == pytest.approx(0.8205128205, abs=1e-10)
    assert found["detected"] is True
    assert json.loads(json.dumps(found)) == found  # plain Python numbers


@pytest.mark.parametrize(
    ("spacing", "nsd_1mm"),
    [(ONE, 0.843558278), ((0.8, 0.8, 2.5), 0.7546012232), ((2.0, 2.0, 2.0), 0.3251533726)],
    ids=["1 mm", "anisotropic, (2.5, 0.8, 0.8) in (z, y, x)", "0.5 voxel"],
)
def test_golden_surface_dice(spacing, nsd_1mm):
    a, b = golden_masks()
    assert case_metrics(b, a, spacing)["nsd_1mm"] == pytest.approx(nsd_1mm, abs=1e-7)


def test_golden_surface_dice_at_two_voxels():
    a, b = golden_masks()
    assert case_metrics(b, a, ONE)["nsd_2mm"] == pytest.approx(0.999999995, abs=1e-7)


# -- by hand ------------------------------------------------------------------------------------------------


def test_plate_shifted_by_one_slice_has_error_of_slice_thickness():
    shape = (9, 9, 9)
    a, b = box(shape, (2, 2, 3), (6, 6, 4)), box(shape, (2, 2, 4), (6, 6, 5))
    same(
        case_metrics(b, a, CT),
        {
            "dice": 0,
            "jaccard": 0,
            "precision": 0,
            "recall": 0,
            "hd95_mm": 5,
            "assd_mm": 5,
            "nsd_1mm": 0,
            "nsd_2mm": 0,
            "volume_ml_truth": 16 * 3.2 / 1000,
            "volume_ml_prediction": 16 * 3.2 / 1000,
            "volume_error_ml": 0,
            "detected": False,
        },
        abs=1e-6,
    )


def test_bar_shifted_along_its_axis_has_errors_at_its_ends():
    shape = (20, 3, 3)
    a, b = box(shape, (2, 1, 1), (12, 2, 2)), box(shape, (5, 1, 1), (15, 2, 2))  # by 3 voxels of 0.8 mm
    found = case_metrics(b, a, CT)
    # each way: 7 voxels at 0 mm, then 0.8, 1.6 and 2.4 mm
    assert found["assd_mm"] == pytest.approx(0.48)
    assert found["nsd_1mm"] == pytest.approx(0.8)
    assert found["nsd_2mm"] == pytest.approx(0.9)
    assert found["hd95_mm"] == pytest.approx(1.6 + 0.55 * 0.8)  # at 0.95 * 9 = 8.55 of the sorted distances
    assert found["dice"] == pytest.approx(0.7)
    assert found["jaccard"] == pytest.approx(7 / 13)


def test_a_box_in_a_larger_box():
    shape = (12, 12, 12)
    truth, prediction = box(shape, (2, 2, 2), (10, 10, 10)), box(shape, (2, 2, 2), (10, 10, 6))
    found = case_metrics(prediction, truth, (1.0, 1.0, 2.0))
    assert (found["precision"], found["recall"]) == (1, 0.5)
    assert found["volume_ml_truth"] == pytest.approx(1.024)
    assert found["volume_error_ml"] == pytest.approx(-0.512)
    assert case_metrics(truth, prediction, (1.0, 1.0, 2.0))["volume_error_ml"] == pytest.approx(0.512)


def test_rounded_spacing_of_a_header_passes_the_tolerance():
    shape = (9, 9, 9)
    a, b = box(shape, (2, 2, 3), (6, 6, 4)), box(shape, (2, 2, 4), (6, 6, 5))
    assert case_metrics(b, a, (1.0, 1.0, float(np.nextafter(np.float32(1), 2))))["nsd_1mm"] == 1
    assert case_metrics(b, a, (1.0, 1.0, 1.001))["nsd_1mm"] == 0


def test_one_voxel_that_meets_the_truth_detects_it():
    truth = box((8, 8, 8), (1, 1, 1), (5, 5, 5))
    assert case_metrics(box((8, 8, 8), (4, 4, 4), (8, 8, 8)), truth, ONE)["detected"] is True
    assert case_metrics(box((8, 8, 8), (5, 5, 5), (8, 8, 8)), truth, ONE)["detected"] is False


def test_masks_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        case_metrics(np.ones((3, 3, 3), bool), np.ones((3, 3, 4), bool), ONE)


@pytest.mark.parametrize("axes", [(0,), (3,), (0, 1)], ids=["channel first", "channel last", "batch and channel"])
def test_masks_with_a_channel_are_refused(axes):
    """Not taken for two empty masks, whose metrics are undefined."""
    mask = np.expand_dims(box((8, 9, 10), (2, 2, 2), (6, 6, 6)), axes)
    with pytest.raises(ValueError, match=r"give \(X, Y, Z\)"):
        case_metrics(mask, mask, ISOTROPIC)


@pytest.mark.parametrize("value", [0.4, 2])
@pytest.mark.parametrize("name", ["prediction", "truth"])
def test_a_probability_or_a_label_map_is_no_mask(name, value):
    mask = box((8, 9, 10), (2, 2, 2), (6, 6, 6))
    with pytest.raises(ValueError, match=f"the {name} holds values other than 0 and 1"):
        case_metrics(**{"prediction": mask, "truth": mask} | {name: mask * value}, spacing=ISOTROPIC)
    same(case_metrics(mask.astype(np.uint8), mask.astype(float), ISOTROPIC), case_metrics(mask, mask, ISOTROPIC))


def test_neither_mask_is_changed():
    prediction, truth = box((6, 6, 6), (0, 0, 0), (3, 3, 3)), box((6, 6, 6), (1, 1, 1), (6, 6, 6))
    before = prediction.copy(), truth.copy()
    case_metrics(prediction, truth, CT)
    assert (prediction == before[0]).all()
    assert (truth == before[1]).all()


# -- independent computations -------------------------------------------------------------------------------


@given(pairs(), SPACINGS)
@settings(max_examples=80, deadline=None)
def test_surface_metrics_agree_with_scipy(masks, spacing):
    prediction, truth = masks
    found = case_metrics(prediction, truth, spacing)
    there, back = surface_distances(prediction, truth, spacing)
    both = np.concatenate([there, back])
    assert found["hd95_mm"] == pytest.approx(max(np.percentile(way, 95) for way in (there, back)), abs=ROUNDING)
    assert found["assd_mm"] == pytest.approx(both.mean(), abs=ROUNDING)
    for tolerance in (1, 2):
        if not np.isclose(both, tolerance, atol=1e-3).any():
            assert found[f"nsd_{tolerance}mm"] == pytest.approx((both <= tolerance).mean(), abs=1e-6)


@given(pairs(), SPACINGS)
@settings(max_examples=60, deadline=None)
def test_swapped_masks_swap_precision_and_recall(masks, spacing):
    one, other = case_metrics(*masks, spacing), case_metrics(*masks[::-1], spacing)
    for name in ("dice", "jaccard", "hd95_mm", "assd_mm", "nsd_1mm", "nsd_2mm", "detected"):
        assert one[name] == pytest.approx(other[name], abs=ROUNDING), name
    assert one["precision"] == other["recall"]
    assert one["volume_error_ml"] == -other["volume_error_ml"]


@given(pairs(), SPACINGS)
@settings(max_examples=60, deadline=None)
def test_overlap_is_consistent(masks, spacing):
    found = case_metrics(*masks, spacing)
    assert found["jaccard"] == pytest.approx(found["dice"] / (2 - found["dice"]))
    assert (found["dice"] == 1) == np.array_equal(*masks)
    assert found["detected"] == (found["dice"] > 0)
    assert found["nsd_1mm"] <= found["nsd_2mm"]
    assert all(0 <= found[name] <= 1 for name in METRICS[:4])


@given(pairs(), SPACINGS, st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_distances_scale_with_the_spacing_and_overlap_does_not(masks, spacing, scale):
    found = case_metrics(*masks, spacing)
    scaled = case_metrics(*masks, [scale * side for side in spacing])
    for name in ("dice", "jaccard", "precision", "recall", "detected"):
        assert scaled[name] == found[name], name
    for name in ("hd95_mm", "assd_mm"):
        assert scaled[name] == pytest.approx(scale * found[name], abs=scale * ROUNDING), name
    assert scaled["volume_error_ml"] == pytest.approx(scale**3 * found["volume_error_ml"], abs=1e-6)


@given(pairs().map(lambda masks: masks[0]), SPACINGS)
@settings(max_examples=30, deadline=None)
def test_a_mask_agrees_with_itself(mask, spacing):
    found = case_metrics(mask, mask, spacing)
    assert [found[name] for name in METRICS[:8]] == [1, 1, 1, 1, 0, 0, 1, 1]
    assert found["volume_error_ml"] == 0


@given(pairs(), SPACINGS, st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 3))
@settings(max_examples=60, deadline=None)
def test_the_room_around_the_masks_changes_nothing(masks, spacing, room):
    padded = [np.pad(mask, room) for mask in masks]
    same(case_metrics(*padded, spacing), case_metrics(*masks, spacing), abs=ROUNDING)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("start", [0, 14, 28], ids=["at the lower border", "inside", "at the upper border"])
def test_cropping_gives_what_the_whole_volume_gives(start):
    shape = (40, 40, 40)
    rng = np.random.default_rng(0)
    masks = np.zeros((2, *shape), bool)
    masks[:, start : start + 12, start : start + 12, start : start + 12] = rng.random((2, 12, 12, 12)) > 0.7
    found = case_metrics(*masks, CT)

    a, b = torch.from_numpy(masks)[:, None, None]
    how = {"include_background": True, "spacing": list(CT)}
    monai = {
        "hd95_mm": compute_hausdorff_distance(a, b, percentile=95, **how).item(),
        "assd_mm": compute_average_surface_distance(a, b, symmetric=True, **how).item(),
        "nsd_2mm": compute_surface_dice(a, b, [2.0], **how).item(),
    }
    assert {name: found[name] for name in monai} == pytest.approx(monai, rel=1e-6)  # it averages in single precision


# -- empty masks --------------------------------------------------------------------------------------------

NSD = ("nsd_1mm", "nsd_2mm")


def empties(**values):
    return {name: values.get(name, UNDEFINED) for name in METRICS}


@pytest.mark.filterwarnings("error")
def test_a_missed_target_scores_zero_without_a_distance():
    truth = box((6, 6, 6), (1, 1, 1), (3, 3, 3))
    found = case_metrics(np.zeros_like(truth), truth, (5.0, 5.0, 5.0))
    zero = dict.fromkeys(("dice", "jaccard", "recall", *NSD, "volume_ml_prediction"), 0.0)
    same(found, empties(**zero, volume_ml_truth=1.0, volume_error_ml=-1.0, detected=False))
    assert found["detected"] is False


@pytest.mark.filterwarnings("error")
def test_prediction_without_true_target():
    prediction = box((6, 6, 6), (1, 1, 1), (3, 3, 3))
    found = case_metrics(prediction, np.zeros_like(prediction), (5.0, 5.0, 5.0))
    same(found, empties(precision=0.0, volume_ml_truth=0.0, volume_ml_prediction=1.0, volume_error_ml=1.0))


@pytest.mark.filterwarnings("error")
def test_empty_prediction_of_an_empty_truth():
    empty = np.zeros((4, 4, 4), bool)
    same(
        case_metrics(empty, empty, CT),
        empties(volume_ml_truth=0.0, volume_ml_prediction=0.0, volume_error_ml=0.0),
    )


@pytest.mark.filterwarnings("error")
def test_masks_that_fill_the_volume():
    full = np.ones((4, 4, 4), bool)
    found = case_metrics(full, full, CT)
    assert (found["dice"], found["hd95_mm"], found["nsd_1mm"]) == (1, 0, 1)


# -- summaries ----------------------------------------------------------------------------------------------


def rows():
    truth = box((6, 6, 6), (1, 1, 1), (5, 5, 5))
    empty = np.zeros_like(truth)
    predictions = [
        (truth, truth),
        (box((6, 6, 6), (1, 1, 1), (5, 5, 3)), truth),
        (empty, truth),
        (truth, empty),
    ]
    return [{"case": f"case-{n}", **case_metrics(*masks, ONE)} for n, masks in enumerate(predictions)]


def test_a_summary_counts_only_what_is_defined():
    summary = summarise(rows())
    assert list(summary) == ["n_cases", *METRICS]
    assert summary["n_cases"] == 4
    dice = summary["dice"]  # 1, 2/3 and 0; the last case has no truth
    assert dice == pytest.approx(
        {"mean": 5 / 9, "sd": np.std([1, 2 / 3, 0], ddof=1), "median": 2 / 3, "min": 0, "max": 1, "n": 3}
    )
    assert summary["hd95_mm"]["n"] == 2  # neither the missed case nor the case without a truth has a distance
    assert summary["hd95_mm"]["max"] <= 2
    assert summary["nsd_1mm"]["n"] == 3
    assert (summary["detected"]["mean"], summary["detected"]["n"]) == (pytest.approx(2 / 3), 3)


def test_a_summary_of_rows_read_from_csv_is_the_same():
    file = io.StringIO()
    table = [{name: "" if value != value else value for name, value in row.items()} for row in rows()]
    writer = csv.DictWriter(file, table[0])
    writer.writeheader()
    writer.writerows(table)
    read = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert {"True", "False", ""} <= {row["detected"] for row in read}
    assert summarise(read) == summarise(rows())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing", [math.nan, math.inf, None, "", "nan"])
def test_undefined_metric_has_no_statistics(missing):
    dice = summarise([{"dice": missing}, {}])["dice"]
    assert dice.pop("n") == 0
    assert all(math.isnan(value) for value in dice.values())


@pytest.mark.filterwarnings("error")
def test_one_case_has_a_mean_but_no_spread():
    dice = summarise([{"dice": 0.5}])["dice"]
    assert (dice["mean"], dice["n"]) == (0.5, 1)
    assert math.isnan(dice["sd"])


def test_a_summary_of_no_case():
    assert summarise([])["n_cases"] == 0
