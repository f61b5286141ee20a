"""Figures on the reliability of a score or a prediction: leaks, warnings, errors in mm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.show import palette, planes
from dualtask_lite.show.figures import FIELD, Row
from dualtask_lite.show.figures.parts import tidy
from dualtask_lite.show.picture import Picture, new_figure

ERRORS = "cividis"  # of errors and differences in mm, from 0; even in lightness, safe for colour-blind readers
FAR = 20.0  # mm; larger errors look the same
_STYLES = ((palette.BLUE, "-"), (palette.VERMILLION, "--"), (palette.GREEN, "-."), (palette.MAGENTA, ":"))


def leaks(rows: Sequence[Row]) -> Picture:
    """Show for each leak the score that it reports and the honest one.

    Args:
        rows: one for each leak, with ``leak``, ``reported Dice`` and ``honest Dice``.
    """
    figure = new_figure(height=110 + 55 * len(rows))
    axes = figure.subplots()
    notes = []
    for line, row in enumerate(rows):
        honest, reported = row["honest Dice"], row["reported Dice"]
        axes.plot([honest, reported], [line, line], color=palette.GREY, lw=2, zorder=1)
        axes.plot(honest, line, "o", color=palette.BLUE, ms=10, label=None if line else "honest")
        axes.plot(reported, line, "D", color=palette.VERMILLION, ms=9, label=None if line else "reported")
        axes.annotate(f"{reported - honest:+.2f}", (max(honest, reported) + 0.02, line), va="center", fontsize=9)
        notes.append(f"{row['leak']}: reported {reported:.2f}, honest {honest:.2f}")
    axes.set_yticks(range(len(rows)), [str(row["leak"]) for row in rows])
    axes.set(xlabel="mean Dice", xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.6))
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))  # inside, it looks like a leak
    tidy(axes, "both")
    return Picture.of(figure, "Mean Dice as a leak reports it, and the honest one. " + "; ".join(notes) + ".")


def thresholds(
    tried: Sequence[float], on_test: Sequence[float], on_validation: Sequence[float], default: float
) -> Picture:
    """Show the mean Dice at each threshold, on the test centre and on validation cases, and the best threshold of each.

    Args:
        tried: the thresholds.
        on_test: mean Dice of the test cases at each.
        on_validation: mean Dice of the validation cases at each.
        default: the threshold of the settings.
    """
    figure = new_figure(height=330)
    axes = figure.subplots()
    notes = []
    for (colour, style), name, dice in zip(
        _STYLES, ("test centre", "validation cases"), (on_test, on_validation), strict=False
    ):
        best = int(np.argmax(dice))
        axes.plot(tried, dice, color=colour, ls=style, lw=1.8, label=f"{name}, best at {tried[best]:g}")
        axes.plot(tried[best], dice[best], "o", color=colour, ms=8)
        notes.append(f"{name}: best at {tried[best]:g} with {dice[best]:.2f}, from {min(dice):.2f} to {max(dice):.2f}")
    axes.axvline(default, color=palette.GREY, ls=":", label=f"setting, {default:g}")
    axes.set(xlabel="threshold of the probability", ylabel="mean Dice", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=9)
    tidy(axes, "both")
    return Picture.of(figure, f"Mean Dice by threshold; the setting is {default:g}. " + "; ".join(notes) + ".")


def warning_against_error(rows: Sequence[Row], warning: str, label: str, correlation: float) -> Picture:
    """Show the error of each case against its warning.

    Args:
        rows: one for each case, with ``case``, ``centre``, ``risk`` and the warning.
        warning: the column of the warning.
        label: description of the warning, for the axis.
        correlation: of warning and risk (Spearman).
    """
    figure = new_figure(height=380)
    axes = figure.subplots()
    colours = palette.centre_colours(str(row["centre"]) for row in rows)
    for centre, colour in colours.items():
        of_centre = [row for row in rows if str(row["centre"]) == centre]
        x, y = ([float(row[key]) for row in of_centre] for key in (warning, "risk"))
        axes.plot(x, y, "o", color=colour, mec="black", mew=0.5, ms=8, alpha=0.85, label=f"centre {centre}")
    highest, worst = (max(rows, key=lambda row: float(row[key])) for key in (warning, "risk"))
    axes.set(xlabel=label, ylabel="error (1 - Dice)", ylim=(-0.04, 1.04))
    related = f"Spearman {correlation:.2f}" if math.isfinite(correlation) else "Spearman not defined"
    only_centre = f" of centre {next(iter(colours))}" if len(colours) == 1 else ""
    axes.set_title(f"{related} over {len(rows)} cases{only_centre}", fontsize=10)
    if not only_centre:  # a legend with a single entry would look like one more case
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    tidy(axes, "both")
    extremes = [
        f"{name} is case {row['case']} (warning {float(row[warning]):.2g}, error {float(row['risk']):.2f})"
        for name, row in (("the highest warning", highest), ("the largest error", worst))
    ]
    return Picture.of(
        figure,
        f"Error against the warning ({label}), {len(rows)} cases, {related}: {'; '.join(extremes)}.",
    )


def risk_coverage(curves: Mapping[str, Sequence[float]], perfect: Sequence[float]) -> Picture:
    """Show how the mean error falls when an expert takes over the cases with the highest warnings.

    Args:
        curves: description of a warning -> mean error of the 1, 2, ... n cases with the lowest warnings.
        perfect: the same for a warning that equals the error.
    """
    figure = new_figure(height=460)
    axes = figure.subplots()
    kept = np.arange(1, len(perfect) + 1) / len(perfect)
    for (name, risk), (colour, style) in zip(curves.items(), cycle(_STYLES), strict=False):
        axes.plot(kept, risk, color=colour, ls=style, lw=1.8, label=f"{name}: area {np.mean(risk):.2f}")
    axes.plot(kept, perfect, color=palette.ink(), lw=1.2, label=f"perfect: area {np.mean(perfect):.2f}")
    axes.axhline(perfect[-1], color=palette.GREY, ls=":", label=f"useless: area {perfect[-1]:.2f}")
    axes.set(xlabel="share of the cases kept", ylabel="mean error (1 - Dice) of the cases kept")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    tidy(axes, "both")
    areas = [f"{name} {np.mean(risk):.2f}" for name, risk in curves.items()]
    return Picture.of(
        figure,
        f"Mean error of the cases kept, by share kept, {len(perfect)} cases. Area under the curve: {', '.join(areas)}, "
        f"perfect {np.mean(perfect):.2f}, useless {perfect[-1]:.2f}.",
    )


def where_wrong(
    scan: Scan,
    prediction: NDArray[Any],
    least: int,
    *,
    error: NDArray[Any] | None = None,
    doubt: NDArray[Any] | None = None,
) -> Picture:
    """Show on one axial slice the error of the predicted surface, and beside it the difference of the heads.

    Args:
        scan: the CT, with its label when it has one.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2.
        least: the structure: 2 tumour, 1 pancreas with its tumour.
        error: (X, Y, Z), mm from the predicted surface to the true one; NaN outside the predicted surface.
        doubt: (X, Y, Z), mm by which the two heads' distances differ.
    """
    at = _slice_through(scan, prediction, least)
    panels = [(error, "predicted surface: mm from the true one"), (doubt, "difference of the heads' distances (mm)")]
    shown = [(values, title) for values, title in panels if values is not None]
    figure = new_figure(height=430)
    notes = []
    all_axes = figure.subplots(1, len(panels))  # a single panel is drawn on the left, with empty axes beside it
    used, unused = all_axes[: len(shown)], all_axes[len(shown) :]
    for axes in unused:
        axes.set_visible(False)
    for axes, (values, title) in zip(used, shown, strict=True):
        planes.draw_ct(axes, scan, "axial", at, FIELD)
        drawn = _overlay(axes, values if values is error else np.where(values > 0.5, values, np.nan), scan, at)
        planes.outline_truth(axes, scan.label, scan.spacing, "axial", at)
        if values is not error:
            planes.outline_prediction(axes, prediction, scan.spacing, "axial", at)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"mm, axial slice {at[2] + 1} of {scan.shape[2]}", fontsize=9)
        measured = values[np.isfinite(values)] if values is error else values[values > 0]
        notes.append(f"{title}: {_spread_in_words(measured)}")
    figure.colorbar(drawn, ax=list(used), label="mm", extend="max", shrink=0.8)
    return Picture.of(figure, f"Case {scan.id}, {LABELS[least]}, axial slice {at[2] + 1}. {'; '.join(notes)}.")


def _overlay(axes: Any, values: NDArray[Any], scan: Scan, at: Sequence[int]) -> Any:
    image, extent = planes.cut(values, scan.spacing, "axial", at)
    view = axes.get_xlim(), axes.get_ylim()
    drawn = axes.imshow(image, extent=extent, cmap=ERRORS, vmin=0, vmax=FAR, interpolation="nearest", alpha=0.85)
    axes.set(xlim=view[0], ylim=view[1])
    return drawn


def _slice_through(scan: Scan, prediction: NDArray[Any], least: int) -> tuple[int, ...]:
    """Find the voxel to cut through: on the slice with most of the prediction, else of the truth."""
    for labels in (prediction, scan.label):
        if labels is not None and (found := labels >= least).any():
            z = int(found.sum(axis=(0, 1)).argmax())
            x, y = (int(i) for i in np.argwhere(found[:, :, z]).mean(axis=0).round())
            return x, y, z
    return tuple(n // 2 for n in scan.shape)


def _spread_in_words(values: NDArray[Any]) -> str:
    if not values.size:
        return "nothing to measure"
    middle, high = np.percentile(values, (50, 95))
    return f"median {middle:.1f}, 95 of 100 below {high:.1f}"
