"""The effect of the temperature on the conversion between the outputs of the two tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dualtask_lite.method.convert import (
    distance_to_probability,
    gradient_alive,
    logit_to_distance,
    threshold_conversion,
)
from dualtask_lite.method.distance import BAND, signed_distance
from dualtask_lite.show import palette
from dualtask_lite.show.controls.explorer import Explorer, Frame, Knob, LineStyle, Panel, colours_of, levels_of
from dualtask_lite.show.controls.lesion import lesion

_TAUS = (0.0, 0.0133, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # mm; 0 is the hard threshold
_SOFT = 2.0  # mm; over this distance the odds of the example logits fall by a factor of e
_LEAST, _MOST = -6.0, 1.0  # powers of ten of the gradient at the ends of the colours
_NO_GRADIENT = np.zeros((1, 3), np.uint8)  # black
_DIRECTIONS = {"distance → mask": "mask", "mask → distance": "distance"}
_STYLES = {
    "surface": LineStyle("true surface", palette.YELLOW),
    "found": LineStyle("surface of the result", palette.MAGENTA, "5 4"),
}


def conversion_explorer(
    mask: NDArray[np.bool_] | None = None, *, spacing: Sequence[float] = (0.8, 0.8, 0.8), band: float = BAND
) -> Explorer:
    """Convert a distance to a mask or a mask to a distance, and show where the conversion passes a gradient.

    The input is the true distance, or logits of which the distance is exactly ``-2 mm * logit``.

    Args:
        mask: (X, Y, Z) the lesion; by default a synthetic one.
        spacing: of the mask, mm.
        band: mm, at which the converted distance is clipped.
    """
    lesion_mask = lesion(spacing) if mask is None else np.asarray(mask) > 0
    widest = int(lesion_mask.sum(axis=(0, 2)).argmax())
    shown = np.ascontiguousarray(signed_distance(lesion_mask, spacing)[:, widest].T[::-1, ::-1])
    truth = torch.from_numpy(shown).double()

    def draw(direction: str, tau: float) -> Frame:
        return _to_mask(truth, tau) if direction == "mask" else _to_distance(truth, tau, band)

    taus = {f"{mm:g} mm" if mm else "hard": mm for mm in _TAUS}
    return Explorer(
        title="Conversion between the tasks, and its gradient (coronal plane)",
        knobs=(
            Knob("direction", "Direction", _DIRECTIONS, "distance → mask", slides=False),
            Knob("tau", "Temperature tau", taus, "1 mm"),
        ),
        draw=draw,
        styles=_STYLES,
        aspect=lesion_mask.shape[0] * spacing[0] / (lesion_mask.shape[2] * spacing[2]),
        ahead=True,
    )


def _to_mask(truth: torch.Tensor, tau: float) -> Frame:
    def convert(distance: torch.Tensor) -> torch.Tensor:
        return distance_to_probability(distance, tau) if tau else threshold_conversion(distance)

    result = convert(truth).numpy()
    blur = float(((result > 0.05) & (result < 0.95)).mean())
    return _frame(
        (Panel("in: distance", levels_of(truth.numpy(), -BAND, BAND), colours_of(palette.DISTANCE_MAP), _mm(BAND)),),
        Panel("out: probability of the mask", levels_of(result, 0, 1), colours_of("gray"), ("0", "1")),
        (result, 0.5),
        truth,
        convert,
        truth,
        {"between 0.05 and 0.95": f"{blur:.0%}"},
        f"Distance to mask, {_temperature(tau)}.",
    )


def _to_distance(truth: torch.Tensor, tau: float, band: float) -> Frame:
    def convert(logit: torch.Tensor) -> torch.Tensor:
        return logit_to_distance(logit, tau, band)

    logit = -truth / _SOFT
    result = convert(logit).numpy()
    error = np.abs(result - truth.clamp(-band, band).numpy())
    probability = torch.sigmoid(logit).numpy()
    return _frame(
        (Panel("in: probability of the mask", levels_of(probability, 0, 1), colours_of("gray"), ("0", "1")),),
        Panel("out: distance", levels_of(result, -band, band), colours_of(palette.DISTANCE_MAP), _mm(band)),
        (-result, 0.0),
        truth,
        convert,
        logit,
        {"mean error of the distance": f"{error.mean():.1f} mm"},
        f"Mask to distance, {_temperature(tau)}; the temperature of the logits is {_SOFT:g} mm.",
    )


def _frame(
    before: Sequence[Panel],
    after: Panel,
    found: tuple[NDArray[np.float64], float],
    truth: torch.Tensor,
    convert: Callable[[torch.Tensor], torch.Tensor],
    source: torch.Tensor,
    numbers: dict[str, str],
    words: str,
) -> Frame:
    without = 1 - gradient_alive(convert, source)
    size = _gradient(convert, source)
    level = levels_of(np.log10(np.maximum(size, 1e-300)), _LEAST, _MOST)
    level = np.where(size > 10**_LEAST, np.maximum(level, 1), 0).astype(np.uint8)
    colours = np.concatenate([_NO_GRADIENT, colours_of("viridis")[1:]])
    # No outline here: its yellow looks like the largest gradient.
    gradient = Panel("gradient back (log scale)", level, colours, (f"none: 1e{_LEAST:.0f}", f"{10**_MOST:g}"))
    surface = {"surface": (truth.numpy(), 0.0)}
    return Frame(
        (
            *(panel._replace(lines=surface) for panel in before),
            after._replace(lines={**surface, "found": found}),
            gradient,
        ),
        {"voxels without a gradient": f"{without:.1%}", "largest gradient": f"{size.max():.3g}", **numbers},
        f"{words} {without:.0%} of the voxels get no gradient (10⁻⁶ or less) and learn nothing.",
    )


def _gradient(convert: Callable[[torch.Tensor], torch.Tensor], source: torch.Tensor) -> NDArray[np.float64]:
    leaf = source.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(convert(leaf).sum(), leaf)
    return np.abs(gradient.numpy())


def _mm(band: float) -> tuple[str, str]:
    return f"{-band:g} mm (inside)", f"{band:g} mm"


def _temperature(tau: float) -> str:
    return f"tau {tau:g} mm" if tau else "by a hard threshold"
