"""Intervals and tests against SciPy, worked examples and simulated data whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dualtask_lite.engine.judging.statistics import (
    FEW,
    bootstrap_interval,
    compare,
    conclusion,
    hierarchical_interval,
    holm,
    in_words,
    paired_differences,
    signed_rank_p,
    trainings_needed,
)
from dualtask_lite.rows import Pair, pairs


def row(arm, case, seed, dice, centre="A"):
    return {"arm": arm, "centre": centre, "part": centre, "case": case, "seed": seed, "dice": dice}


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


def simulated_pairs(
    rng, effect=0.0, *, hospitals=3, seeds=3, cases=14, training=0.06, case=0.1, noise=0.1, hospital=0.0
):
    """Differences with known components (standard deviations): of hospitals, training runs, cases, and both at once."""
    found = []
    for centre in "ABC"[:hospitals]:
        of_hospital = rng.normal(effect, hospital)
        of_case = rng.normal(0, case, cases)
        for seed in range(seeds):
            values = of_hospital + rng.normal(0, training) + of_case + rng.normal(0, noise, cases)
            found += [Pair((centre, str(seed)), centre, f"{i:02d}", 0.0, value) for i, value in enumerate(values)]
    return found


def as_rows(found):
    sides = [(pair, arm) for pair in found for arm in ("segmentation", "full")]
    return [
        row(arm, pair.case, pair.training[1], pair.arm if arm == "full" else pair.baseline, pair.centre)
        for pair, arm in sides
    ]


def covered(interval, trials, seed, **components):
    """How often an interval contains the true effect, which is 0."""
    rng = np.random.default_rng(seed)
    ends = [interval(simulated_pairs(rng, **components), resamples=300) for _ in range(trials)]
    return np.mean([low <= 0 <= high for low, high in ends])


def over_cases(found, **options):
    return bootstrap_interval(list(paired_differences(found).values()), **options)


def width(ends):
    return ends[1] - ends[0]


def test_seeds_that_tested_a_case_are_averaged_first():
    found = [
        *(Pair(("A", "0"), "A", "a", 0.2, 0.3), Pair(("A", "1"), "A", "a", 0.6, 0.5)),
        *(Pair(("A", "0"), "A", "b", 0.5, 0.9), Pair(("B", "0"), "B", "a", 0.1, 0.4)),
    ]
    assert {centre: values.tolist() for centre, values in paired_differences(found).items()} == {
        "A": [pytest.approx(0.0), pytest.approx(0.4)],
        "B": [pytest.approx(0.3)],
    }


def test_the_order_of_the_rows_changes_nothing():
    rows = simulated(np.random.default_rng(0), 0.1)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    a, b = (compare([*rows], "segmentation", "dice"), compare(shuffled, "segmentation", "dice"))
    for key in ("arm", "cases", "interval", "hierarchical", "p"):
        assert a[0][key] == b[0][key]


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_over_cases_is_scipy_s(level):
    groups = [np.random.default_rng(i).normal(i, 1 + i, 9 + 4 * i) for i in range(3)]
    total = sum(map(len, groups))

    def pooled_mean(*parts, axis):
        return sum(part.sum(axis) for part in parts) / total

    how = {"confidence_level": level, "n_resamples": 20_000, "method": "percentile"}
    theirs = stats.bootstrap(groups, pooled_mean, **how, random_state=1)
    ours = bootstrap_interval(groups, level=level, resamples=20_000, seed=2)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


@pytest.mark.parametrize(("cases", "expected"), [(3, 0.84), (14, 0.93)])
def test_the_interval_over_cases_covers_less_with_few_cases(cases, expected):
    """Without differences between training runs; the expected share is that of Student's t. 95 % is asked for."""
    components = {"training": 0, "noise": 0, "seeds": 1, "cases": cases}
    assert covered(over_cases, 600, 3, **components) == pytest.approx(expected, abs=0.03)
    freedom, shrunk = 3 * (cases - 1), math.sqrt((cases - 1) / cases)
    assert 2 * stats.t.cdf(1.96 * shrunk, freedom) - 1 == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("interval", [over_cases, hierarchical_interval])
def test_resamples_are_drawn_from_the_seed(interval):
    found = simulated_pairs(np.random.default_rng(0))
    one, again, other = (interval(found, resamples=100, seed=seed) for seed in (0, 0, 1))
    assert one == again != other


def test_the_interval_over_cases_does_not_mix_centres():
    """Where all cases of a centre agree there is nothing to be uncertain about, however much the centres differ."""
    low, high = bootstrap_interval([np.full(5, 0.1), np.full(9, 0.8)])
    assert low == pytest.approx(high) == pytest.approx((5 * 0.1 + 9 * 0.8) / 14)


