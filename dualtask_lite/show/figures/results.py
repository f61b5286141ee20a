"""Figures of an ablation: which arm is better, by how much, in which cases, and whether it is more than chance.

Their input comes from ``dualtask ablate``: the rows of ``cases.csv`` and the comparisons of ``summary.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes

from dualtask_lite.rows import Row, number, pairs
from dualtask_lite.show import palette
from dualtask_lite.show.figures.parts import tidy
from dualtask_lite.show.picture import Picture, new_figure

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
            f"{(y - x).mean():+.3f}."
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
    shown = [one for one in comparisons if (one["protocol"], one["metric"]) == (protocol, metric)]
    if not shown:
        raise ValueError(f"there is no comparison of {metric} under {protocol}")
    figure = new_figure(height=170 + 52 * len(shown))
    axes = figure.subplots()
    axes.axvline(0, color=palette.ink(), lw=1)
    if claimed is not None:
        axes.axvline(claimed, color=palette.VERMILLION, lw=1.5, ls=":", label=f"{claimed:+.3f}, as claimed")
    notes = [_draw_arm(axes, place, one) for place, one in enumerate(shown)]
    about, name = shown[0], _NAMES.get(metric, metric)
    counted = f"{about['cases']} cases, {about['trainings']} trainings"
    axes.set_yticks(range(len(shown)), [str(one["arm"]) for one in shown])
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=f"difference in {name} from {about['baseline']}")
    axes.set_title(f"{about['target']}, {protocol}, {counted}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    tidy(axes, "x")
    what = f"Difference in {name} of the {about['target']} from {about['baseline']}, {protocol}, {counted}. "
    return Picture.of(figure, what + "; ".join(notes) + ".")


def _draw_arm(axes: Axes, place: int, one: Row) -> str:
    """Draw both intervals and the seeds of an arm, and describe them; only the first arm adds labels to the legend."""
    middle, p = number(one["difference"]), number(one["p_holm"])
    low, high = map(number, one["hierarchical"])
    over_cases = [number(end) for end in one["interval"]]
    seeds = [number(value) for value in one["by_seed"].values()]
    marks: tuple[tuple[list[float], float, str, dict[str, Any]], ...] = (
        (
            [low, high],
            0,
            "95 % interval over trainings and cases",
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
        axes.plot(values, [place + below] * len(values), label=None if place else name, **style)
    over_trainings = f"{low:+.3f} to {high:+.3f}" if math.isfinite(low) else "no interval over trainings"
    axes.annotate(
        f"{middle:+.3f} ({over_trainings})\np after Holm {p:.2g}",
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
    )
    cases = f"{over_cases[0]:+.3f} to {over_cases[1]:+.3f}" if math.isfinite(over_cases[0]) else "no interval"
    note = f" ({one['note']})" if one["note"] else ""
    return f"{one['arm']} {middle:+.3f} ({over_trainings}), over cases alone {cases}, p after Holm {p:.2g}{note}"


def sensitivity(
    rows: Sequence[Row],
    at: Mapping[str, float | Sequence[int]],
    *,
    arm: str = "full",
    protocol: str = "leave-one-centre-out",
    target: str = "tumour",
    metric: str = "dice",
) -> Picture:
    """Show a result for several values of one setting at a time.

    Args:
        rows: of ``cases.csv``, with the arm itself and the same with other settings (``full+objective.tau=6``).
        at: setting -> its value in the arm itself, a number or a list; one panel for each.
        arm: whose settings were changed.
        protocol: of the rows.
        target: pancreas or tumour.
        metric: a column; a dot is the mean over the cases of one seed, the line the mean over seeds.
    """
    wanted = [row for row in rows if (row["protocol"], row["target"]) == (protocol, target)]
    title = _NAMES.get(metric, metric)
    figure = new_figure(height=330)
    panels = figure.subplots(1, len(at), sharey=True, squeeze=False)[0]
    notes = []
    for axes, (setting, own) in zip(panels, at.items(), strict=True):
        variants = _variants(wanted, arm, setting, own)
        points = [(value, _seed_means(wanted, name, metric)) for name, value in variants.items()]
        notes.append(_draw_setting(axes, setting, own, points))
    panels[0].set_ylabel(f"{title} of the {target}")
    return Picture.of(figure, f"{title} of the {target} with the arm {arm} ({protocol}) by setting. " + " ".join(notes))


def _draw_setting(axes: Axes, setting: str, own: Any, points: Sequence[tuple[Any, list[float]]]) -> str:
    is_number = isinstance(own, (int, float))  # else the values, such as kernel sizes, stand side by side
    places = [value if is_number else place for place, (value, _) in enumerate(points)]
    names = [f"{value:g}" if is_number else ", ".join(map(str, value)) for value, _ in points]
    means = [float(np.mean(seeds)) for _, seeds in points]
    axes.plot(places, means, color=palette.BLUE)
    for place, (_, seeds) in zip(places, points, strict=True):
        axes.plot([place] * len(seeds), seeds, "o", color=palette.BLUE, mec="black", mew=0.5, alpha=0.8)
    axes.axvline(places[[value for value, _ in points].index(own)], color=palette.GREY, ls=":", lw=1)
    axes.set_xticks(places, names)
    axes.set_xlabel(f"{setting}\n(dotted: as in the profile)", fontsize=9)
    tidy(axes, "y")
    values = (", " if is_number else "; ").join(f"{name}: {mean:.3f}" for name, mean in zip(names, means, strict=True))
    return f"{setting} {values}."


def _variants(rows: Sequence[Row], arm: str, setting: str, own: Any) -> dict[str, Any]:
    """The arm itself and the arms that change this setting only -> value of the setting, in the order of the values."""
    values = {arm: own}
    for name in dict.fromkeys(row["arm"] for row in rows):
        if name.startswith(f"{arm}+{setting}=") and name.count("+") == 1:
            values[name] = yaml.safe_load(name.partition("=")[2])
    return dict(sorted(values.items(), key=lambda item: item[1]))


def _seed_means(rows: Sequence[Row], arm: str, metric: str) -> list[float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and math.isfinite(value := number(row[metric])):
            values.setdefault(str(row["seed"]), []).append(value)
    return [float(np.mean(seed_values)) for seed_values in values.values()]
