"""Warnings without a label, and whether they are worth anything: against closed forms, SciPy and brute force."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from dualtask_lite.cases.case import Case
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging import disagreement as engine
from dualtask_lite.engine.judging.disagreement import (
    disagreement,
    risk_coverage,
    spearman,
    summarise_warnings,
    surface_error_mm,
)
from dualtask_lite.engine.judging.metrics import case_metrics
from dualtask_lite.engine.predict import Prediction, TargetPrediction, predict_scan
from dualtask_lite.engine.run import Model
from dualtask_lite.method.network import Outputs

TAU, BAND = 2.0, 20.0  # mm
SEGMENTATION_ONLY = {f"objective.weights.{term}": 0 for term in ("dist", "conv_mask", "conv_distance")}
DISTANCE_ONLY = {f"objective.weights.{term}": 0 for term in ("seg", "conv_distance")}


class Heads(torch.nn.Module):
    """A stand-in network that calls bright voxels the target; its distance says the same, ``apart`` mm further out."""

    def __init__(self, apart=0.0, level=0.5, slope=10.0):
        super().__init__()
        self.apart, self.level, self.slope = torch.nn.Parameter(torch.tensor(apart)), level, slope

    def forward(self, x):
        logit = (x - self.level) * self.slope
        distance = (-TAU * logit + self.apart) / BAND
        return Outputs(seg=logit, distance=distance.clamp(-1, 1), embedding=None, slices=None)


def model(stage="pancreas-coarse", overrides=None, **heads):
    values = {"sample.patch": [16, 16, 16], "sample.spacing": [2, 2, 2], "objective.tau": TAU, **(overrides or {})}
    return Model(Heads(**heads), Settings.of("laptop", {"stage": stage, **values}), (), stage)


def bright_box(name="box", hu=240, seed=0):
    volume = np.full((24, 20, 18), -100, np.float32)
    volume[6:18, 5:15, 4:14] = hu
    label = np.zeros(volume.shape, np.uint8)
    label[6:18, 5:15, 4:14] = 1
    volume += np.random.default_rng(seed).normal(0, 1, volume.shape).astype(np.float32)
    return Case(name, "C", volume, label, np.diag([2.0, 2.0, 2.0, 1.0]))


def opinions(chosen, case=None, **options):
    scan = (case or bright_box()).load()
    return disagreement([chosen], scan, predict_scan([chosen], scan), **options)


def test_equal_heads_give_no_warning():
    result = opinions(model())
    assert result.heads.max() == pytest.approx(0, abs=1e-5)
    assert result.heads_mm.max() == pytest.approx(0, abs=1e-3)
    assert result.warnings["heads_mask"] == 0
    assert result.warnings["heads_probability"] == pytest.approx(0, abs=1e-5)


def test_the_network_runs_once_for_both_heads_and_once_a_view():
    chosen, scan = model(), bright_box().load()
    prediction, passes = predict_scan([chosen], scan), []
    chosen.net.register_forward_hook(lambda net, inputs, outputs: passes.append(len(inputs[0])))
    predict_scan([chosen], scan)
    windows = sum(passes)
    passes.clear()
    disagreement([chosen], scan, prediction, views=3)
    assert sum(passes) == (1 + 3) * windows


def test_heads_3_mm_apart_have_a_3_mm_disagreement():
    result = opinions(model(apart=3.0, slope=2.0))
    assert result.heads_mm == pytest.approx(np.full(result.heads_mm.shape, 3.0), abs=1e-3)
    assert result.warnings["heads_mm"] == pytest.approx(3, abs=1e-3)
    inside = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1 + 3 / TAU))  # the probability that each head gives the box
    at = result.heads[12, 10, 9]
    assert at == pytest.approx(inside[0] - inside[1], abs=0.01)


def test_a_difference_far_from_the_surface_is_no_warning_in_mm():
    class FarApart(Heads):
        def forward(self, x):
            outputs = super().forward(x)
            far = outputs.distance.abs() > 0.3  # 6 mm
            return outputs._replace(distance=outputs.distance + 0.2 * far)

    case = bright_box()
    case.image[5, 5:15, 4:14] = 90  # a layer of blurred surface: 1 mm inside
    result = opinions(replace(model(), net=FarApart()), case)
    assert result.heads_mm.max() == pytest.approx(4, abs=1e-3)
    assert result.warnings["heads_mm"] == pytest.approx(0, abs=1e-3)


def test_the_share_of_two_constant_maps_is_in_closed_form():
    p, q = np.full((4, 4, 4), 0.8), np.full((4, 4, 4), 0.2)
    assert engine._share(p, q) == pytest.approx(0.6)
    assert engine._share(p, p) == 0
    assert engine._share(p, 0 * p) == 1
    assert engine._share(0 * p, 0 * p) == 0


@pytest.mark.parametrize("overrides", [SEGMENTATION_ONLY, DISTANCE_ONLY])
def test_model_with_one_trained_head_has_warnings_of_views_only(overrides):
    result = opinions(model(overrides=overrides))
    assert result.heads is None
    assert set(result.warnings) == {"views_probability", "views_mask", "unsure"}


def test_heads_are_compared_as_the_settings_say():
    """By hand: tau 3 mm, a surface within 2.5 mm by either head, and a threshold of 0.8."""
    chosen = model(overrides={"objective.tau": 3, "objective.band": 10, "prediction.threshold": 0.8})
    converted = np.array([1, 7, 4, 62, -6, -9], np.float64)
    distance = np.array([5, 2, 3, 9, -3, -8], np.float64)
    p, q = (1 / (1 + np.exp(mm / 3)) for mm in (converted, distance))
    maps, warnings = engine._compare_heads(chosen, np.stack([p, distance, q]).reshape(3, 6, 1, 1))
    np.testing.assert_allclose(maps["heads_mm"].ravel(), [4, 5, 1, 1, 3, 1], atol=1e-6)  # 62 mm is beyond the band
    np.testing.assert_allclose(maps["heads"].ravel(), np.abs(p - q))
    assert warnings["heads_mm"] == pytest.approx((4 + 5) / 2)  # the first is near by one head, the second by the other
    assert warnings["heads_mask"] == pytest.approx(1 - 2 / 3)  # two voxels against one
    assert warnings["heads_probability"] == pytest.approx(np.abs(p - q).sum() / (p + q).sum())


def test_probability_just_above_one_is_a_distance_of_the_band():
    """Resampling a map of ones gives 1.0000001 on some grids; its logit would be NaN."""
    above = np.full((2, 2, 2), np.nextafter(np.float32(1), np.float32(2)))
    maps, warnings = engine._compare_heads(model(), np.stack([above, np.full_like(above, -15), above]))
    assert (maps["heads_mm"] == 5).all()  # -20 mm and -15 mm
    assert math.isfinite(warnings["heads_mm"])


def test_views_are_compared_one_by_one_with_the_image(monkeypatch):
    """By hand: the mean of both heads is 0.6 on the image, and 0.8 and 0.2 on the views."""
    scan, chosen = bright_box().load(), model()
    prediction = predict_scan([chosen], scan)
    means = iter((0.6, 0.8, 0.2))

    def maps(model, image, box):
        mean = next(means)
        return np.stack([np.full(box.shape, mean + apart, np.float32) for apart in (0.1, 0.0, -0.1)])

    monkeypatch.setattr(engine, "_maps", maps)
    result = disagreement([chosen], scan, prediction, views=2)
    np.testing.assert_allclose(result.views, (0.2 + 0.4) / 2, rtol=1e-5)
    assert result.warnings["views_probability"] == pytest.approx((0.2 / 1.4 + 0.4 / 0.8) / 2, rel=1e-5)
    assert result.warnings["views_mask"] == 0.5  # the second view finds nothing
    assert result.warnings["unsure"] == pytest.approx(0.4 / 0.6, rel=1e-5)


def test_views_are_drawn_from_the_seed():
    a, again, other = (opinions(model(), views=2, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(a.views, again.views)
    assert not np.array_equal(a.views, other.views)
    assert a.warnings["views_probability"] > 0


def test_only_the_box_that_the_last_stage_saw_is_compared():
    case = bright_box()
    scan = replace(case, image=np.pad(case.image, 14, constant_values=-100), label=np.pad(case.label, 14)).load()
    cascade = [model(), model("pancreas-fine", overrides={}, apart=3.0)]
    prediction = predict_scan(cascade, scan)
    result = disagreement(cascade, scan, prediction)
    box = prediction.report[-1]
    assert all(result.heads_mm[start] > 2 for start in [tuple(box["box_start"])])
    outside = np.ones(scan.shape, bool)
    outside[tuple(slice(a, b) for a, b in zip(box["box_start"], box["box_stop"], strict=True))] = False
    assert outside.any()
    assert not result.heads_mm[outside].any()


def test_the_views_are_compared_with_the_image_also_when_an_earlier_prediction_was_kept():
    scan = bright_box().load()
    cascade = [model(), model("pancreas-fine", level=1.5)]  # the second calls nothing in its box the target
    prediction = predict_scan(cascade, scan)
    assert "found nothing in its box" in prediction.warnings[0]
    warnings = disagreement(cascade, scan, prediction, views=2).warnings
    alone = model("pancreas-fine", level=1.5)
    last = prediction.report[-1]
    box = engine.Box(last["box_start"], last["box_stop"])
    image = engine.cut_region(scan, alone.settings, box, labelled=False).image
    on_image = engine.probability_of(engine._maps(alone, image, box), "mean")
    assert warnings["unsure"] == pytest.approx(np.minimum(on_image, 1 - on_image).sum() / on_image.sum())


def test_views_are_drawn_as_in_the_training(monkeypatch):
    unchanged = opinions(model(overrides={"views.max_blend": 0.0}), views=2)
    assert unchanged.warnings["views_probability"] == 0
    assert not unchanged.views.any()
    asked, random_view = [], engine.random_view
    monkeypatch.setattr(engine, "random_view", lambda *image, **how: asked.append(how) or random_view(*image, **how))
    opinions(model(overrides={"views.max_blend": 0.5, "views.kernel_sizes": [3]}), views=2)
    assert asked == [{"kernel_sizes": (3,), "max_blend": 0.5}] * 2


def test_two_empty_predictions_agree():
    result = opinions(model(level=5.0))
    assert result.warnings["heads_mask"] == result.warnings["views_mask"] == 0
    assert all(np.isfinite(value) and value >= 0 for value in result.warnings.values())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_perfect_warning_is_best_and_its_opposite_worst(risk):
    rng = np.random.default_rng(0)
    best, worst = risk_coverage(risk, risk).area, risk_coverage(risk, [-r for r in risk]).area
    some = risk_coverage(risk, rng.random(len(risk))).area
    assert best - 1e-12 <= some <= worst + 1e-12
    assert best - 1e-12 <= np.mean(risk) <= worst + 1e-12


def test_perfect_warning_equals_the_oracle_at_any_scale():
    risk = [0.1, 0.9, 0.4, 0.2]
    curve = risk_coverage(risk, np.exp(risk))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(curve.risk, [0.1, 0.15, 0.7 / 3, 0.4])
    assert curve.area == pytest.approx(np.mean([0.1, 0.15, 0.7 / 3, 0.4]))
    assert curve.area == risk_coverage(risk, risk).area


def test_a_useless_warning_is_worth_the_mean_risk():
    risk = [0.0, 1.0, 0.3, 0.7, 0.5]
    assert risk_coverage(risk, [2.0] * 5).risk == pytest.approx(np.full(5, 0.5))
    orders = [risk_coverage(risk, order).area for order in itertools.permutations(range(5))]
    assert np.mean(orders) == pytest.approx(0.5)


def test_ties_are_the_mean_over_their_orders():
    risk, warnings = [0.0, 1.0, 0.3, 0.7], [1, 2, 2, 1]
    orders = [[1.0, 2.1, 2.0, 1.1], [1.1, 2.1, 2.0, 1.0], [1.0, 2.0, 2.1, 1.1], [1.1, 2.0, 2.1, 1.0]]
    expected = np.mean([risk_coverage(risk, order).risk for order in orders], axis=0)
    np.testing.assert_allclose(risk_coverage(risk, warnings).risk, expected)


@pytest.mark.parametrize(
    ("risk", "warnings"), [([], []), ([0.1], [0.1, 0.2]), ([math.nan], [0.1]), ([0.1], [math.inf])]
)
def test_inputs_without_a_risk_curve_are_refused(risk, warnings):
    with pytest.raises(ValueError, match="risk"):
        risk_coverage(risk, warnings)


def test_spearman_is_pearson_of_ranks_and_undefined_for_constants():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40), rng.normal(size=40)
    expected = np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]
    assert spearman(a, b) == pytest.approx(expected)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 2], [1, 2]))


def brute_force(prediction, truth, spacing):
    """Each voxel of one surface against all of the other."""
    cross = ndimage.generate_binary_structure(3, 1)

    def surface(mask):
        return np.argwhere(mask & (ndimage.convolve(mask.astype(int), cross.astype(int), mode="constant") < 7))

    error = np.full(prediction.shape, np.nan)
    true = surface(truth) * spacing
    for voxel in surface(prediction):
        error[tuple(voxel)] = np.linalg.norm(true - voxel * spacing, axis=1).min()
    return error


@pytest.mark.parametrize("seed", range(4))
def test_surface_error_against_brute_force_with_anisotropic_voxels(seed):
    rng = np.random.default_rng(seed)
    prediction, truth = (ndimage.binary_dilation(rng.random((9, 8, 7)) > 0.97, iterations=2) for _ in range(2))
    spacing = (0.8, 1.5, 5.0)
    np.testing.assert_allclose(
        surface_error_mm(prediction, truth, spacing), brute_force(prediction, truth, spacing), rtol=1e-6
    )


def test_surface_error_is_the_one_of_the_metrics():
    """A box within a box: ASSD is the mean over both surfaces of just these distances."""
    a, b = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    a[4:16, 4:16, 4:16], b[6:14, 6:14, 6:14] = True, True
    both = np.concatenate(
        [e[np.isfinite(e)] for e in (surface_error_mm(a, b, (1, 1, 2)), surface_error_mm(b, a, (1, 1, 2)))]
    )
    assert both.mean() == pytest.approx(case_metrics(a, b, (1, 1, 2))["assd_mm"], rel=1e-5)


def test_surface_error_of_empty_masks_is_undefined():
    full, empty = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    assert np.isnan(surface_error_mm(empty, full, (1, 1, 1))).all()
    assert np.isnan(surface_error_mm(full, empty, (1, 1, 1))).all()
    assert np.nanmax(surface_error_mm(full, full, (1, 1, 1))) == 0


@pytest.mark.parametrize(
    ("found", "true", "risk"), [(False, False, 0.0), (True, False, 1.0), (False, True, 1.0), (True, True, 0.0)]
)
def test_the_risk_of_empty_masks_is_defined(found, true, risk):
    case = bright_box()
    scan = Case("c", "C", case.image, case.label * true, case.affine).load()
    mask = case.label * np.uint8(found)
    blank = np.zeros(scan.shape, np.float32)
    prediction = Prediction({"pancreas": TargetPrediction(mask >= 1, blank, blank, {})}, [])
    row = engine.judge(scan, prediction, engine.Disagreement("pancreas", blank, blank, blank, {"unsure": 0.5}))
    assert row["risk"] == risk
    assert row["unsure"] == 0.5
    assert row["surface_voxels"] == (0 if not (found and true) else 12 * 10 * 10 - 10 * 8 * 8)
    assert math.isnan(row["spearman_voxels"])  # the doubt is the same everywhere


def test_the_voxels_correlation_is_that_of_doubt_and_surface_error():
    scan = bright_box().load()
    mask = np.roll(scan.label, 2, axis=0)
    error = surface_error_mm(mask == 1, scan.label == 1, scan.spacing)
    doubt = np.where(np.isfinite(error), error**3, 0).astype(np.float32)
    prediction = Prediction({"pancreas": TargetPrediction(mask >= 1, doubt, doubt, {})}, [])
    row = engine.judge(scan, prediction, engine.Disagreement("pancreas", doubt, doubt, doubt, {}))
    assert row["spearman_voxels"] == pytest.approx(1)


def test_summary_gives_the_gain_of_a_warning():
    rows = [
        {"case": str(i), "risk": r, "heads_mm": r, "heads_mask": 0.2, "unsure": -r, "spearman_voxels": v}
        for i, (r, v) in enumerate([(0.1, 0.5), (0.9, math.nan), (0.4, 0.9), (0.2, 0.6)])
    ]
    found = summarise_warnings(rows)
    assert found.summary["heads_mm"]["gain"] == pytest.approx(1)
    assert found.summary["heads_mm"]["spearman"] == pytest.approx(1)
    assert found.summary["heads_mask"]["gain"] == pytest.approx(0)
    assert math.isnan(found.summary["heads_mask"]["spearman"])
    assert found.summary["unsure"]["gain"] < 0
    assert found.useless == pytest.approx(0.4)
    assert found.spearman_voxels == pytest.approx(0.6)
