"""Intervals and tests against SciPy, worked examples and simulated data whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dualtask_lite.engine.judging.statistics import (
    bootstrap_interval,
    compare,
    holm,
    number,
    paired_differences,
    signed_rank_p,
)


def row(arm, case, seed, dice, centre="A"):
    return {"arm": arm, "centre": centre, "case": case, "seed": seed, "dice": dice}


def simulated(rng, effect, *, cases=14, seeds=2, arms=("better",)):
    """Three centres; a case is hard or easy for every arm, and training adds noise."""
    rows = []
    for centre in "ABC":
        for case in range(cases):
            ease = rng.normal(0.5, 0.2)
            for arm in ("segmentation", *arms):
                for seed in range(seeds):
                    gain = 0 if arm == "segmentation" else effect
                    rows.append(row(arm, f"{centre}{case}", seed, ease + gain + rng.normal(0, 0.05), centre))
    return rows


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("True", 1.0), (False, 0.0), (3, 3.0)])
def test_a_value_is_read_as_measured_or_as_text(text, value):
    assert number(text) == value


@pytest.mark.parametrize("nothing", ["", None, "nan", math.nan])
def test_what_is_not_defined_is_nan(nothing):
    assert math.isnan(number(nothing))


def test_pairs_are_of_one_case_and_seed_and_seeds_are_averaged_first():
    rows = [
        *(row("segmentation", "a", 0, "0.2"), row("segmentation", "a", 1, "0.6"), row("segmentation", "b", 0, "0.5")),
        *(row("full", "a", 0, "0.3"), row("full", "a", 1, "0.5"), row("full", "b", 0, "0.9")),
        row("full", "b", 1, "0.0"),  # the baseline has no such run
        row("segmentation", "healthy", 0, ""),  # not defined
        row("full", "healthy", 0, ""),
        *(row("segmentation", "c", 0, "0.1", "B"), row("full", "c", 0, "0.4", "B")),
        *(row("segmentation", "c", 1, "0.1", "B"), row("full", "c", 1, "nan", "B")),
    ]
    found = paired_differences(rows, "full", "segmentation", "dice")
    assert {centre: values.tolist() for centre, values in found.items()} == {
        "A": [pytest.approx(0.0), pytest.approx(0.4)],
        "B": [pytest.approx(0.3)],
    }


def test_the_order_of_the_rows_changes_nothing():
    rows = simulated(np.random.default_rng(0), 0.1)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    a, b = (compare([*rows], "segmentation", "dice"), compare(shuffled, "segmentation", "dice"))
    for key in ("arm", "cases", "low", "high", "p"):
        assert a[0][key] == b[0][key]


def test_the_interval_is_scipy_s():
    groups = [np.random.default_rng(i).normal(i, 1 + i, 9 + 4 * i) for i in range(3)]
    total = sum(map(len, groups))

    def pooled_mean(*parts, axis):
        return sum(part.sum(axis) for part in parts) / total

    theirs = stats.bootstrap(groups, pooled_mean, n_resamples=20_000, method="percentile", random_state=1)
    ours = bootstrap_interval(groups, resamples=20_000, seed=2)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """At 90 %, 300 times: binomial noise is 1.7 points; a percentile interval of 36 cases covers a little less."""
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        groups = [rng.normal(centre, 0.5, 12) for centre in (0.0, 0.3, -0.3)]  # centres differ; the mean is 0
        low, high = bootstrap_interval(groups, level=0.9, resamples=500, seed=trial)
        covered += low <= 0 <= high
    assert 0.83 <= covered / 300 <= 0.95


def test_drawing_within_centres_does_not_mix_them():
    """Where all cases of a centre agree there is nothing to be uncertain about, however much the centres differ."""
    low, high = bootstrap_interval([np.full(5, 0.1), np.full(9, 0.8)])
    assert low == pytest.approx(high) == pytest.approx((5 * 0.1 + 9 * 0.8) / 14)


def test_no_pairs_no_interval():
    assert all(map(math.isnan, bootstrap_interval([])))
    assert math.isnan(signed_rank_p(np.empty(0)))


def test_the_signed_rank_test_is_the_exact_one_on_few_cases():
    """Wilcoxon by hand: all of 2^n signs are equally likely, and p is the share at least as extreme."""
    differences = np.array([0.3, -0.1, 0.45, 0.2, 0.8, 0.05, -0.25])
    ranks = stats.rankdata(np.abs(differences))
    signs = (np.arange(2**7)[:, None] >> np.arange(7)) & 1
    under_null = signs @ ranks
    observed = ranks[differences > 0].sum()
    extreme = min((under_null >= observed).mean(), (under_null <= observed).mean())
    assert signed_rank_p(differences) == pytest.approx(2 * extreme)
    assert signed_rank_p(np.zeros(9)) == 1


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_lies_between_raw_and_bonferroni_and_rejects_step_by_step(p):
    adjusted = holm(p)
    for i, raw in enumerate(p):
        assert raw <= adjusted[i] <= min(1, raw * len(p)) + 1e-12
        assert all(adjusted[i] <= adjusted[j] for j, other in enumerate(p) if raw < other)
    alpha, rejected = 0.05, set()
    for step, i in enumerate(np.argsort(p, kind="stable")):  # Holm's own words: stop at the first that fails
        if p[i] * (len(p) - step) > alpha:
            break
        rejected.add(int(i))
    assert {i for i, value in enumerate(adjusted) if value <= alpha} == rejected


def test_a_true_effect_is_found_and_its_size_is_right():
    (found,) = compare(simulated(np.random.default_rng(4), 0.08), "segmentation", "dice")
    assert found["cases"] == 42
    assert found["low"] < 0.08 < found["high"]
    assert found["low"] > 0
    assert found["p_holm"] < 0.001
    assert set(found["by_centre"]) == set("ABC")
    assert set(found["by_seed"]) == {"0", "1"}
    assert np.mean(list(found["by_centre"].values())) == pytest.approx(found["difference"])
    assert np.mean(list(found["by_seed"].values())) == pytest.approx(found["difference"])


def test_among_eight_arms_without_effect_one_is_called_better_no_more_often_than_agreed():
    """Without Holm the chance of a false alarm in a table of eight would be about a third."""
    rng = np.random.default_rng(5)
    arms = [f"arm {n}" for n in range(8)]
    alarms, naive = 0, 0
    for _ in range(60):
        rows = simulated(rng, 0.0, cases=5, seeds=1, arms=arms)
        groups = [np.concatenate([*paired_differences(rows, arm, "segmentation", "dice").values()]) for arm in arms]
        p = [signed_rank_p(differences) for differences in groups]
        naive += min(p) < 0.05
        alarms += min(holm(p)) < 0.05
    assert alarms / 60 <= 0.15  # 0.05 expected at most, and three standard errors
    assert naive > alarms


def test_without_the_baseline_there_is_nothing_to_compare():
    assert compare([row("full", "a", 0, 0.5)], "segmentation", "dice") == []
