"""Is the difference between two arms more than chance? Paired intervals and tests, over cases and over training runs.

Two arms are tested on the same cases with the same seeds, so the difficulty of a case affects both and cancels
in their difference. Two intervals answer two questions:

* ``bootstrap_interval``, over cases: what would be the result on *other cases of these centres* with *these* training
  runs? The unit is the case: its seeds are averaged first, because two training runs on one case are not two patients.
* ``hierarchical_interval``, over training runs and the cases within them: what would be the result of *other training
  runs on other cases*? A poor run affects all its cases, which the first interval ignores. Conclusions use this one.

Neither predicts the result at other hospitals: three are too few. For that, compare the centres one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dualtask_lite.rows import Pair, Row, pairs
from dualtask_lite.words import interval_in_words, signed

T = TypeVar("T", bound=Hashable)
Groups = Sequence[NDArray[np.float64]]

LEVEL, RESAMPLES = 0.95, 10_000
FEW = 5  # cases of a centre; with fewer, the interval over cases covers the truth 0.8 of the time or less
FEWEST_FOR_INTERVAL = 3  # training runs: of two, Student's t would make any interval useless
FEWEST_TRAININGS = 5  # for a conclusion: of fewer, a single one that fails decides the mean
RELEVANT = 0.05  # the difference in Dice or NSD that a comparison should be able to show


def paired_differences(matched: Iterable[Pair]) -> dict[str, NDArray[np.float64]]:
    """Difference between an arm and the baseline for each case.

    Args:
        matched: the pairs of both arms, see ``rows.pairs``.

    Returns:
        centre -> one difference for each case (arm minus baseline), the mean over the training runs.
    """
    cases: dict[tuple[str, str], list[float]] = {}
    for pair in matched:
        cases.setdefault((pair.centre, pair.case), []).append(pair.difference)
    groups: dict[str, list[float]] = {}
    for (centre, _), differences in sorted(cases.items()):
        groups.setdefault(centre, []).append(float(np.mean(differences)))
    return {centre: np.array(differences) for centre, differences in groups.items()}


def bootstrap_interval(
    groups: Groups, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over all cases (Efron and Tibshirani 1993).

    It shows what other cases of these centres would give with the same training runs. Cases are drawn with replacement
    within their centre, so that each centre keeps its share. With few cases it is too narrow: a 95 % interval covers
    the truth about 0.8 of the time with 3 cases a centre, 0.93 with 14.

    Args:
        groups: for each centre the values of its cases.
        level: share of the resampled means that lie inside.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        Lower and upper end; NaN without a case, or when a centre has one case, whose resamples are all equal.
    """
    if not groups or min(map(len, groups)) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    sums = sum(rng.choice(values, (resamples, len(values))).sum(1) for values in groups)
    return _percentiles(sums / sum(map(len, groups)), level)


def hierarchical_interval(
    matched: Sequence[Pair], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean difference, over training runs and the cases within them.

    It shows what other training runs, tested on other cases of these centres, would give. A training run is one
    held-out part with one seed. Each resample draws runs with replacement, and the cases of each centre with
    replacement; all drawn runs of a centre are tested on the same drawn cases, as in the experiment (Owen 2007, *The
    pigeonhole bootstrap*). As in ``compare``, a case counts once, with the mean over its runs.

    Few runs would make it too narrow, for two reasons. Their spread is underestimated: so one run fewer is drawn than
    there are (Rao and Wu 1988). And it is not known well: so both ends move away from the mean, by the ratio of
    Student's t to the normal distribution (Hesterberg 2015, *What teachers should know about the bootstrap*).

    In simulations of 3 centres, 3 seeds and 14 cases a 95 % interval covers the truth 0.98 of the time, where the
    interval over cases covers 0.77; with five runs of three centres and 42 cases 0.92. If centres differ by as much as
    training runs do, it covers the mean over *all* centres 0.89 of the time: three hospitals do not represent a fourth.

    Args:
        matched: the pairs of both arms, see ``rows.pairs``.
        level: share of the resampled means that lie inside.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        Lower and upper end; NaN with fewer than three training runs, or when a centre has one case.
    """
    trainings = sorted({pair.training for pair in matched})
    cases = sorted({(pair.centre, pair.case) for pair in matched})
    sizes = Counter(centre for centre, _ in cases)
    if len(trainings) < FEWEST_FOR_INTERVAL or min(sizes.values()) < 2:
        return math.nan, math.nan
    differences, tested = np.zeros((2, len(trainings), len(cases)))
    for pair in matched:
        cell = trainings.index(pair.training), cases.index((pair.centre, pair.case))
        differences[cell], tested[cell] = pair.difference, 1
    rng = np.random.default_rng(seed)
    # How often each run and each case is drawn: (resamples, runs) and (resamples, cases).
    training_counts = _draw_counts(rng, len(trainings), len(trainings) - 1, resamples)
    case_counts = np.hstack([_draw_counts(rng, size, size, resamples) for size in sizes.values()])
    runs = training_counts @ tested  # drawn runs that tested each case
    case_means = training_counts @ differences / np.maximum(runs, 1)
    weights = case_counts * (runs > 0)
    drawn = weights.sum(1) > 0
    means = (case_means * weights).sum(1)[drawn] / weights.sum(1)[drawn]
    mean = float((differences.sum(0) / tested.sum(0)).mean())
    wider = stats.t.ppf((1 + level) / 2, len(trainings) - 1) / stats.norm.ppf((1 + level) / 2)
    low, high = (mean + wider * (end - mean) for end in _percentiles(means, level))
    return float(low), float(high)


def trainings_needed(
    sd: float, difference: float = RELEVANT, *, level: float = LEVEL, power: float = 0.8
) -> int | float:
    """Number of paired training runs with which a two-sided t-test shows a difference (normal formula, Guenther 1981).

    Args:
        sd: standard deviation of the mean difference between the two arms, over training runs.
        difference: the true difference to show.
        level: 1 minus the probability of a false alarm.
        power: the probability of showing the difference.

    Returns:
        Number of training runs, all centres together; NaN when ``sd`` is not finite.
    """
    if not math.isfinite(sd):
        return math.nan
    z_level, z_power = stats.norm.ppf([(1 + level) / 2, power])
    return math.ceil(((z_level + z_power) * sd / difference) ** 2 + z_level**2 / 2)


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that paired differences have median 0; 1 when all are 0."""
    if not len(differences):
        return math.nan
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple comparisons (Holm 1979).

    The smallest is multiplied by their number, the next by one less, and so on; none becomes smaller than the one
    before. NaN is ignored and stays NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    defined = np.flatnonzero(np.isfinite(p))
    order = defined[np.argsort(p[defined])]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return [float(value) for value in adjusted]


def compare(rows: Sequence[Row], baseline: str, metric: str) -> list[dict[str, Any]]:
    """Compare each arm with the baseline; an arm with changed settings, with the baseline that has the same changes.

    So ``full+optimiser.steps=9600`` is compared with ``segmentation+optimiser.steps=9600`` if the rows hold it, and
    this one with ``segmentation``, which says what the steps alone change.

    Args:
        rows: as for ``rows.pairs``, of any number of arms.
        baseline: the arm to compare with.
        metric: the column to compare.

    Returns:
        A record for each other arm; none for an arm without rows of its baseline.

        ======================  =====================================================================
        ``arm``                 its name
        ``baseline``            the arm that it is compared with
        ``cases``               number of cases, and
        ``trainings``           number of training runs, that both arms have
        ``difference``          mean over the cases, arm minus baseline
        ``interval``            over cases: its two ends (``bootstrap_interval``)
        ``hierarchical``        over training runs and cases: its two ends (``hierarchical_interval``)
        ``note``                why an interval is NaN or too narrow; else empty
        ``p``, ``p_holm``       signed rank over cases; the same after Holm over these arms
        ``conclusion``          better, worse or not shown (``conclusion``)
        ``by_centre``           mean difference in each centre, and
        ``by_seed``             with each seed
        ``sd_over_trainings``   of the mean difference
        ``trainings_needed``    to show a difference of ``RELEVANT`` with this standard deviation
        ======================  =====================================================================
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    opponents = {arm: _baseline_of(arm, baseline, arms) for arm in arms if arm != baseline}
    records = [
        {"arm": arm, "baseline": other, **_record(pairs(rows, arm, other, metric))}
        for arm, other in opponents.items()
        if other in arms
    ]
    for record, p in zip(records, holm([record["p"] for record in records]), strict=True):
        record["p_holm"] = p
        record["conclusion"] = conclusion(record)
    return records


def conclusion(record: Mapping[str, Any]) -> str:
    """Conclude better or worse when the hierarchical interval excludes 0 and p after Holm is small.

    With fewer than ``FEWEST_TRAININGS`` training runs nothing is shown, whatever the interval.
    """
    low, high = record["hierarchical"]
    if record["trainings"] < FEWEST_TRAININGS:
        return "not shown"
    if record["p_holm"] < 1 - LEVEL and low > 0:
        return "better"
    if record["p_holm"] < 1 - LEVEL and high < 0:
        return "worse"
    return "not shown"


def in_words(record: Mapping[str, Any], baseline: str = "segmentation only") -> str:
    """Say what a comparison shows, and no more than that.

    Args:
        record: of ``compare``.
        baseline: its name in the sentence.
    """
    if record["trainings"] == 1:
        return f"{signed(record['difference'])} in one training run, which is no verdict"
    interval = interval_in_words(record["hierarchical"], "")
    ends = f" ({interval})" if interval else ""
    shown = {
        "better": f"better than {baseline}",
        "worse": f"worse than {baseline}",
        "not shown": "not shown, since chance alone could explain it",
    }[record["conclusion"]]
    if record["trainings"] < FEWEST_TRAININGS:
        shown = "not shown, since so few give no verdict"
    return f"{signed(record['difference'])} over {record['trainings']} training runs{ends}: {shown}"


def _baseline_of(arm: str, baseline: str, arms: Sequence[str]) -> str:
    """The baseline with the changed settings of an arm if it is one of the arms, else the baseline itself."""
    _, plus, changes = arm.partition("+")
    same_changes = f"{baseline}{plus}{changes}"
    return same_changes if same_changes in arms and same_changes != arm else baseline


def _record(matched: Sequence[Pair]) -> dict[str, Any]:
    groups = paired_differences(matched)
    differences = np.concatenate([np.empty(0), *groups.values()])
    by_training = _means_by(matched, lambda pair: pair.training)
    sd = float(np.std(list(by_training.values()), ddof=1)) if len(by_training) > 1 else math.nan
    return {
        "cases": len(differences),
        "trainings": len(by_training),
        "difference": float(differences.mean()) if len(differences) else math.nan,
        "interval": bootstrap_interval(list(groups.values())),
        "hierarchical": hierarchical_interval(matched),
        "note": _note(groups, len(by_training)),
        "p": signed_rank_p(differences),
        "by_centre": {centre: float(values.mean()) for centre, values in groups.items()},
        "by_seed": _means_by(matched, lambda pair: pair.training[1]),
        "sd_over_trainings": sd,
        "trainings_needed": trainings_needed(sd),
    }


def _note(groups: Mapping[str, NDArray[np.float64]], trainings: int) -> str:
    """Explain why an interval is undefined or too narrow."""
    notes = []
    if lone := [centre for centre, values in groups.items() if len(values) == 1]:
        notes.append(f"no interval: only one case at centre {', '.join(lone)}")
    elif few := [f"{len(values)} at centre {centre}" for centre, values in groups.items() if len(values) < FEW]:
        notes.append(
            f"few cases ({', '.join(few)}): the interval over cases covers the truth 0.8 of the time or less, not 0.95"
        )
    if trainings < FEWEST_FOR_INTERVAL:
        notes.append(f"no hierarchical interval: fewer than {FEWEST_FOR_INTERVAL} training runs")
    return "; ".join(notes)


def _means_by(matched: Iterable[Pair], key: Callable[[Pair], T]) -> dict[T, float]:
    groups: dict[T, list[float]] = {}
    for pair in matched:
        groups.setdefault(key(pair), []).append(pair.difference)
    return {name: float(np.mean(differences)) for name, differences in groups.items()}


def _draw_counts(rng: np.random.Generator, units: int, draws: int, resamples: int) -> NDArray[np.int64]:
    """Number of times that each unit is drawn in each resample, (resamples, units)."""
    return rng.multinomial(draws, np.full(units, 1 / units), resamples)


def _percentiles(means: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
