"""Small figures that explain an idea: images and numbers on a grid, lines over an axis; each with alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from dualtask_lite.show import outlines, palette
from dualtask_lite.show.figures.parts import tidy
from dualtask_lite.show.picture import WIDTH, Picture, new_figure

_COLOURS = (palette.BLUE, palette.ORANGE, palette.GREEN, palette.MAGENTA, palette.SKY, palette.VERMILLION)
_STYLES = ("-", "--", "-.", ":")
_MAPS = {"grey": "gray", "signed": palette.DISTANCE_MAP, "amount": "cividis"}


def panels(
    images: Mapping[str, NDArray[Any]],
    caption: str,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    colours: str = "grey",
    limits: tuple[float, float] | None = None,
    outline: NDArray[Any] | None = None,
    numbers: bool = False,
    unit: str = "",
) -> Picture:
    """Show images side by side on one colour scale, with their true proportions.

    Args:
        images: name -> (rows, columns), rows downwards; all of one shape. Among ``signed`` colours, one without
            a sign (a mask, bool or uint8) is grey.
        caption: of the figure; the alt text begins with it.
        spacing: of a column and of a row.
        colours: ``grey``, ``signed`` (blue below 0, red above, white at 0) or ``amount``.
        limits: values of the darkest and the lightest colour; by default the range of the images.
        outline: (rows, columns), a mask to outline on all images.
        numbers: write the value into each pixel, for images of few pixels.
        unit: of the values.
    """
    values = np.stack([np.asarray(image, dtype=float) for image in images.values()])
    rows, columns = values.shape[1:]
    across, down = columns * spacing[0], rows * spacing[1]
    low, high = limits or (float(values.min()), float(values.max()))
    if colours == "signed" and limits is None:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    figure = new_figure(height=float(np.clip(WIDTH / len(values) * down / across + (45 if numbers else 75), 170, 620)))
    extent = (0.0, across, down, 0.0)
    scale = ScalarMappable(Normalize(low, high), _MAPS[colours])
    for axes, (name, image) in zip(figure.subplots(1, len(values), squeeze=False)[0], images.items(), strict=True):
        is_mask = colours == "signed" and np.asarray(image).dtype.kind in "bu"
        style = {"cmap": _MAPS["grey"]} if is_mask else {"cmap": scale.cmap, "norm": scale.norm}
        drawn = axes.imshow(image, **style, extent=extent, interpolation="nearest")
        if outline is not None:
            outlines.draw(axes, outline, extent, palette.ORANGE)
        if numbers:
            _write_numbers(axes, np.asarray(image), spacing, drawn)
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=10)
    if not numbers:
        figure.colorbar(scale, ax=figure.axes, label=unit, shrink=0.8)
    ranges = "; ".join(f"{name}: from {np.min(v):.3g} to {np.max(v):.3g}" for name, v in images.items())
    return Picture.of(figure, f"{caption} {ranges}{f' {unit}' if unit else ''}.")


def _write_numbers(axes: Axes, image: NDArray[Any], spacing: Sequence[float], drawn: AxesImage) -> None:
    for (row, column), value in np.ndenumerate(image):
        position = ((column + 0.5) * spacing[0], (row + 0.5) * spacing[1])
        colour = palette.ink_on(drawn.to_rgba(value)[:3])
        text = f"{value:.1f}" if image.dtype.kind == "f" else f"{value:d}"
        axes.text(*position, text, ha="center", va="center", fontsize=8, color=colour)


def lines(
    x: Sequence[float] | NDArray[Any],
    series: Mapping[str, Sequence[float] | NDArray[Any]],
    caption: str,
    *,
    across: str,
    up: str,
    marks: Mapping[str, float] | None = None,
) -> Picture:
    """Draw lines over one axis; they differ in style as well as in colour.

    Args:
        x: positions of the values.
        series: name -> one value for each of ``x``.
        caption: of the figure; the alt text begins with it.
        across: label of the horizontal axis, with its unit.
        up: label of the vertical axis, with its unit.
        marks: name -> position of a dotted line on the horizontal axis.
    """
    figure = new_figure(height=340)
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        style, colour = _STYLES[number % len(_STYLES)], _COLOURS[number % len(_COLOURS)]
        width = 1.6 + 0.4 * (len(series) - 1 - number)  # thinner than those below it, so that equal lines are all seen
        axes.plot(x, values, color=colour, ls=style, lw=width, label=name)
    for name, position in (marks or {}).items():
        axes.axvline(position, color=palette.GREY, ls=":", lw=1)
        axes.annotate(
            name,
            (position, 0),
            (4, 4),
            ("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
            color=palette.GREY,
        )
    axes.set(xlabel=across, ylabel=up)
    tidy(axes)
    axes.legend(frameon=False, fontsize=9, handlelength=3.5)  # long enough for dashes and dots
    first, last = float(x[0]), float(x[-1])
    summary = "; ".join(
        f"{name}: {v[0]:.3g} at {first:.3g}, {v[-1]:.3g} at {last:.3g}, between {np.min(v):.3g} and {np.max(v):.3g}"
        for name, v in series.items()
    )
    return Picture.of(figure, f"{caption} {up} over {across}. {summary}.")
