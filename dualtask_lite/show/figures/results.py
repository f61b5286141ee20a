"""Figures of an ablation: which arm is better, by how much, in which cases, and whether it is more than chance.

Their input comes from ``dualtask ablate``: the rows of ``cases.csv`` and the comparisons of ``summary.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dualtask_lite.rows import Row, number, pairs
from dualtask_lite.show import palette
from dualtask_lite.show.figures.parts import tidy
from dualtask_lite.show.picture import Picture, new_figure
from dualtask_lite.words import counted, interval_in_words, signed

_NAMES = {"dice": "Dice", "nsd_2mm": "NSD at 2 mm"}
_MARKERS = ("o", "s", "^", "D", "v", "P")


def paired(
    rows: Sequence[Row],
    arm: str,
    *,
    baseline: str = "segmentation",
    protocol: str = "leave-one-centre-out",
    target: str = "tumour",
    metric: str = "dice",
) -> Picture:
    """Show the result of an arm against that of the baseline for each case.

    Args:
        rows: of ``cases.csv``.
        arm: to compare.
        baseline: the arm to compare it with.
        protocol: of the rows.
        target: pancreas or tumour.
        metric: a column between 0 and 1. A dot is the mean over the seeds in which both arms have a value.
    """
    wanted = [row for row in rows if (row["protocol"], row["target"]) == (protocol, target)]
    values: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for pair in pairs(wanted, arm, baseline, metric):
        values.setdefault((pair.centre, pair.case), []).append((pair.baseline, pair.arm))
    dots = {case: np.mean(case_values, axis=0) for case, case_values in values.items()}
    colours = palette.centre_colours(centre for centre, _ in dots)
    figure = new_figure(height=480)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=palette.GREY, lw=1, ls="--", zorder=1)
    notes = []
    for marker, (centre, colour) in zip(_MARKERS * len(colours), colours.items(), strict=False):
        x, y = np.array([dot for (name, _), dot in dots.items() if name == centre]).T
        axes.plot(x, y, marker, color=colour, mec="black", mew=0.5, ms=7, alpha=0.8, label=f"centre {centre}")
        notes.append(
            f"Centre {centre}: {len(x)} cases, {(y > x).sum()} better, {(y < x).sum()} worse, mean difference "
            f"{signed((y - x).mean())}."
        )
    name = _NAMES.get(metric, metric)
    axes.set(xlabel=f"{name}, {baseline}", ylabel=f"{name}, {arm}", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set(aspect="equal", title=f"{target}, {protocol}: above the line the arm {arm} is better")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    tidy(axes, "both")
    what = f"{name} of the {target} in each case ({protocol}), arm {arm} against {baseline}. "
    return Picture.of(figure, what + " ".join(notes))


def arms(
    comparisons: Sequence[Row],
    *,
    protocol: str = "leave-one-centre-out",
    metric: str = "dice",
    claimed: float | None = None,
) -> Picture:
    """Show the difference of each arm from the baseline, with both intervals (a forest plot).

    Args:
        comparisons: of ``summary.json``.
        protocol: of the comparisons.
        metric: dice or nsd_2mm.
        claimed: a difference to mark, such as the one that a paper reports.
    """
    shown = [record for record in comparisons if (record["protocol"], record["metric"]) == (protocol, metric)]
    if not shown:
        raise ValueError(f"there is no comparison of {metric} under {protocol}")
    figure = new_figure(height=170 + 52 * len(shown))
    axes = figure.subplots()
    axes.axvline(0, color=palette.ink(), lw=1)
    if claimed is not None:
        axes.axvline(claimed, color=palette.VERMILLION, lw=1.5, ls=":", label=f"{signed(claimed)}, as claimed")
    notes = [f"{_sample_size(record)}: {_draw_arm(axes, row, record)}" for row, record in enumerate(shown)]
    first, name = shown[0], _NAMES.get(metric, metric)
    axes.set_yticks(range(len(shown)), [f"{record['arm']}\n{_sample_size(record)}" for record in shown])
    baselines = ", ".join(dict.fromkeys(record["baseline"] for record in shown))
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=f"difference in {name} from {baselines}")
    axes.set_title(f"{first['target']}, {protocol}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    tidy(axes, "x")
    what = f"Difference in {name} of the {first['target']} from {baselines}, {protocol}. "
    return Picture.of(figure, what + "; ".join(notes) + ".")


def _sample_size(comparison: Row) -> str:
    trainings = comparison["trainings"]
    return f"{counted(comparison['cases'], 'case')}, {counted(trainings, 'training run')}"


def _draw_arm(axes: Axes, row: int, comparison: Row) -> str:
    """Draw both intervals and the seeds of an arm, and describe them; only the first arm adds labels to the legend."""
    middle, p = number(comparison["difference"]), number(comparison["p_holm"])
    low, high = map(number, comparison["hierarchical"])
    over_cases = [number(end) for end in comparison["interval"]]
    seeds = [number(value) for value in comparison["by_seed"].values()]
    marks: tuple[tuple[list[float], float, str, dict[str, Any]], ...] = (
        (
            [low, high],
            0,
            "95 % interval over training runs and cases",
            {"color": palette.BLUE, "lw": 3.5, "solid_capstyle": "butt"},
        ),
        (
            over_cases,
            0.2,
            "95 % interval over cases alone",
            {"color": palette.ORANGE, "lw": 1.5, "solid_capstyle": "butt"},
        ),
        (seeds, 0.36, "each seed", {"color": palette.GREY, "ls": "", "marker": "|", "ms": 8, "mew": 1.5}),
        ([middle], 0, "mean", {"color": palette.BLUE, "ls": "", "marker": "o", "ms": 8, "mec": "black"}),
    )
    for values, below, name, style in marks:
        axes.plot(values, [row + below] * len(values), label=None if row else name, **style)
    over_trainings = interval_in_words((low, high), "no interval over training runs")
    axes.annotate(
        f"{signed(middle)} ({over_trainings})\np after Holm {p:.2g}",
        (1.01, row),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
    )
    cases = interval_in_words(over_cases, "no interval")
    note = f" ({comparison['note']})" if comparison["note"] else ""
    return (
        f"{comparison['arm']} {signed(middle)} ({over_trainings}), over cases alone {cases}, p after Holm {p:.2g}{note}"
    )
