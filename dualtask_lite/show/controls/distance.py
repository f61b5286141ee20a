"""The regression target of one lesion, and the error of two wrong definitions in mm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtask_lite.method.distance import from_band, published_distance, signed_distance, to_band
from dualtask_lite.show import palette
from dualtask_lite.show.controls.explorer import Explorer, Frame, Knob, LineStyle, Panel, colours_of, levels_of
from dualtask_lite.show.controls.lesion import lesion

_BANDS = (5.0, 10.0, 20.0, 40.0)  # mm
_THICKNESSES = (1.0, 2.5, 4.0, 5.0, 8.0)  # mm
_FAR = 5.0  # mm; the second outline
_WORST = 10.0  # mm; the error at the ends of the colours
_DEFINITIONS = {
    "mm, in a fixed band": "mm",
    "voxels, in a fixed band": "voxels",
    "by the crop's own maximum (published)": "published",
}
_STYLES = {
    "surface": LineStyle("surface", palette.YELLOW),
    "far": LineStyle(f"true distance {_FAR:g} mm", palette.ORANGE),
    "target": LineStyle(f"target distance {_FAR:g} mm", palette.MAGENTA, "5 4"),
}


class _Slice(NamedTuple):
    """The distances of one mask on the visible plane: rows from the head down, columns."""

    mm: NDArray[np.float32]
    voxels: NDArray[np.float32]
    published: NDArray[np.float64]
    ends: tuple[float, float]  # mm at the voxels with the lowest and the highest published target, in the whole crop


def distance_explorer(mask: NDArray[np.bool_] | None = None, *, spacing: Sequence[float] = (0.8, 0.8, 5.0)) -> Explorer:
    """Show the regression target of a lesion by the right definition and by two wrong ones.

    The coronal plane through the lesion shows the target and its error: the distance of the target minus the true
    distance within the band, in mm. A target in voxels is scaled by the in-plane spacing; a target divided by its own
    maximum, which has no unit, is scaled by the band.

    Args:
        mask: (X, Y, Z) the lesion; by default a synthetic one, sliced at several thicknesses.
        spacing: of the mask, mm; without a mask the last number is the first slice thickness.
    """
    start = float(spacing[2])
    if mask is None:
        thicknesses = sorted({*_THICKNESSES, start})
        masks = {thick: lesion((spacing[0], spacing[1], thick)) for thick in thicknesses}
    else:
        thicker = {start * n: np.asarray(mask)[:, :, (n - 1) // 2 :: n] > 0 for n in (1, 2, 3)}
        masks = {thick: sliced for thick, sliced in thicker.items() if thick == start or sliced.any()}

    @cache
    def sliced(thick: float) -> _Slice:
        return _measure(masks[thick], (spacing[0], spacing[1], thick))

    def draw(thick: float, band: float, definition: str) -> Frame:
        return _frame(sliced(thick), definition, band, spacing[0], thick)

    first = masks[start]
    return Explorer(
        title="One lesion as the target of the regression (coronal plane)",
        knobs=(
            Knob("thick", "Slice thickness", {f"{mm:g} mm": mm for mm in masks}, f"{start:g} mm"),
            Knob("band", "Band", {f"{mm:g} mm": mm for mm in _BANDS}, "20 mm"),
            Knob("definition", "Distance in", _DEFINITIONS, next(iter(_DEFINITIONS)), slides=False),
        ),
        draw=draw,
        styles=_STYLES,
        aspect=first.shape[0] * spacing[0] / (first.shape[2] * start),
        ahead=True,
    )


def _measure(mask: NDArray[np.bool_], spacing: Sequence[float]) -> _Slice:
    widest = int(mask.sum(axis=(0, 2)).argmax())
    mm, voxels, published = signed_distance(mask, spacing), signed_distance(mask, (1, 1, 1)), published_distance(mask)
    ends = float(mm.flat[published.argmin()]), float(mm.flat[published.argmax()])
    first, second, third = (volume[:, widest].T[::-1, ::-1] for volume in (mm, voxels, published))
    return _Slice(first, second, third, ends)


def _frame(shown: _Slice, definition: str, band: float, pixel: float, thick: float) -> Frame:
    truth = from_band(to_band(shown.mm, band), band)
    targets = {
        "mm": to_band(shown.mm, band),
        "voxels": to_band(shown.voxels * pixel, band),
        "published": shown.published,
    }
    target = targets[definition]
    error = from_band(target, band) - truth
    surface, far = (shown.mm, 0.0), (shown.mm, _FAR)
    sizes = np.abs(error)
    lost = float(((shown.mm < 0) & (target >= 0)).sum() / max(1, (shown.mm < 0).sum()))
    numbers = {
        "mean error": f"{sizes.mean():.1f} mm",
        "largest error": f"{sizes.max():.1f} mm",
        "inside without a target": f"{lost:.0%}",
        **_scale(shown, definition, band, pixel, thick),
    }
    words = {
        "mm": f"The target is the true distance up to {band:g} mm and has no error there, at any spacing.",
        "voxels": f"A step to the next slice counts as {pixel:g} mm, although it is {thick:g} mm.",
        "published": "Each side is divided by its own maximum, so a tenth of the target differs in mm between crops.",
    }[definition]
    diverging = colours_of(palette.DISTANCE_MAP)
    return Frame(
        (
            Panel(
                "target",
                levels_of(target, -1, 1),
                diverging,
                ("-1 (inside)", "1"),
                {"surface": surface, "far": far, "target": (from_band(target, band), _FAR)},
            ),
            Panel(
                "error of the target",
                levels_of(error, -_WORST, _WORST),
                colours_of("PuOr"),
                (f"{-_WORST:g} mm (too deep)", f"{_WORST:g} mm (too far)"),
                {"surface": surface},
            ),
        ),
        numbers,
        words,
    )


def _scale(shown: _Slice, definition: str, band: float, pixel: float, thick: float) -> dict[str, str]:
    """The distance in mm of a tenth of the target."""
    first, second, names = {
        "mm": (band, band, ("inside", "outside")),
        "voxels": (band, band * thick / pixel, ("along a slice", "across slices")),
        "published": (-shown.ends[0], shown.ends[1], ("inside", "outside")),
    }[definition]
    return {f"0.1 {names[0]}": f"{first / 10:.2g} mm", f"0.1 {names[1]}": f"{second / 10:.2g} mm"}
