"""A slice browser that needs no kernel and no network: pictures made ahead and a slider.

The kernel is asked for nothing while the reader moves, so a step takes one frame of the screen, and the page
that is built from a notebook browses like the notebook itself. Where scripts do not run there is still a picture
of one slice.
"""

from __future__ import annotations

import base64
import html
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import block_reduce, find_contours

from dualtask_lite.cases.case import CT_WINDOW, LABELS, Scan
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import palette, planes
from dualtask_lite.show.picture import Picture

MOST_PIXELS = 256  # across and down a picture; more is averaged
MOST_SLICES = 64  # more are skipped
_SIDES = (512, 460)  # px; the largest stage
_BODY = -500.0  # HU; only air is darker
_MARGIN = 3  # voxels kept around the body
_GREYS = 64  # steps of 5 HU, finer than the noise of a CT; halves what the pictures weigh
_DPI = 100
_STRUCTURES = {least: LABELS[least] for least in (1, 2)}  # a tumour voxel is one of the pancreas too
_LINES = {  # layer: (its words, colour, width in px, dashes)
    "pancreas": ("pancreas (truth)", palette.PANCREAS, 1.5, ""),
    "tumour": ("tumour (truth, thick)", palette.TUMOUR, 3.0, ""),
    "prediction": ("prediction (dashed)", palette.PREDICTION, 2.0, "6 4"),
    "distance": (f"signed distance (to {planes.BAND:g} mm; zero dotted)", palette.BLACK, 1.5, "1 3"),
}
_OWN_KEYS = "data-lm-suppress-shortcuts"  # JupyterLab moves between cells by arrow keys, except in such elements
_SIDE_NAMES = {"R": "right", "A": "front"}
Box = tuple[slice, slice]  # rows and columns of an image


@dataclass(frozen=True, repr=False)  # megabytes of pictures
class Frame:
    """One slice, ready to be shown.

    Attributes:
        index: in the volume, from 0.
        ct: PNG of the grey values.
        distance: PNG of the signed distance, transparent beyond the band; or None.
        lines: for each layer, its outlines as an SVG path in half voxels of the picture.
        text: what the slice shows, with its numbers.
    """

    index: int
    ct: bytes
    distance: bytes | None
    lines: Mapping[str, str]
    text: str


@dataclass(frozen=True, repr=False)  # megabytes of pictures
class SliceBrowser:
    """Slices that a reader steps through; shown by a notebook and by the page built from it.

    Attributes:
        title: what is browsed.
        frames: the slices shown.
        start: the frame shown first.
        still: that frame as one picture, for where scripts do not run.
        voxels: rows and columns of the part of the slice that is shown.
        size: width and height of the stage, px; in the proportions of the body.
        letters: the patient's sides at left, right, top and bottom.
    """

    title: str
    frames: tuple[Frame, ...]
    start: int
    still: Picture
    voxels: tuple[int, int]
    size: tuple[int, int]
    letters: str

    def to_html(self) -> str:
        """Write a ``figure`` element that holds all it needs."""
        root = f"slices-{uuid.uuid4().hex[:12]}"  # a new one each time: the same browser may be shown twice
        frames = [
            {"ct": _url(f.ct), "distance": f.distance and _url(f.distance), "lines": f.lines, "text": f.text}
            for f in self.frames
        ]
        data = json.dumps(frames).replace("<", "\\u003c")
        return (
            f'<figure class="dualtask-slices" id="{root}"><style>{_beside(".css", "COLOURS", _scale_colours())}</style>'
            f"<figcaption>{html.escape(self.title)}</figcaption>"
            f"{self._stage()}{self._controls()}"
            f'<p class="words" aria-live="polite">{html.escape(self.frames[self.start].text)}</p>'
            f'<script type="application/json">{data}</script><script>{_beside(".js", "ROOT", root)}</script></figure>'
        )

    def __str__(self) -> str:
        size = len(self.to_html().encode()) / 1e6
        return f"{self.title}, {size:.1f} MB. It starts at: {self.frames[self.start].text}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": str(self)}

    def _stage(self) -> str:
        """Write the picture with its layers and letters."""
        (rows, columns), (width, height) = self.voxels, self.size
        share = [100 * _pixels(n) * _factor(n) / n for n in (columns, rows)]  # the last pixel may reach over the edge
        under_first = sorted(self._layers(), key=lambda layer: layer != "distance")
        paths = "".join(_paths(layer) for layer in under_first)
        letters = "".join(f'<b class="side{i}">{s}</b>' for i, s in enumerate(self.letters))
        return (
            f'<div class="stage" style="width: {width}px; aspect-ratio: {width} / {height}; '
            f'--across: {share[0]:.4f}%; --down: {share[1]:.4f}%">'
            f'<img class="still" alt="{html.escape(self.still.alt)}" width="{width}" height="{height}" '
            f'src="{_url(self.still.png)}">'
            f'<div hidden aria-hidden="true"><svg viewBox="0 0 {2 * columns} {2 * rows}" preserveAspectRatio="none">'
            f"{paths}</svg>{letters}</div></div>"
        )

    def _controls(self) -> str:
        """Write slider and checkboxes; the script shows them, as they do nothing without it."""
        boxes = "".join(
            f'<label><input type="checkbox" checked data-layer="{layer}" {_OWN_KEYS}>'
            f'<svg width="28" height="8" aria-hidden="true">'
            f'<path d="M0 4H28" {_pen(layer)}/></svg> {html.escape(_LINES[layer][0])}</label>'
            for layer in self._layers()
        )
        scale = ""
        if "distance" in self._layers():
            scale = f'<p class="scale">{-planes.BAND:g} mm (inside) <i></i> {planes.BAND:g} mm (outside)</p>'
        fieldset = f"<fieldset><legend>Show</legend>{boxes}{scale}</fieldset>" if boxes else ""
        return (
            f'<div class="controls" hidden><label class="slider">Slice <input type="range" min="0" '
            f'max="{len(self.frames) - 1}" step="1" value="{self.start}" {_OWN_KEYS}></label>{fieldset}</div>'
        )

    def _layers(self) -> list[str]:
        return [layer for layer in _LINES if layer in self.frames[0].lines]


