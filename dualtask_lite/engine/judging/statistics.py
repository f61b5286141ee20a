"""Is the difference between two arms more than luck? Paired intervals and tests, over cases.

Two arms are tested on the same cases with the same seeds, so that what makes a case hard is in both and cancels
in their difference. The unit is the case: seeds that tested it are averaged first, because two trainings on one
case are not two patients. What these numbers say is what *other cases of these centres* would do. They do not say
what other seeds or other centres would do; for that, look at the spread over seeds and at each centre by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Row = Mapping[str, Any]
Groups = Sequence[NDArray[np.float64]]

LEVEL, RESAMPLES = 0.95, 10_000


def number(value: Any) -> float:
    """Read a value of a row, as measured or as text of a CSV; an empty field is NaN, a detection 0 or 1."""
    if value is None or value == "":
        return math.nan
    return float({"True": 1, "False": 0}.get(value, value))


def paired_differences(rows: Sequence[Row], arm: str, baseline: str, metric: str) -> dict[str, NDArray[np.float64]]:
    """How much better or worse each case is with an arm than with the baseline.

    Args:
        rows: results of both arms with ``arm``, ``case``, ``centre``, ``seed`` and the metric, of one target and
            one protocol.
        arm: the one that is asked about.
        baseline: the one to compare with.
        metric: a column; a pair in which either value is not defined is left out.

    Returns:
        centre -> one difference a case (arm minus baseline), each the mean over the seeds that tested it.
    """
    values = {(row["arm"], row["centre"], row["case"], str(row["seed"])): number(row[metric]) for row in rows}
    pairs: dict[tuple[str, str], list[float]] = {}
    for (name, *key), value in values.items():
        difference = value - values.get((baseline, *key), math.nan)
        if name == arm and math.isfinite(difference):
            pairs.setdefault((key[0], key[1]), []).append(difference)
    groups: dict[str, list[float]] = {}
    for (centre, _), differences in sorted(pairs.items()):
        groups.setdefault(centre, []).append(float(np.mean(differences)))
    return {centre: np.array(differences) for centre, differences in groups.items()}


def bootstrap_interval(
    groups: Groups, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over all values, drawing anew within each group (Efron and Tibshirani 1993).

    Cases are drawn with replacement within their centre, so that each centre keeps its share.

    Args:
        groups: the values of each centre.
        level: share of the resampled means that lie inside.
        resamples: how often to draw.
        seed: of the draws.
    """
    if not sum(map(len, groups)):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    sums = sum(rng.choice(group, (resamples, len(group))).sum(1) for group in groups if len(group))
    low, high = np.quantile(sums / sum(map(len, groups)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that paired differences lie around 0; 1 when all are 0."""
    if not len(differences):
        return math.nan
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many questions were asked of the same data (Holm 1979).

    The smallest is multiplied by their number, the next by one less, and so on; none falls below one before it.
    A NaN is no question and stays NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    asked = np.flatnonzero(np.isfinite(p))
    order = asked[np.argsort(p[asked])]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return [float(value) for value in adjusted]


def compare(rows: Sequence[Row], baseline: str, metric: str) -> list[dict[str, Any]]:
    """Each arm against the baseline.

    Args:
        rows: as for ``paired_differences``, of any number of arms.
        baseline: the arm to compare with.
        metric: the column to compare.

    Returns:
        For each other arm ``arm``, ``cases`` (pairs), ``difference`` (mean), ``low`` and ``high`` (bootstrap),
        ``p`` (signed rank), ``p_holm`` (over these arms), ``by_centre`` and ``by_seed`` (mean differences).
        Nothing when the baseline is not among the rows.
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if baseline not in arms:
        return []
    found = [_compared(rows, arm, baseline, metric) for arm in arms if arm != baseline]
    adjusted = holm([one["p"] for one in found])
    return [{**one, "p_holm": p} for one, p in zip(found, adjusted, strict=True)]


def _compared(rows: Sequence[Row], arm: str, baseline: str, metric: str) -> dict[str, Any]:
    groups = paired_differences(rows, arm, baseline, metric)
    every = _together(groups)
    low, high = bootstrap_interval(list(groups.values()))
    seeds: dict[str, list[Row]] = {}
    for row in rows:
        seeds.setdefault(str(row["seed"]), []).append(row)
    return {
        "arm": arm,
        "cases": len(every),
        "difference": _mean(every),
        "low": low,
        "high": high,
        "p": signed_rank_p(every),
        "by_centre": {centre: _mean(values) for centre, values in groups.items()},
        "by_seed": {
            seed: _mean(_together(paired_differences(of_seed, arm, baseline, metric)))
            for seed, of_seed in seeds.items()
        },
    }


def _together(groups: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.empty(0), *groups.values()])


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan
