"""Slices of a CT as small images: grey values, coloured overlays, outlines as paths, and a description."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import block_reduce

from dualtask_lite.cases.case import CT_WINDOW, Scan
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.cases.masks import dice
from dualtask_lite.show import outlines, planes
from dualtask_lite.show.overlays import Overlay, overlays
from dualtask_lite.show.picture import Picture

MOST_PIXELS = 256  # along each side of an image; larger slices are averaged
_SIDES = (512, 460)  # px; largest width and height of the stage
_BODY = -500.0  # HU; only air is below
_MARGIN = 3  # voxels kept around the body
_GREYS = 64  # grey levels of 5 HU, finer than the noise of a CT; this halves the size of the images
_DPI = 100
_STRUCTURES = {least: LABELS[least] for least in (1, 2)}  # a tumour voxel belongs to the pancreas too
_OPACITY = {"distance": 128, "difference": 160, "surface": 255}  # of 255; the overlays that are drawn as colours
Box = tuple[slice, slice]  # rows and columns of an image


@dataclass(frozen=True, repr=False)  # megabytes of pictures
class Frame:
    """The images and the description of one slice.

    Attributes:
        index: in the volume, from 0.
        ct: PNG of the grey values.
        images: for each coloured layer, a PNG that is transparent where the layer is 0.
        lines: for each outlined layer, its outlines as an SVG path in voxels of the image.
        text: description of the slice, with its numbers.
    """

    index: int
    ct: bytes
    images: Mapping[str, bytes]
    lines: Mapping[str, str]
    text: str


class Source:
    """The volumes of a browser, cut slice by slice and cropped to the body.

    Args:
        scan: the CT; its label, when it has one, is the truth.
        prediction: labels, (X, Y, Z) of 0, 1, 2.
        distance: signed distance, (X, Y, Z) in mm.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        beside: labels of the other browsers that share the crop.
    """

    def __init__(
        self,
        scan: Scan,
        prediction: NDArray[Any] | None,
        distance: NDArray[Any] | None,
        plane: str,
        beside: Sequence[NDArray[Any]] = (),
    ) -> None:
        self.scan, self.prediction, self.distance, self.plane = scan, prediction, distance, plane
        self.axis = planes.PLANES[plane][0]
        self.count = scan.shape[self.axis]
        self.box = _body(planes.cut(self._projection(beside), scan.spacing, plane, (0, 0, 0))[0])
        self.voxels = (self.box[0].stop - self.box[0].start, self.box[1].stop - self.box[1].start)
        across, up = (s for i, s in enumerate(scan.spacing) if i != self.axis)
        self.size = _fit(self.voxels[1] * across, self.voxels[0] * up)

    @cached_property
    def layers(self) -> list[Overlay]:
        """List the overlays that are drawn as colours."""
        layers = overlays(self.scan, self.prediction, self.distance)
        return [layer for layer in layers if layer.name in _OPACITY]

    def frame(self, index: int, step: int) -> Frame:
        """Make the images and the description of one slice."""
        truth, predicted, distance = (self._cut(v, index) for v in (self.scan.label, self.prediction, self.distance))
        lines = {}
        if truth is not None:
            lines = {name: _path(truth >= least) for least, name in _STRUCTURES.items()}
        if predicted is not None:
            lines["prediction"] = "".join(_path(predicted >= least) for least in _STRUCTURES)
        if distance is not None:
            lines["distance"] = _path(distance < 0)
        text = self._position(index, step) + _contents(truth, predicted, self._pixel())
        images = {layer.name: _colour_png(self._cut(layer.values, index), layer) for layer in self.layers}
        return Frame(index, _ct_png(self._cut(self.scan.volume, index)), images, lines, text)

    def still(self, index: int) -> bytes:
        """Draw one slice as a single PNG, in the same frame as the layers."""
        width, height = self.size
        # Matplotlib 3.9 rounds pixels down, and 460 px converted to inches and back may be 459.99.
        figure = Figure(figsize=((width + 0.01) / _DPI, (height + 0.01) / _DPI), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        at = [0, 0, 0]
        at[self.axis] = index
        planes.draw_ct(axes, self.scan, self.plane, at)
        if self.distance is not None:
            near = np.where(self.distance < planes.BAND, self.distance, np.nan)
            planes.draw_distance(axes, near, self.scan.spacing, self.plane, at).set_alpha(0.5)
        planes.outline_truth(axes, self.scan.label, self.scan.spacing, self.plane, at)
        planes.outline_prediction(axes, self.prediction, self.scan.spacing, self.plane, at)
        self._crop(axes, at)
        return Picture.of(figure, "").png

    def _crop(self, axes: Any, at: list[int]) -> None:
        whole, (left, right, bottom, top) = planes.cut(self.scan.volume, self.scan.spacing, self.plane, at)
        down, across = (top - bottom) / whole.shape[0], (right - left) / whole.shape[1]
        rows, columns = self.box
        axes.set(xlim=(left + columns.start * across, left + columns.stop * across), aspect="auto")
        axes.set(ylim=(top - rows.stop * down, top - rows.start * down))
        axes.set_axis_off()

    def _projection(self, beside: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
        """Project body and labels along the axis; the result is one voxel thick."""
        labels = [label for label in (self.scan.label, self.prediction, *beside) if label is not None]
        masks = [self.scan.volume > _BODY, *(label > 0 for label in labels)]
        return np.any([mask.any(axis=self.axis, keepdims=True) for mask in masks], axis=0)

    def _cut(self, volume: np.ndarray | None, index: int) -> Any:
        """Cut one slice, rows downwards, and crop it; None stays None."""
        if volume is None:
            return None
        return planes.cut(volume, self.scan.spacing, self.plane, (index,) * 3)[0][self.box]

    def _pixel(self) -> float:
        """Area of a voxel in the slice, mm2."""
        return float(np.prod(self.scan.spacing)) / self.scan.spacing[self.axis]

    def _position(self, index: int, step: int) -> str:
        """Describe the number of the slice and the position of its middle in the patient."""
        at = (np.array(self.scan.shape) - 1) / 2
        at[self.axis] = index
        mm = float((self.scan.affine @ [*at, 1])[self.axis])
        skipped = f" (1 of every {step} shown)" if step > 1 else ""
        return f"Slice {index + 1} of {self.count}{skipped}, {'xyz'[self.axis]} = {mm:.1f} mm. "


def _body(mask: NDArray[np.bool_]) -> Box:
    """Find the rows and columns of a mask that are not empty, with a margin; all of an empty mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    first, second = (
        slice(max(0, int(at[0]) - _MARGIN), min(n, int(at[-1]) + 1 + _MARGIN))
        for at, n in zip((rows, columns), mask.shape, strict=True)
    )
    return first, second


def _fit(across: float, down: float) -> tuple[int, int]:
    """Scale mm to px so that a picture of any proportions fits the stage."""
    scale = min(_SIDES[0] / across, _SIDES[1] / down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _factor(voxels: int) -> int:
    """Number of voxels that one pixel averages."""
    return -(-voxels // MOST_PIXELS)


def _pixels(voxels: int) -> int:
    return -(-voxels // _factor(voxels))


def covered(voxels: int) -> float:
    """Ratio of the voxels that the pixels of an image cover to all voxels: slightly above 1 where pixels average."""
    return _pixels(voxels) * _factor(voxels) / voxels


def _shrink(image: NDArray[Any], beyond: float) -> NDArray[Any]:
    """Average an image down to ``MOST_PIXELS``; ``beyond`` fills the part of the last pixel outside it."""
    block = tuple(map(_factor, image.shape))
    shrunk: NDArray[Any] = image if block == (1, 1) else block_reduce(image, block, np.mean, cval=beyond)
    return shrunk


def _ct_png(hu: NDArray[Any]) -> bytes:
    low, high = CT_WINDOW
    share = np.clip((_shrink(hu, low) - low) / (high - low), 0, 1)
    grey = np.rint(share * (_GREYS - 1)).astype(np.uint8)
    ramp = np.repeat(np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8), 3)
    return _png(grey, ramp)


def _colour_png(values: NDArray[np.uint8], layer: Overlay) -> bytes:
    """Colour an overlay of a slice; 0 is transparent."""
    block = tuple(map(_factor, values.shape))
    shrunk = values if block == (1, 1) else block_reduce(values, block, np.max)
    colours = np.array([(0.0, 0.0, 0.0), *map(to_rgb, layer.colours)])
    opacity = bytes([0] + [_OPACITY[layer.name]] * len(layer.colours))
    return _png(shrunk, np.rint(255 * colours).astype(np.uint8).ravel(), opacity)


def _png(levels: NDArray[np.uint8], colours: NDArray[np.uint8], opacity: bytes | None = None) -> bytes:
    image = Image.fromarray(levels)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    options = {} if opacity is None else {"transparency": opacity}
    image.save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def _path(mask: NDArray[np.bool_]) -> str:
    """Write the outlines of a mask as an SVG path in voxels."""
    return "".join(f"M{'L'.join(f'{x} {y}' for x, y in corners[:-1])}Z" for corners in outlines.trace(mask))


def _contents(truth: NDArray[Any] | None, predicted: NDArray[Any] | None, pixel: float) -> str:
    """Describe the areas of truth and prediction in a slice, in mm2, and their Dice."""
    parts = [f"{what}: {', '.join(_areas(labels, truth, pixel))}." for what, labels in _label_maps(truth, predicted)]
    return " ".join(parts) or "No label."


def _label_maps(truth: NDArray[Any] | None, predicted: NDArray[Any] | None) -> Iterator[tuple[str, NDArray[Any]]]:
    if truth is not None:
        yield "Truth", truth
    if predicted is not None:
        yield "Prediction", predicted


def _areas(labels: NDArray[Any], truth: NDArray[Any] | None, pixel: float) -> Iterator[str]:
    for least, name in _STRUCTURES.items():
        mask = labels >= least
        whole = f"{name} with tumour" if (labels[mask] > least).any() else name
        area = f"{whole} {mask.sum() * pixel:.0f} mm²" if mask.any() else f"no {name}"
        if truth is not None and labels is not truth and (mask.any() or (truth >= least).any()):
            area += f" (Dice {dice(mask, truth >= least):.2f})"
        yield area
