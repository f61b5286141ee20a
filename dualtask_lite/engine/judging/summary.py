"""Summary of an ablation: means over cases, standard deviations over seeds, and comparisons with the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dualtask_lite.engine.judging.statistics import compare
from dualtask_lite.rows import Row, mean_of, number

#: The metrics of the summary; of the volume error the absolute value, because errors of both signs would cancel.
SUMMARISED = ("dice", "nsd_2mm", "hd95_mm", "assd_mm", "detected", "volume_error_ml")
COMPARED = ("dice", "nsd_2mm")  # defined for every case with a lesion, also for an empty prediction


def summarise_cells(rows: Sequence[Row], target: str, baseline: str) -> dict[str, Any]:
    """Summarise the rows of all cells.

    Args:
        rows: of ``cases.csv``, of one head and one box.
        target: of the last stage, for which the arms are compared.
        baseline: the arm to compare with.

    Returns:
        ``results``: target -> arm -> metric -> protocol -> mean over seeds of the means over cases, standard deviation
        over seeds (None where the seeds tested different parts, which differ, too); if both were measured, ``gap`` is
        in-domain minus unseen. ``comparisons``: a record for each
        protocol, metric and arm with its difference from the baseline in ``target`` (see ``statistics.compare``).
    """
    arms, targets, protocols = (list(dict.fromkeys(row[key] for row in rows)) for key in ("arm", "target", "protocol"))
    by_arm = {(t, a): [row for row in rows if (row["target"], row["arm"]) == (t, a)] for t in targets for a in arms}
    results = {t: {a: {metric: _means(by_arm[t, a], metric) for metric in SUMMARISED} for a in arms} for t in targets}
    comparisons = [
        {"target": target, "protocol": protocol, "metric": metric, **record}
        for protocol in protocols
        for metric in COMPARED
        for record in compare([r for r in rows if (r["target"], r["protocol"]) == (target, protocol)], baseline, metric)
    ]
    return {"results": results, "comparisons": comparisons}


def _means(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    means = {
        protocol: _seed_means([row for row in rows if row["protocol"] == protocol], metric)
        for protocol in dict.fromkeys(row["protocol"] for row in rows)
    }
    if {"in-domain", "unseen"} <= set(means):
        away = means["unseen"]  # while an ablation runs, a seed may be in one protocol only
        means["gap"] = {seed: value - away[seed] for seed, value in means["in-domain"].items() if seed in away}
    parts: dict[int, set[tuple[Any, str]]] = {}
    for row in rows:
        parts.setdefault(int(row["seed"]), set()).add((row["protocol"], str(row.get("part", row["centre"]))))
    alike = all(of_seed == parts[int(rows[0]["seed"])] for of_seed in parts.values())
    return {name: _spread(list(values.values()), alike) for name, values in means.items()}


def _seed_means(rows: Sequence[Row], metric: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        value = number(row[metric])
        values.setdefault(int(row["seed"]), []).append(abs(value) if metric == "volume_error_ml" else value)
    return {seed: mean_of(seed_values) for seed, seed_values in values.items()}


def _spread(means: Sequence[float], alike: bool) -> dict[str, Any]:
    known = [value for value in means if math.isfinite(value)]
    sd = round(float(np.std(known, ddof=1)), 4) if alike and len(known) > 1 else None
    return {"mean": round(mean_of(known), 4), "sd_over_seeds": sd, "seeds": len(known)}