def test_no_pairs_no_interval():
    assert all(map(math.isnan, bootstrap_interval([])))
    assert all(map(math.isnan, hierarchical_interval([])))
    assert math.isnan(signed_rank_p(np.empty(0)))


def test_a_centre_with_one_case_has_no_interval():
    """Drawn anew it is always the same case: its width would be 0."""
    lone = [*simulated_pairs(np.random.default_rng(0)), Pair(("D", "0"), "D", "only", 0.2, 0.7)]
    assert all(map(math.isnan, over_cases(lone)))
    assert all(map(math.isnan, hierarchical_interval(lone)))
    record = compare(as_rows(lone), "segmentation", "dice")[0]
    assert record["note"] == "no interval: only one case at centre D"
    assert math.isfinite(record["difference"])


def test_few_cases_are_noted():
    few, enough = (
        compare(as_rows(simulated_pairs(np.random.default_rng(0), cases=cases)), "segmentation", "dice")[0]
        for cases in (FEW - 2, FEW)
    )
    assert "few cases (3 at centre A, 3 at centre B, 3 at centre C)" in few["note"]
    assert "0.8 of the time or less" in few["note"]
    assert enough["note"] == ""


def test_hierarchical_interval_has_its_nominal_coverage():
    """The interval over cases does not know that a training moves all its cases together."""
    assert 0.94 <= covered(hierarchical_interval, 400, 6) <= 0.995
    assert covered(over_cases, 400, 6) <= 0.83


def test_few_runs_that_differ_much_keep_the_coverage():
    """Five runs of three hospitals, as in the reference table after 9,600 steps; without Student's t it is 0.86."""
    rng, inside = np.random.default_rng(17), []
    for _ in range(400):
        found = [pair for pair in simulated_pairs(rng, seeds=2, cases=42, training=0.12) if pair.training != ("B", "1")]
        low, high = hierarchical_interval(found, resamples=300)
        inside.append(low <= 0 <= high)
    assert np.mean(inside) == pytest.approx(0.925, abs=0.035)


def test_interval_does_not_cover_differences_between_hospitals():
    """As the docstring says: three hospitals as different as training runs are too few for the mean over all."""
    assert covered(hierarchical_interval, 400, 7, hospital=0.06) == pytest.approx(0.89, abs=0.04)


def test_interval_is_about_the_difference_where_hospitals_have_unequal_numbers_of_runs():
    """One run of A that gains, six of C that do not: the mean over the patients of both is half of the gain."""
    rng = np.random.default_rng(18)
    found = [
        Pair((centre, str(seed)), centre, f"{case:02d}", 0.0, gain + rng.normal(0, 0.02))
        for centre, seeds, gain in (("A", 1, 0.3), ("C", 6, 0.0))
        for seed in range(seeds)
        for case in range(20)
    ]
    record = compare(as_rows(found), "segmentation", "dice")[0]
    low, high = record["hierarchical"]
    assert record["difference"] == pytest.approx(0.15, abs=0.01)
    assert low < record["difference"] < high


def test_without_differences_between_trainings_both_intervals_are_close():
    """All training runs find the same; what is left is that centres no longer keep their exact share."""
    values = np.random.default_rng(8).normal(0, 0.1, 20)
    found = [
        Pair((centre, seed), centre, f"{i:02d}", 0.0, value)
        for centre in "ABC"
        for seed in "012"
        for i, value in enumerate(values)
    ]
    wider = stats.t.ppf(0.975, 8) / stats.norm.ppf(0.975)
    assert 1 <= width(hierarchical_interval(found)) / width(over_cases(found)) / wider <= 1.15


def test_only_the_hierarchical_interval_reflects_differences_between_trainings():
    found = simulated_pairs(np.random.default_rng(9), case=0, noise=0)
    of_training = {pair.training: pair.difference for pair in found}
    sd = np.std(list(of_training.values()), ddof=1)
    expected = stats.t.ppf(0.975, 8) * sd / 3  # by the standard error of the mean of nine
    assert width(hierarchical_interval(found)) / 2 == pytest.approx(expected, rel=0.08)
    assert compare(as_rows(found), "segmentation", "dice")[0]["sd_over_trainings"] == pytest.approx(sd)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_trainings_have_no_hierarchical_interval(seeds):
    found = simulated_pairs(np.random.default_rng(10), hospitals=1, seeds=seeds)
    assert all(map(math.isnan, hierarchical_interval(found)))
    record = compare(as_rows(found), "segmentation", "dice")[0]
    assert record["note"] == "no hierarchical interval: fewer than 3 training runs"
    assert all(map(math.isfinite, record["interval"]))
    assert math.isnan(record["trainings_needed"]) == (seeds == 1)
    assert record["conclusion"] == "not shown"
    assert "nan" not in in_words(record)


