"""Figures of an ablation say what the numbers say, also to who cannot see them."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from dualtask_lite.show.figures import results
from dualtask_lite.show.picture import WIDTH

ABOUT = {"protocol": "leave-one-centre-out", "target": "tumour"}


def row(arm, case, dice, seed=0, centre="A", **other):
    return {**ABOUT, "arm": arm, "centre": centre, "case": case, "seed": seed, "dice": dice, **other}


def comparison(arm, difference, **other):
    about = {"metric": "dice", "baseline": "segmentation", "cases": 42, "trainings": 6, "note": "", "p_holm": 0.03}
    intervals = {"interval": [difference - 0.1, 0.2], "hierarchical": [difference - 0.2, 0.3]}
    return {**ABOUT, **about, **intervals, "arm": arm, "difference": difference, "by_seed": {"0": difference}, **other}


def is_readable(picture):
    image = Image.open(io.BytesIO(picture.png))
    return image.width >= WIDTH and np.ptp(np.asarray(image)) > 0


def test_case_is_one_dot_over_all_seeds_without_undefined_values():
    rows = [
        *(row("segmentation", "a", 0.2), row("segmentation", "a", 0.4, seed=1)),
        *(row("full", "a", "0.5"), row("full", "a", "0.3", seed=1)),
        *(row("segmentation", "b", 0.9, centre="B"), row("full", "b", 0.6, centre="B")),
        *(row("segmentation", "healthy", ""), row("full", "healthy", "nan")),
        row("full", "alone", 1.0),
        row("full", "a", 0.0, protocol="in-domain"),
    ]
    picture = results.paired(rows, "full")
    assert "Centre A: 1 cases, 1 better, 0 worse, mean difference +0.100." in picture.alt
    assert "Centre B: 1 cases, 0 better, 1 worse, mean difference -0.300." in picture.alt
    assert is_readable(picture)


def test_forest_plot_describes_interval_and_sample_of_each_arm():
    shown = [
        comparison("distance", 0.05),
        comparison("full", -0.01, trainings=1),
        comparison("full", 0.7, metric="nsd_2mm"),
    ]
    picture = results.arms(shown, claimed=0.095)
    assert "distance +0.050 (-0.150 to +0.300), over cases alone -0.050 to +0.200, p after Holm 0.03" in picture.alt
    assert "42 cases, 6 training runs: distance" in picture.alt
    assert "42 cases, 1 training run: full -0.010" in picture.alt
    assert "0.700" not in picture.alt
    assert is_readable(picture)


def test_missing_comparisons_are_reported():
    with pytest.raises(ValueError, match="no comparison of dice under unseen"):
        results.arms([comparison("full", 0.1)], protocol="unseen")


def test_an_undefined_difference_does_not_stop_the_figure():
    nothing = {"interval": [None, None], "hierarchical": [None, None], "difference": None, "p_holm": None}
    undefined = comparison("full", math.nan) | nothing | {"note": "one training run"}
    picture = results.arms([undefined, comparison("distance", 0.1)])
    assert is_readable(picture)
    assert "full +nan (no interval over training runs), over cases alone no interval" in picture.alt
    assert "(one training run); 42 cases, 6 training runs: distance" in picture.alt
