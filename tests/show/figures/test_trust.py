from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dualtask_lite.cases.case import Case
from dualtask_lite.show.figures import trust


@pytest.fixture(scope="module")
def scan():
    label = np.zeros((40, 50, 20), np.uint8)
    label[10:26, 10:30, 5:15] = 1
    label[14:20, 14:24, 7:12] = 2
    return Case("C_001", "C", np.where(label > 0, 90.0, 20.0).astype(np.float32), label, np.diag([2, 1, 4, 1])).load()


def test_leak_figure_gives_reported_and_honest_score():
    rows = [
        {"leak": "by slice", "reported Dice": 0.8, "honest Dice": 0.5},
        {"leak": "by box", "reported Dice": 0.4, "honest Dice": 0.45},
    ]
    picture = trust.leaks(rows)
    assert "by slice: reported 0.80, honest 0.50; by box: reported 0.40, honest 0.45" in picture.alt
    assert Image.open(io.BytesIO(picture.png)).width >= 900


def test_threshold_figure_names_both_best_thresholds():
    alt = trust.thresholds([0.3, 0.5, 0.7], [0.1, 0.4, 0.2], [0.2, 0.3, 0.6], 0.5).alt
    assert "test centre: best at 0.5 with 0.40, from 0.10 to 0.40" in alt
    assert "validation cases: best at 0.7 with 0.60" in alt


def test_scatter_names_the_highest_warning_and_worst_case():
    rows = [{"case": c, "centre": "C", "risk": r, "heads_mm": w} for c, r, w in (("a", 0.2, 3.0), ("b", 0.9, 1.0))]
    alt = trust.warning_against_error(rows, "heads_mm", "apart (mm)", -1.0).alt
    assert "2 cases, Spearman -1.00" in alt
    assert "the highest warning is case a (warning 3, error 0.20)" in alt
    assert "the largest error is case b" in alt
    undefined = trust.warning_against_error(rows, "heads_mm", "apart (mm)", float("nan")).alt
    assert "2 cases, Spearman not defined: " in undefined


def test_risk_coverage_figure_gives_the_areas():
    alt = trust.risk_coverage({"heads": [0.2, 0.3, 0.4], "views": [0.4, 0.4, 0.4]}, [0.0, 0.2, 0.4]).alt
    assert "heads 0.30, views 0.40, perfect 0.20, useless 0.40" in alt


def test_error_figure_cuts_the_slice_with_the_largest_prediction(scan):
    mask = np.roll(scan.label, 1, axis=2)
    error = np.full(scan.shape, np.nan)
    error[15:19, 15:20, 10] = 4.0
    doubt = np.zeros(scan.shape)
    doubt[15:19, 15:20, 10] = 7.0
    alt = trust.where_wrong(scan, mask, 2, error=error, doubt=doubt).alt
    assert alt.startswith("Case C_001, tumour, axial slice 9.")
    assert "mm from the true one: median 4.0, 95 of 100 below 4.0" in alt
    assert "distances (mm): median 7.0" in alt


def test_a_single_panel_stands_at_the_left(scan):
    error = np.full(scan.shape, np.nan)
    error[15:19, 15:20, 10] = 4.0
    drawn = np.asarray(Image.open(io.BytesIO(trust.where_wrong(scan, scan.label, 2, error=error).png)).convert("L"))
    third = drawn.shape[1] // 3
    assert (drawn[:, :third] < 250).mean() > 0.5
    assert (drawn[:, -third:] == 255).all()


def test_nothing_found_and_nothing_to_measure_still_draws(scan):
    alt = trust.where_wrong(scan, np.zeros(scan.shape, np.uint8), 2, error=np.full(scan.shape, np.nan)).alt
    assert "axial slice 8" in alt  # through the truth
    assert "nothing to measure" in alt


def test_an_overlay_lies_on_its_voxels_and_moves_no_limit(scan):
    axes = Figure().subplots()
    axes.set(xlim=(-5, 5), ylim=(-5, 5))
    values = np.full(scan.shape, np.nan)
    values[20, 25, 10] = 3.0
    image = trust._overlay(axes, values, scan, (20, 25, 10))
    left, right, bottom, top = image.get_extent()
    row, column = np.argwhere(np.isfinite(image.get_array().filled(np.nan)))[0]
    assert left + (column + 0.5) * (right - left) / 40 == pytest.approx(0)
    assert top - (row + 0.5) * (top - bottom) / 50 == pytest.approx(0)
    assert axes.get_xlim() == (-5, 5)