def slices(
    scan: Scan,
    *,
    prediction: np.ndarray | None = None,
    distance: np.ndarray | None = None,
    plane: str = "axial",
    name: str = "",
) -> SliceBrowser:
    """Make a browser of a CT's slices with the outlines of truth and prediction.

    It starts at the slice with the most tumour, else the most pancreas, else in the middle. At most
    ``MOST_SLICES`` slices of ``MOST_PIXELS`` pixels are kept, cropped to the body.

    Args:
        scan: the CT, (X, Y, Z) in RAS+ order; its label, when it has one, is the truth.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2.
        distance: signed distance, (X, Y, Z) in mm, negative inside.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        name: what the caption calls the case; its id when left out.

    Raises:
        DualTaskError: for an array of another shape than the CT, or an unknown plane.
    """
    if plane not in planes.PLANES:
        raise DualTaskError(f"there is no plane {plane!r}", f"choose one of {', '.join(planes.PLANES)}")
    for what, array in (("prediction", prediction), ("distance", distance)):
        if array is not None and array.shape != scan.shape:
            raise DualTaskError(
                f"the {what} has shape {array.shape}, the CT {scan.shape}", "give it on the grid of the CT"
            )
    source = _Source(scan, prediction, distance, plane)
    first = _start(scan.label if scan.label is not None else prediction, source.axis, source.count)
    step = -(-source.count // MOST_SLICES)
    shown = range(first % step, source.count, step)
    frames = tuple(source.frame(index, step) for index in shown)
    start = shown.index(first)
    return SliceBrowser(
        title=_title(scan, plane, name, len(shown), source.count),
        frames=frames,
        start=start,
        still=Picture(source.still(first), f"{plane.capitalize()} CT slice. {frames[start].text}"),
        voxels=source.voxels,
        size=source.size,
        letters=planes.PLANES[plane][1],
    )


class _Source:
    """The volumes of a browser, cut slice by slice and cropped to the body."""

    def __init__(self, scan: Scan, prediction: np.ndarray | None, distance: np.ndarray | None, plane: str) -> None:
        self.scan, self.prediction, self.distance, self.plane = scan, prediction, distance, plane
        self.axis = planes.PLANES[plane][0]
        self.count = scan.shape[self.axis]
        self.box = _body(planes.cut(self._seen(), scan.spacing, plane, (0, 0, 0))[0])
        self.voxels = (self.box[0].stop - self.box[0].start, self.box[1].stop - self.box[1].start)
        across, up = (s for i, s in enumerate(scan.spacing) if i != self.axis)
        self.size = _fit(self.voxels[1] * across, self.voxels[0] * up)

    def frame(self, index: int, step: int) -> Frame:
        """Make everything of one slice."""
        truth, found, distance = (self._cut(v, index) for v in (self.scan.label, self.prediction, self.distance))
        lines = {}
        if truth is not None:
            lines = {name: _path(truth >= least) for least, name in _STRUCTURES.items()}
        if found is not None:
            lines["prediction"] = "".join(_path(found >= least) for least in _STRUCTURES)
        if distance is not None:
            lines["distance"] = _path(distance < 0)
        text = self._place(index, step) + _contents(truth, found, self._pixel())
        colours = None if distance is None else _distance_png(distance)
        return Frame(index, _ct_png(self._cut(self.scan.volume, index)), colours, lines, text)

    def still(self, index: int) -> bytes:
        """Draw one slice as a single PNG, in the same frame as the layers."""
        width, height = self.size
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
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

    def _seen(self) -> NDArray[np.bool_]:
        """Project what must be shown along the axis; the result is one voxel thick."""
        seen = [self.scan.volume > _BODY, *(v > 0 for v in (self.scan.label, self.prediction) if v is not None)]
        return np.any([mask.any(axis=self.axis, keepdims=True) for mask in seen], axis=0)

    def _cut(self, volume: np.ndarray | None, index: int) -> Any:
        """Cut one slice, rows downwards, and crop it; None stays None."""
        if volume is None:
            return None
        return planes.cut(volume, self.scan.spacing, self.plane, (index,) * 3)[0][self.box]

    def _pixel(self) -> float:
        """Area of a voxel in the slice, mm2."""
        return float(np.prod(self.scan.spacing)) / self.scan.spacing[self.axis]

    def _place(self, index: int, step: int) -> str:
        """Say which slice it is and where its middle lies in the patient."""
        at = (np.array(self.scan.shape) - 1) / 2
        at[self.axis] = index
        mm = float((self.scan.affine @ [*at, 1])[self.axis])
        skipped = f" (1 of every {step} shown)" if step > 1 else ""
        return f"Slice {index + 1} of {self.count}{skipped}, {'xyz'[self.axis]} = {mm:.1f} mm. "


def _title(scan: Scan, plane: str, name: str, shown: int, count: int) -> str:
    side = _SIDE_NAMES[planes.PLANES[plane][1][0]]
    many = f"{count}" if shown == count else f"{shown} of {count}"
    thick = scan.spacing[planes.PLANES[plane][0]]
    low, high = CT_WINDOW
    return (
        f"{name or scan.id}: {many} {plane} slices of {thick:.3g} mm, CT window {low:g} to {high:g} HU, "
        f"the patient's {side} is on the left of the picture"
    )


def _start(labels: np.ndarray | None, axis: int, count: int) -> int:
    """Find the slice with the most tumour, else the most pancreas, else the middle one."""
    others = tuple(i for i in range(3) if i != axis)
    for least in (2, 1):
        if labels is not None and (areas := (labels >= least).sum(axis=others)).any():
            return int(areas.argmax())
    return count // 2


def _body(seen: NDArray[np.bool_]) -> Box:
    """Find the rows and columns of an image that hold something, with a margin; all when nothing does."""
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, seen.shape[0]), slice(0, seen.shape[1])
    first, second = (
        slice(max(0, int(at[0]) - _MARGIN), min(n, int(at[-1]) + 1 + _MARGIN))
        for at, n in zip((rows, columns), seen.shape, strict=True)
    )
    return first, second


