"""Tables of an ablation: its rows and comparisons laid out for a lesson."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from dualtask_lite.rows import Row, mean_of, number
from dualtask_lite.show.table import Table
from dualtask_lite.words import counted, interval_in_words, signed


def arms(rows: Sequence[Row], *, metric: str = "dice") -> Table:
    """Show each arm's number of training runs and mean for each held-out hospital, and the share of lesions detected.

    Args:
        rows: of ``cases.csv``, of one target and protocol.
        metric: the column to average; cases without a value are left out.
    """
    hospitals = sorted({str(row["centre"]) for row in rows})
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        means = {name: mean_of(row[metric] for row in of_arm if row["centre"] == name) for name in hospitals}
        seeds = {name: len({row["seed"] for row in of_arm if row["centre"] == name}) for name in hospitals}
        seeds = {name: count for name, count in seeds.items() if count}
        detected = mean_of(row["detected"] for row in of_arm)
        lines.append({"arm": arm, "training runs": seeds, **means, "detected": detected})
    return Table(lines, f"Mean {metric} on each held-out hospital, and the share of lesions detected", digits=3)


def trainings(rows: Sequence[Row], metrics: Sequence[str] = ("dice", "precision", "recall")) -> Table:
    """Show a row for each training run: its mean of each metric over its test cases that have the target.

    A case without the target has no recall, and a false alarm in it a precision of 0: means of both over all cases
    would be over different patients.

    Args:
        rows: of ``cases.csv``, of one target and protocol.
        metrics: the columns to average; cases without a value are left out.
    """
    rows = [row for row in rows if number(row["volume_ml_truth"]) > 0]
    keys = dict.fromkeys((row["arm"], str(row["centre"]), str(row["seed"])) for row in rows)
    lines = []
    for key in keys:
        of_training = [row for row in rows if (row["arm"], str(row["centre"]), str(row["seed"])) == key]
        training = dict(zip(("arm", "held out", "seed"), key, strict=True))
        lines.append(training | {metric: mean_of(row[metric] for row in of_training) for metric in metrics})
    return Table(lines, "Mean over the test cases of each training run that have the target")


def failures(rows: Sequence[Row], by: str) -> Table:
    """Show for each group the lesions missed, the false alarms, and the median true and marked volume of its lesions.

    Args:
        rows: per-case results of one target, see ``engine.judging.metrics.case_metrics``.
        by: the column that makes the groups.
    """
    lines = []
    for group in dict.fromkeys(row[by] for row in rows):
        of_group = [row for row in rows if row[by] == group]
        lesions = [row for row in of_group if row["volume_ml_truth"] > 0]
        healthy = [row for row in of_group if row["volume_ml_truth"] == 0]
        lines.append(
            {
                by: group,
                "lesions": len(lesions),
                "missed": sum(not row["detected"] for row in lesions),
                "true (ml, median)": _median(row["volume_ml_truth"] for row in lesions),
                "marked (ml, median)": _median(row["volume_ml_prediction"] for row in lesions),
                "patients without": len(healthy),
                "false alarms": sum(row["volume_ml_prediction"] > 0 for row in healthy),
            }
        )
    return Table(lines, "Lesions missed, and false alarms in patients without a lesion", digits=1)


def differences(comparisons: Sequence[Row]) -> Table:
    """Show the difference of each arm from the baseline, with both intervals and the conclusion.

    Args:
        comparisons: of one metric, see ``engine.judging.statistics.compare``.
    """
    few = "too few training runs"
    lines = [
        {
            "arm": comparison["arm"],
            "difference": signed(comparison["difference"]),
            "over training runs and cases": interval_in_words(comparison["hierarchical"], few),
            "over cases alone": interval_in_words(comparison["interval"], few),
            "p (Holm)": f"{comparison['p_holm']:.2g}",
            "by hospital": {name: signed(value) for name, value in comparison["by_centre"].items()},
            "conclusion": comparison["conclusion"],
        }
        for comparison in comparisons
    ]
    corrected = f"p corrected for {counted(len(lines), 'comparison')}"
    return Table(lines, f"Difference from the baseline, with 95 % intervals, and {corrected}")


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