def drawn_by_hand(found, resamples, rng, level):
    """The hierarchical bootstrap in loops: one resample after the other, one training and one case at a time.

    A case counts with the mean over the drawn trainings that tested it. Not yet wider by Student's t.
    """
    trainings = sorted({pair.training for pair in found})
    cases = {}
    for pair in found:
        cases.setdefault(pair.centre, set()).add(pair.case)
    values = {(pair.training, pair.centre, pair.case): pair.difference for pair in found}
    means = []
    for _ in range(resamples):
        drawn_cases = {centre: rng.choice(sorted(names), len(names)) for centre, names in cases.items()}
        places = rng.integers(len(trainings), size=len(trainings) - 1)
        drawn = []
        for centre, names in drawn_cases.items():
            for name in names:
                keys = [(trainings[place], centre, str(name)) for place in places]
                if of_case := [values[key] for key in keys if key in values]:
                    drawn.append(np.mean(of_case))
        if drawn:
            means.append(np.mean(drawn))
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


@pytest.mark.parametrize(("level", "within"), [(0.95, 0.01), (0.5, 0.002)])
def test_the_hierarchical_interval_is_that_of_plain_loops(level, within):
    found = simulated_pairs(np.random.default_rng(11), 0.1, cases=5, seeds=2)
    found = [pair for pair in found if (*pair.training, pair.case) not in {("A", "0", "01"), ("C", "1", "03")}]
    by_hand = drawn_by_hand(found, 4000, np.random.default_rng(12), level)
    mean = np.mean(np.concatenate(list(paired_differences(found).values())))
    wider = stats.t.ppf((1 + level) / 2, 5) / stats.norm.ppf((1 + level) / 2)
    expected = mean + wider * (by_hand - mean)
    ours = hierarchical_interval(found, level=level, resamples=20_000)
    assert ours == pytest.approx(tuple(expected), abs=within)


def test_folds_of_a_cross_validation_are_trainings():
    """Each fold is tested by a training of its own, although all its cases are of one centre."""
    rng = np.random.default_rng(13)
    rows = [
        {**row(arm, f"{fold}{case}", 0, rng.normal(0.5, 0.1)), "part": str(fold)}
        for arm in ("segmentation", "full")
        for fold in range(5)
        for case in range(4)
    ]
    record = compare(rows, "segmentation", "dice")[0]
    assert record["trainings"] == 5
    assert all(map(math.isfinite, record["hierarchical"]))


@pytest.mark.parametrize(
    ("sd", "difference", "level", "power"),
    [
        (0.05, 0.05, 0.95, 0.8),
        (0.08, 0.05, 0.95, 0.8),
        (0.1, 0.05, 0.95, 0.8),
        (0.07, 0.095, 0.95, 0.8),
        (0.1, 0.05, 0.99, 0.8),
        (0.1, 0.05, 0.95, 0.6),
    ],
)
def test_trainings_needed_gives_the_requested_power(sd, difference, level, power):
    """4,000 simulated experiments with that many training runs, and with two fewer."""
    rng = np.random.default_rng(14)

    def shown(trainings):
        return np.mean(stats.ttest_1samp(rng.normal(difference, sd, (4000, trainings)), 0, axis=1).pvalue < 1 - level)

    needed = trainings_needed(sd, difference, level=level, power=power)
    assert power - 0.02 <= shown(needed) <= power + 0.07
    assert shown(needed - 2) < power


def test_a_larger_spread_needs_more_trainings():
    needed = [trainings_needed(sd) for sd in (0.0, 0.02, 0.05, 0.1, 0.2)]
    assert needed == sorted(needed)
    assert needed[0] == 2
    assert needed[3] == 34  # for 0.05: (1.960 + 0.842)^2 * 2^2 + 1.960^2 / 2 = 33.3
    assert math.isnan(trainings_needed(math.nan))


def test_signed_rank_test_is_exact_for_few_cases():
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
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(p):
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
    assert found["trainings"] == 6
    for ends in (found["interval"], found["hierarchical"]):
        assert 0 < ends[0] < 0.08 < ends[1]
    assert found["p_holm"] < 0.001
    assert found["conclusion"] == "better"
    assert set(found["by_centre"]) == set("ABC")
    assert set(found["by_seed"]) == {"0", "1"}
    assert np.mean(list(found["by_centre"].values())) == pytest.approx(found["difference"])
    assert np.mean(list(found["by_seed"].values())) == pytest.approx(found["difference"])