def _fit(across: float, down: float) -> tuple[int, int]:
    """Scale mm to px so that the picture, however long, fits the stage."""
    scale = min(_SIDES[0] / across, _SIDES[1] / down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _factor(voxels: int) -> int:
    """How many voxels one pixel averages."""
    return -(-voxels // MOST_PIXELS)


def _pixels(voxels: int) -> int:
    return -(-voxels // _factor(voxels))


def _shrink(image: NDArray[Any], beyond: float) -> NDArray[Any]:
    """Average an image down to ``MOST_PIXELS``; ``beyond`` fills what the last pixel covers outside of it."""
    block = tuple(map(_factor, image.shape))
    shrunk: NDArray[Any] = image if block == (1, 1) else block_reduce(image, block, np.mean, cval=beyond)
    return shrunk


def _ct_png(hu: NDArray[Any]) -> bytes:
    low, high = CT_WINDOW
    share = np.clip((_shrink(hu, low) - low) / (high - low), 0, 1)
    grey = np.rint(share * (_GREYS - 1)).astype(np.uint8)
    ramp = np.repeat(np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8), 3)
    return _png(grey, ramp)


def _distance_png(distance: NDArray[Any]) -> bytes:
    """Colour a signed distance (mm) in steps of 1 mm, half transparent, and wholly so from the band outwards."""
    band = planes.BAND
    mm = np.nan_to_num(_shrink(np.clip(distance, -band, band), band), nan=band)
    steps = int(2 * band) + 1
    colours = matplotlib.colormaps[palette.DISTANCE_MAP](np.linspace(0, 1, steps))[:, :3]
    level = np.rint(mm + band).astype(np.uint8)
    return _png(level, np.rint(colours * 255).astype(np.uint8).ravel(), bytes([128] * (steps - 1) + [0]))


def _png(levels: NDArray[np.uint8], colours: NDArray[np.uint8], opacity: bytes | None = None) -> bytes:
    image = Image.fromarray(levels)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    options = {} if opacity is None else {"transparency": opacity}
    image.save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def _path(mask: NDArray[np.bool_]) -> str:
    """Outline a mask as an SVG path in half voxels, in which all its corners are whole numbers."""
    if not mask.any():
        return ""
    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return "".join(_closed(np.rint(2 * contour[:, ::-1] - 1).astype(int)) for contour in contours)


def _closed(points: NDArray[np.int_]) -> str:
    """Write points (N, 2), the last one the first, as a closed path; straight runs become one stroke."""
    moves = np.diff(points, axis=0)
    corners = np.flatnonzero(np.any(moves[1:] != moves[:-1], axis=1)) + 1
    x, y = points[0]
    return f"M{x} {y}" + "".join(f"L{x} {y}" for x, y in points[corners]) + "Z"


def _contents(truth: NDArray[Any] | None, found: NDArray[Any] | None, pixel: float) -> str:
    """Say what truth and prediction hold in a slice, in mm2, and how far they agree there."""
    parts = [f"{what}: {', '.join(_areas(labels, truth, pixel))}." for what, labels in _named(truth, found)]
    return " ".join(parts) or "No label."


def _named(truth: NDArray[Any] | None, found: NDArray[Any] | None) -> Iterator[tuple[str, NDArray[Any]]]:
    if truth is not None:
        yield "Truth", truth
    if found is not None:
        yield "Prediction", found


def _areas(labels: NDArray[Any], truth: NDArray[Any] | None, pixel: float) -> Iterator[str]:
    for least, name in _STRUCTURES.items():
        mask = labels >= least
        area = f"{name} {mask.sum() * pixel:.0f} mm²" if mask.any() else f"no {name}"
        if truth is not None and labels is not truth and (mask.any() or (truth >= least).any()):
            both = (mask & (truth >= least)).sum()
            area += f" (Dice {2 * both / (mask.sum() + (truth >= least).sum()):.2f})"
        yield area


def _pen(layer: str) -> str:
    _, colour, width, dashes = _LINES[layer]
    return f'stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dashes or "none"}"'


def _paths(layer: str) -> str:
    """Write the elements that the script gives a layer's outlines: the line on a dark rim that lifts it off."""
    width = _LINES[layer][2] + 1.5
    dark = f"stroke: black; stroke-opacity: 0.5; stroke-width: {width}px"
    rim = f'<path data-layer="{layer}" {_pen(layer)} style="{dark}"/>'
    line = f'<path data-layer="{layer}" {_pen(layer)}/>'
    return line if layer == "distance" else rim + line


def _url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _scale_colours() -> str:
    """List the colours of the distance, inside first, for CSS."""
    colours = matplotlib.colormaps[palette.DISTANCE_MAP](np.linspace(0, 1, 9))
    return ", ".join(matplotlib.colors.to_hex(colour) for colour in colours)


def _beside(suffix: str, name: str, value: str) -> str:
    """Read the style sheet or the script that lies beside this module, with a name in it filled in."""
    return Path(__file__).with_suffix(suffix).read_text(encoding="utf-8").replace(name, value)
