"""The effect of the scanner and of the patients: the same patients scanned by two hospitals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dualtask_lite.rows import Row, number
from dualtask_lite.show import palette
from dualtask_lite.show.figures.parts import tidy
from dualtask_lite.show.picture import Picture, new_figure

_STYLES = ("-", "--", ":", "-.")


def patients_by_scanner(rows: Sequence[Row], *, target: str = "tumour") -> Picture:
    """Show the mean Dice of each centre's patients with each scanner: a slope is the scanner, a gap the patients.

    Args:
        rows: one for each case and target, with ``patients``, ``scanner`` and ``dice``.
        target: pancreas or tumour.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["target"] == target and math.isfinite(dice := number(row["dice"])):
            values.setdefault((str(row["patients"]), str(row["scanner"])), []).append(dice)
    owners, scanners = (list(dict.fromkeys(key[side] for key in values)) for side in (0, 1))
    means = {key: float(np.mean(cell)) for key, cell in values.items()}
    figure = new_figure(height=400)
    axes = figure.subplots()
    colours = palette.centre_colours(owners)
    left, right = (_spread_labels([means[owner, scanners[end]] for owner in owners]) for end in (0, -1))
    for index, owner in enumerate(owners):
        shift = 0.06 * (index - (len(owners) - 1) / 2)  # separates lines of the same height
        across = [at + shift for at in range(len(scanners))]
        for x, scanner in zip(across, scanners, strict=True):
            cases = values[owner, scanner]
            axes.plot([x] * len(cases), cases, "o", color=colours[owner], alpha=0.35, ms=5, mew=0)
        line = [means[owner, scanner] for scanner in scanners]
        style = _STYLES[index % len(_STYLES)]
        axes.plot(across, line, style, marker="D", color=colours[owner], mec=palette.ink(), ms=9, lw=2.5)
        axes.annotate(f"{line[0]:.2f}", (-0.09, left[index]), va="center", ha="right", fontsize=11)
        last = f"{line[-1]:.2f}, patients of {owner}"
        axes.annotate(last, (len(scanners) - 0.91, right[index]), va="center", fontsize=11)
    axes.set_xticks(range(len(scanners)), [f"scanner of {scanner}" for scanner in scanners], fontsize=11)
    axes.set(xlim=(-0.35, len(scanners) - 0.5), ylim=(-0.03, 1.03), ylabel=f"Dice of the {target} (1 is perfect)")
    axes.set_title("a diamond is a mean, a dot a patient; the same patients at both ends of a line", fontsize=10)
    tidy(axes, "y")
    return Picture.of(figure, _describe(means, {key: len(cell) for key, cell in values.items()}, target))


def _spread_labels(heights: Sequence[float], gap: float = 0.06) -> list[float]:
    """Move labels up where they would overlap; returns their heights."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    return moved


def _describe(means: dict[tuple[str, str], float], counts: dict[tuple[str, str], int], target: str) -> str:
    """Describe all means, then the effect of the scanner on each group, and of the patients with each scanner."""
    cells = [
        f"patients of {owner} with the scanner of {scanner} {mean:.2f} ({counts[owner, scanner]} patients)"
        for (owner, scanner), mean in means.items()
    ]
    owners, scanners = (list(dict.fromkeys(key[side] for key in means)) for side in (0, 1))
    by_scanner = [
        f"{_change(means[owner, scanners[0]], means[owner, scanners[-1]])} for patients of {owner}" for owner in owners
    ]
    by_patients = [
        f"{_change(means[owners[0], scanner], means[owners[-1], scanner])} with the scanner of {scanner}"
        for scanner in scanners
    ]
    return (
        f"Mean Dice of the {target}: {'; '.join(cells)}. From the scanner of {scanners[0]} to that of {scanners[-1]}: "
        f"{', '.join(by_scanner)}. From patients of {owners[0]} to those of {owners[-1]}: {', '.join(by_patients)}."
    )


def _change(before: float, after: float) -> str:
    return f"{round(after - before, 2) + 0.0:+.2f}"  # adding 0 turns -0.00 into +0.00