@pytest.mark.parametrize(
    ("ends", "p", "expected"),
    [
        ((0.01, 0.1), 0.04, "better"),
        ((-0.1, -0.01), 0.04, "worse"),
        ((-0.01, 0.1), 0.001, "not shown"),
        ((0.01, 0.1), 0.06, "not shown"),
        ((-0.1, -0.01), 0.06, "not shown"),
        ((math.nan, math.nan), 0.001, "not shown"),
        ((0.01, 0.1), math.nan, "not shown"),
    ],
)
def test_a_conclusion_needs_the_hierarchical_interval_and_p(ends, p, expected):
    assert conclusion({"interval": (0.5, 0.6), "hierarchical": ends, "p_holm": p, "trainings": 9}) == expected


@pytest.mark.parametrize(
    ("trainings", "found", "words"),
    [
        (1, "better", "in one training run, which is no verdict"),
        (9, "better", "over 9 training runs (+0.100 to +0.300): better than the baseline"),
        (9, "not shown", "over 9 training runs (+0.100 to +0.300): not shown, since chance alone could explain it"),
    ],
)
def test_the_words_say_no_more_than_the_comparison(trainings, found, words):
    record = {"trainings": trainings, "difference": 0.2, "hierarchical": (0.1, 0.3), "conclusion": found}
    assert in_words(record, "the baseline") == f"+0.200 {words}"


@pytest.mark.parametrize(("trainings", "expected"), [(3, "not shown"), (4, "not shown"), (5, "better")])
def test_few_trainings_give_no_conclusion(trainings, expected):
    record = {"hierarchical": (0.1, 0.2), "p_holm": 0.001, "trainings": trainings, "difference": 0.15}
    record["conclusion"] = conclusion(record)
    assert record["conclusion"] == expected
    assert ("so few give no verdict" in in_words(record)) == (trainings < 5)


def test_one_bad_training_of_three_is_no_conclusion():
    """All its cases fail together: the interval over cases excludes 0, that over training runs does not."""
    rng = np.random.default_rng(15)
    found = [
        Pair(("A", seed), "A", f"{case:02d}", 0.0, gain + rng.normal(0, 0.02))
        for seed, gain in (("0", 0.01), ("1", -0.2), ("2", 0.01))
        for case in range(16)
    ]
    record = compare(as_rows(found), "segmentation", "dice")[0]
    assert record["interval"][1] < 0
    assert record["p"] < 0.001
    assert record["hierarchical"][0] < 0 < record["hierarchical"][1]
    assert record["conclusion"] == "not shown"


def test_eight_arms_without_effect_keep_the_false_alarm_rate():
    """Without Holm the chance of a false alarm in a table of eight would be about a third."""
    rng = np.random.default_rng(5)
    arms = [f"arm {n}" for n in range(8)]
    alarms, naive = 0, 0
    for _ in range(60):
        rows = simulated(rng, 0.0, cases=5, seeds=1, arms=arms)
        found = [paired_differences(pairs(rows, arm, "segmentation", "dice")) for arm in arms]
        groups = [np.concatenate([*of_arm.values()]) for of_arm in found]
        p = [signed_rank_p(differences) for differences in groups]
        naive += min(p) < 0.05
        alarms += min(holm(p)) < 0.05
    assert alarms / 60 <= 0.15  # 0.05 expected at most, and three standard errors
    assert naive > alarms


def test_without_the_baseline_there_is_nothing_to_compare():
    assert compare([row("full", "a", 0, 0.5)], "segmentation", "dice") == []


def test_an_arm_with_changed_settings_meets_the_baseline_with_the_same_changes():
    dice = {"segmentation": 0.2, "full": 0.3, "segmentation+x=1": 0.6, "full+x=1": 0.5, "full+x=2": 0.9}
    rows = [row(arm, case, 0, value) for arm, value in dice.items() for case in ("a", "b")]
    found = {
        one["arm"]: (one["baseline"], round(one["difference"], 6)) for one in compare(rows, "segmentation", "dice")
    }
    assert found == {
        "full": ("segmentation", 0.1),
        "segmentation+x=1": ("segmentation", 0.4),
        "full+x=1": ("segmentation+x=1", -0.1),
        "full+x=2": ("segmentation", 0.7),  # nothing with the same changes
    }
