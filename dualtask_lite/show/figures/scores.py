"""Results of cases, one dot for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dualtask_lite.rows import Row, number
from dualtask_lite.show import palette
from dualtask_lite.show.figures.parts import METRICS, shorten, tidy
from dualtask_lite.show.picture import Picture, new_figure


def scores(rows: Sequence[Row], *, metric: str = "dice", by: str = "centre") -> Picture:
    """Show one dot for each case, the mean of each group, and a line between the dots of a case in several groups.

    Args:
        rows: per-case results with ``case``, the group and the metric; a missing or NaN value is
            not drawn, but counted in the alt text.
        metric: the column to show.
        by: the column that makes the groups, such as ``centre`` or ``protocol``.
    """
    groups = list(dict.fromkeys(str(row[by]) for row in rows))
    colours = palette.centre_colours(groups)
    label, highest = METRICS.get(metric, (metric, None))
    figure = new_figure(height=max(340, 90 + 32 * len(groups)))  # a row for each group, so that all names fit
    axes = figure.subplots()
    notes = []
    dots: dict[str, list[tuple[float, float]]] = {}  # case -> its position in each group
    for line, group in enumerate(groups):
        values = [(number(row.get(metric)), str(row["case"])) for row in rows if str(row[by]) == group]
        shown = sorted((value, case) for value, case in values if math.isfinite(value))
        for rank, (value, case) in enumerate(shown):  # similar values are drawn one above the other
            dots.setdefault(case, []).append((value, line + (rank % 5 - 2) * 0.06))
            axes.plot(*dots[case][-1], "o", color=colours[group], mec="black", mew=0.5, ms=7, alpha=0.8)
        note = _draw_mean(axes, line, np.array([value for value, _ in shown]))
        missing = len(values) - len(shown)
        notes.append(f"{by} {group}: {note}" + (f", {missing} without a value" if missing else ""))
    for joined in dots.values():
        axes.plot(*zip(*joined, strict=True), color=palette.GREY, lw=0.7, alpha=0.6, zorder=1)
    if any(len(joined) > 1 for joined in dots.values()):
        axes.set_title("a grey line joins the same case", fontsize=9)
    axes.set_yticks(range(len(groups)), [shorten(f"{by} {group}", 40) for group in groups])
    axes.set(xlabel=label, xlim=(-0.02, highest and highest + 0.02), ylim=(len(groups) - 0.4, -0.6))
    tidy(axes, "x")
    return Picture.of(figure, f"{label} of each case. " + "; ".join(notes) + ".")


def _draw_mean(axes: Axes, line: int, values: NDArray[np.float64]) -> str:
    """Draw the mean of one group, write it at the end of the line, and describe the group."""
    if not values.size:
        return "no value"
    mean = values.mean()
    axes.plot([mean, mean], [line - 0.35, line + 0.35], color=palette.ink(), lw=2)
    axes.text(1.01, line, f"mean {mean:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    return f"{values.size} cases, mean {mean:.2f}, from {values.min():.2f} to {values.max():.2f}"


def dice_by_volume(rows: Sequence[Row]) -> Picture:
    """Show the Dice of each lesion over its volume; the kinds of lesions differ in colour and marker.

    Args:
        rows: one for each lesion, with ``kind``, ``volume_ml_truth`` (above 0) and ``dice``.
    """
    styles = palette.arm_styles(sorted({str(row["kind"]) for row in rows}))
    figure = new_figure(height=360)
    axes = figure.subplots()
    notes = []
    for kind, (colour, marker) in styles.items():
        lesions = [row for row in rows if row["kind"] == kind]
        volumes = [number(row["volume_ml_truth"]) for row in lesions]
        dice = [number(row["dice"]) for row in lesions]
        axes.plot(volumes, dice, marker, color=colour, mec="black", mew=0.5, ms=8, label=f"{kind} ({len(lesions)})")
        sizes = f"{min(volumes):.3g} to {max(volumes):.3g} ml"
        notes.append(f"{kind}: {len(lesions)} lesions of {sizes}, mean Dice {np.mean(dice):.2f}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="volume of the lesion (ml)", ylabel=METRICS["dice"][0], ylim=(-0.03, 1.03))
    # Inside the axes it looks like more lesions.
    axes.legend(frameon=False, fontsize=9, title="kind of lesion", loc="upper left", bbox_to_anchor=(1, 1))
    tidy(axes, "both")
    return Picture.of(figure, "Dice of each lesion over its volume. " + "; ".join(notes) + ".")
