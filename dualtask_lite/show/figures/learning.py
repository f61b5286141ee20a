"""Learning curves of an ablation: the Dice of each arm on training, validation and unseen cases over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dualtask_lite.rows import Row, number
from dualtask_lite.show import palette
from dualtask_lite.show.figures.parts import METRICS, tidy
from dualtask_lite.show.picture import Picture, new_figure

#: Column -> name of its cases, in the order of the panels.
_CASES = {
    "train_dice": "training cases",
    "validation_dice": "validation cases",
    "unseen_dice": "the hospital held out",
}


def learning_curves(rows: Sequence[Row]) -> Picture:
    """Show the Dice of each arm over training, and the loss.

    Each held-out hospital has a row of panels with the same scale: training cases, validation cases, and the cases
    of this hospital. A line is the mean over seeds; the band goes from the lowest to the highest seed.

    Args:
        rows: one for each training and step, with ``arm``, ``part`` (the held-out hospital), ``seed``, ``step``,
            ``loss`` (of all terms together), ``train_dice``, ``validation_dice`` and ``unseen_dice``; numbers or text,
            empty fields where nothing was measured.
    """
    styles = palette.arm_styles(str(row["arm"]) for row in rows)
    parts = sorted({str(row["part"]) for row in rows})
    figure = new_figure(height=90 + 200 * (len(parts) + 1))
    *panels, bottom = figure.subplots(len(parts) + 1, len(_CASES), squeeze=False, sharex=True)
    values = [number(row.get(column)) for row in rows for column in _CASES]
    highest = min(1.0, 1.1 * max([value for value in values if value > 0], default=1.0))
    notes = []
    for part, row_of_panels in zip(parts, panels, strict=True):
        part_rows = [row for row in rows if str(row["part"]) == part]
        notes.append(f"Hospital {part} held out: {_draw_dice(row_of_panels, part_rows, styles)}.")
        row_of_panels[0].set_ylabel(f"{part} held out\n{METRICS['dice'][0]}")
        for axes, cases in zip(row_of_panels, _CASES.values(), strict=True):
            axes.set(title=cases, ylim=(0, highest))
    losses, *unused = bottom
    notes.append(f"Training loss: {_draw_loss(losses, rows, styles)}.")
    for axes in unused:
        axes.set_visible(False)
    arms = [Line2D([], [], color=colour, marker=marker, label=arm) for arm, (colour, marker) in styles.items()]
    figure.legend(handles=arms, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return Picture.of(figure, "Learning curves, mean over seeds, from the first to the last step. " + " ".join(notes))


def _draw_dice(panels: Sequence[Axes], rows: Sequence[Row], styles: dict[str, tuple[str, str]]) -> str:
    """Draw the arms of one hospital, a panel for each kind of cases, and describe their first and last values."""
    ranges: dict[str, list[str]] = {arm: [] for arm in styles}
    for axes, (column, cases) in zip(panels, _CASES.items(), strict=True):
        for arm, (colour, marker) in styles.items():
            steps, lowest, means, highest = _over_seeds([row for row in rows if row["arm"] == arm], column)
            if not steps.size:
                continue
            axes.plot(steps, means, color=colour, marker=marker, ms=4, lw=1.6)
            axes.fill_between(steps, lowest, highest, color=colour, alpha=0.15, lw=0)
            ranges[arm].append(f"{cases} {means[0]:.2f} to {means[-1]:.2f}")
        _steps_across(axes)
    return "; ".join(f"{arm} {', '.join(of_arm) or 'not measured'}" for arm, of_arm in ranges.items())


def _draw_loss(axes: Axes, rows: Sequence[Row], styles: dict[str, tuple[str, str]]) -> str:
    notes = []
    for arm, (colour, marker) in styles.items():
        steps, _, means, _ = _over_seeds([row for row in rows if row["arm"] == arm], "loss")
        if steps.size:
            axes.plot(steps, means, color=colour, marker=marker, ms=4, lw=1.6)
            notes.append(f"{arm} {means[0]:.3g} to {means[-1]:.3g}")
    axes.set(title="loss of all terms", ylabel="mean over hospitals", ylim=(0, None))
    _steps_across(axes)
    return "; ".join(notes) or "not measured"


def _over_seeds(rows: Sequence[Row], column: str) -> tuple[NDArray[np.float64], ...]:
    """Steps with values of a column, and the lowest, mean and highest value at each."""
    values: dict[float, list[float]] = {}
    for row in rows:
        if math.isfinite(value := number(row.get(column))):
            values.setdefault(number(row["step"]), []).append(value)
    table = [(step, min(at), float(np.mean(at)), max(at)) for step, at in sorted(values.items())]
    return tuple(np.array(table, dtype=np.float64).reshape(-1, 4).T)


def _steps_across(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_tick_params(labelbottom=True)
    tidy(axes)
