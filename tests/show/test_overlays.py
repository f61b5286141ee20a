from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.show import palette
from dualtask_lite.show.overlays import MOST_ERROR, difference, overlays, surface_error

SPACING = (2.0, 1.0, 4.0)  # mm


def boxes(first: int, last: int) -> np.ndarray:
    """A pancreas with a tumour in it, which reaches from x = first to x = last."""
    label = np.zeros((30, 20, 10), np.uint8)
    label[4:26, 4:16, 2:8] = 1
    label[first:last, 6:14, 3:7] = 2
    return label


def make_scan(label: np.ndarray | None) -> Scan:
    volume = np.random.default_rng(0).uniform(-90, 230, (30, 20, 10)).astype(np.float32)
    return Case("A_001", "A", volume, label, np.diag([*SPACING, 1.0])).load()


def test_overlays_are_made_from_the_given_volumes():
    truth, found = boxes(8, 14), boxes(10, 18)
    names = {
        "truth": make_scan(truth),
        "nothing": make_scan(None),
    }
    everything = [layer.name for layer in overlays(names["truth"], found, np.zeros(truth.shape))]
    assert everything == ["truth", "prediction", "difference", "surface", "distance"]
    assert [layer.name for layer in overlays(names["nothing"], found)] == ["prediction"]
    assert overlays(names["nothing"]) == []


def test_every_value_has_a_colour_and_a_meaning():
    truth = boxes(8, 14)
    rng = np.random.default_rng(0)
    for layer in overlays(make_scan(truth), boxes(10, 18), rng.uniform(-40, 40, truth.shape)):
        assert layer.values.dtype == np.uint8
        assert layer.values.max() <= len(layer.colours) == len(layer.meanings)


def test_errors_are_false_positives_and_false_negatives():
    layer = difference(boxes(8, 14), boxes(10, 18))
    assert layer.colours == (palette.FALSE_POSITIVE, palette.FALSE_NEGATIVE)
    wrong = np.zeros(layer.values.shape, np.uint8)
    wrong[14:18, 6:14, 3:7] = 1
    wrong[8:10, 6:14, 3:7] = 2
    np.testing.assert_array_equal(layer.values, wrong)


def test_surface_error_is_scipys_distance_to_the_true_surface():
    truth, found = boxes(8, 14), boxes(10, 18)
    layer = surface_error(truth, found, SPACING)
    assert "tumour" in layer.title
    values = layer.values
    assert not values[found < 2].any()
    surfaces = [mask & ~binary_erosion(mask) for mask in (truth == 2, found == 2)]
    away = distance_transform_edt(~surfaces[0], sampling=SPACING)
    np.testing.assert_array_equal(values > 0, surfaces[1])
    np.testing.assert_array_equal(values[surfaces[1]], np.clip(np.ceil(away[surfaces[1]]), 1, MOST_ERROR))
    assert values[17, 10, 5] == 8, "4 voxels of 2 mm beyond the true end"


def test_perfect_prediction_has_no_surface_error():
    values = surface_error(boxes(8, 14), boxes(8, 14), SPACING).values
    assert set(np.unique(values)) == {0, 1}


def test_surface_error_without_tumour_is_that_of_the_pancreas():
    truth, found = np.minimum(boxes(8, 14), 1), boxes(10, 18)
    layer = surface_error(truth, found, SPACING)
    assert "pancreas" in layer.title
    assert set(np.unique(layer.values)) == {0, 1}, "the pancreas is right"
    empty = surface_error(np.zeros_like(truth), found, SPACING)
    assert not empty.values.any()


def test_large_surface_errors_share_the_last_colour():
    truth, found = np.zeros((60, 20, 10), np.uint8), np.zeros((60, 20, 10), np.uint8)
    truth[2:6, 5:15, 3:7] = found[50:55, 5:15, 3:7] = 1
    assert surface_error(truth, found, SPACING).values.max() == MOST_ERROR


@pytest.mark.parametrize(
    ("mm", "value", "blue"), [(-25.0, 1, True), (-20.0, 1, True), (0.0, 21, None), (19.0, 40, False)]
)
def test_distance_is_coloured_by_mm_within_the_band(mm, value, blue):
    layer = overlays(make_scan(None), None, np.full((30, 20, 10), mm))[0]
    assert set(np.unique(layer.values)) == {value}
    red, _, blueness = (int(layer.colours[value - 1][i : i + 2], 16) for i in (1, 3, 5))
    if blue is not None:
        assert (blueness > red) == blue
    beyond = overlays(make_scan(None), None, np.full((30, 20, 10), 20.0))[0]
    assert not beyond.values.any()
    assert not overlays(make_scan(None), None, np.full((30, 20, 10), np.nan))[0].values.any()
