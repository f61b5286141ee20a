"""A training run: its terms, their shares of the gradient, and the validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dualtask_lite.cases.masks import dice
from dualtask_lite.rows import Row
from dualtask_lite.show import outlines, palette
from dualtask_lite.show.figures.parts import METRICS, running_mean, series, shorten, tidy
from dualtask_lite.show.picture import Picture, new_figure

_PARTS = {"": "shared weights", "seg_head": "segmentation head", "distance_head": "distance head"}


class Example(NamedTuple):
    """One axial slice of a validation case, (X, Y) each."""

    image: NDArray[np.float32]  # in [0, 1]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    spacing: tuple[float, float]  # mm
    name: str


def curves(rows: Sequence[Row], example: Example | None = None) -> Picture:
    """Show the progress of a training: every term of the objective, its share of the gradient, and the validation.

    Args:
        rows: the rows of ``metrics.csv`` (numbers or text; empty fields where nothing was measured).
        example: a slice with its truth and its current prediction.
    """
    shares = gradient_shares(rows)
    panels = 2 + bool(shares) + (example is not None)
    figure = new_figure(height=350 if panels == 2 else 300)
    axes_of_panels = iter(figure.subplots(1, panels))
    notes = [f"Training curves. {_draw_terms(terms := next(axes_of_panels), rows)}."]
    if shares:
        notes.append(_draw_shares(axes := next(axes_of_panels), shares))
        axes.set_xlim(terms.get_xlim())
    notes.append(_draw_validation(axes := next(axes_of_panels), rows))
    axes.set_xlim(terms.get_xlim())
    if example is not None:
        notes.append(_draw_example(next(axes_of_panels), example))
    _add_legend(figure, terms)
    return Picture.of(figure, " ".join(notes))


def gradients(rows: Sequence[Row]) -> Picture:
    """Show the share of each term in the gradient over the training, in the shared weights and in each voxel head.

    Args:
        rows: the rows of ``metrics.csv`` of a run with ``machine.gradients_every``.
    """
    measured = {name: shares for part, name in _PARTS.items() if (shares := gradient_shares(rows, part))}
    figure = new_figure(height=330)
    panels = figure.subplots(1, max(1, len(measured)), squeeze=False, sharey=True)[0]
    notes = []
    for axes, (name, shares) in zip(panels, (measured or {"gradient": {}}).items(), strict=True):
        notes.append(f"In the {name}: {_draw_shares(axes, shares)}")
        axes.set_title(name, fontsize=10)
    for axes in panels[1:]:
        axes.set_ylabel("")
    _add_legend(figure, panels[0])
    return Picture.of(figure, " ".join(notes))


def gradient_shares(rows: Sequence[Row], part: str = "") -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Compute for each term its steps, and the norm of its gradient divided by the sum of the norms of all terms.

    A norm has no direction: the norms of terms with opposite gradients still add up.

    Args:
        rows: the rows of ``metrics.csv``.
        part: of the network, ``seg_head`` or ``distance_head``; empty for the weights that both heads share.
    """
    end = f"_{part}" if part else ""
    norms = {name: series(rows, f"grad_{name}{end}") for name in palette.TERMS}
    sums: dict[float, float] = {}
    for steps, values in norms.values():
        for step, value in zip(steps, values, strict=True):
            sums[step] = sums.get(step, 0.0) + value
    return {
        name: (steps, values / np.array([sums[step] or 1.0 for step in steps]))
        for name, (steps, values) in norms.items()
        if steps.size
    }


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Write one legend for all panels below them."""
    lines, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)


def _draw_terms(axes: Axes, rows: Sequence[Row]) -> str:
    notes = []
    for name, (colour, style) in palette.TERMS.items():
        steps, values = series(rows, name)
        if steps.size:
            smooth = running_mean(values, max(1, len(values) // 20))
            axes.plot(steps, values, color=colour, alpha=0.2, lw=0.8)
            axes.plot(steps, smooth, color=colour, ls=style, lw=1.8, label=name)
            notes.append(f"{name} from {smooth[0]:.3g} to {smooth[-1]:.3g}")
    axes.set(title="terms, before weighting", xlabel="step", ylabel="loss", xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    tidy(axes)
    return "; ".join(notes)


def _draw_shares(axes: Axes, shares: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str:
    notes = []
    for name, (steps, values) in shares.items():
        colour, style = palette.TERMS[name]
        axes.plot(
            steps, 100 * values, color=colour, ls=style, lw=1.8, marker="." if len(steps) < 30 else "", label=name
        )
        notes.append(f"{name} from {values[0]:.0%} to {values[-1]:.0%}")
    axes.set(title="share of the gradient", xlabel="step", ylabel="share of the norms (%)", ylim=(0, 100))
    tidy(axes)
    return f"Share of the gradient: {'; '.join(notes) or 'not measured'}."


def _draw_validation(axes: Axes, rows: Sequence[Row]) -> str:
    steps, val_dice = series(rows, "val_dice")
    if steps.size:  # an empty line that is not clipped breaks the layout
        axes.plot(steps, val_dice, "o-", color=palette.BLUE, ms=5, clip_on=False)
    axes.set(title="validation cases", xlabel="step", ylabel=METRICS["dice"][0], ylim=(0, 1))
    tidy(axes)
    summary = f"best {val_dice.max():.2f}, last {val_dice[-1]:.2f}" if val_dice.size else "not measured"
    return f"Validation Dice: {summary}."


def _draw_example(axes: Axes, example: Example) -> str:
    truth, prediction = example.truth, example.prediction
    aspect = example.spacing[1] / example.spacing[0]
    image = example.image.T[::-1, ::-1]
    shown = axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    for mask, colour, style in ((truth, palette.TUMOUR, "-"), (prediction, palette.PREDICTION, "--")):
        outlines.draw(axes, mask.T[::-1, ::-1], shown.get_extent(), colour, style)
    axes.set_title(f"{shorten(example.name)}: truth orange,\nprediction magenta, dashed", fontsize=9)
    axes.set_axis_off()
    area = example.spacing[0] * example.spacing[1]
    overlap = f"Dice {dice(truth, prediction):.2f} in it" if truth.any() or prediction.any() else "nothing in it"
    return (
        f"A slice of {example.name}: truth {np.count_nonzero(truth) * area:.0f} mm², "
        f"prediction {np.count_nonzero(prediction) * area:.0f} mm², {overlap}."
    )
