"""A slice browser that needs no kernel and no network: pictures made ahead and a slider.

The kernel is asked for nothing while the reader moves, so a step takes one frame of the screen, and the page
that is built from a notebook browses like the notebook itself. Where scripts do not run there is still a picture
of one slice.
"""

from __future__ import annotations

import base64
import html
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import CT_WINDOW, Scan
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import palette, planes
from dualtask_lite.show.given import Given, Volume, as_scan, distance_on, labels_on
from dualtask_lite.show.ladder import STATIC, Asked, choose
from dualtask_lite.show.overlays import Overlay
from dualtask_lite.show.picture import Picture
from dualtask_lite.show.slices.frames import Frame, Source, covered

MOST_SLICES = 64  # more are skipped
_LINES = {  # layer: (its words, colour, width in px, dashes)
    "pancreas": ("pancreas (truth)", palette.PANCREAS, 1.5, ""),
    "tumour": ("tumour (truth, thick)", palette.TUMOUR, 3.0, ""),
    "prediction": ("prediction (dashed)", palette.PREDICTION, 2.0, "6 4"),
    "distance": (f"signed distance (to {planes.BAND:g} mm; zero dotted)", palette.BLACK, 1.5, "1 3"),
}
_OFF = ("difference", "surface")  # shown when the reader asks
_OWN_KEYS = "data-lm-suppress-shortcuts"  # JupyterLab moves between cells by arrow keys, except in such elements
_SIDE_NAMES = {"R": "right", "A": "front"}


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
        layers: what is laid over the slices as colours.
    """

    title: str
    frames: tuple[Frame, ...]
    start: int
    still: Picture
    voxels: tuple[int, int]
    size: tuple[int, int]
    letters: str
    layers: tuple[Overlay, ...]

    def to_html(self) -> str:
        """Write a ``figure`` element that holds all it needs."""
        return write_figure(self.title, {"": self})

    def __str__(self) -> str:
        size = len(self.to_html().encode()) / 1e6
        return f"{self.title}, {size:.1f} MB. It starts at: {self.frames[self.start].text}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {**self.still.bundle(), "text/html": self.to_html(), "text/plain": str(self)}


def slices(
    case: Given,
    prediction: Volume | None = None,
    distance: Volume | None = None,
    *,
    truth: Volume | None = None,
    spacing: Sequence[float] | None = None,
    plane: str = "axial",
    name: str = "",
    viewer: Asked = "auto",
) -> SliceBrowser | Picture:
    """Browse a CT's slices with truth, prediction, errors and distances laid over them.

    It starts at the slice with the most tumour, else the most pancreas, else in the middle. At most
    ``MOST_SLICES`` slices of 256 pixels across are kept, cropped to the body.

    Args:
        case: a case, a loaded one, an array (X, Y, Z) in HU in RAS+ order, or a NIfTI file.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2 on its grid, or a NIfTI file.
        distance: signed distance, (X, Y, Z) in mm, negative inside, or a NIfTI file.
        truth: labels of an array or a file; a case brings its own.
        spacing: size of a voxel along each axis in mm, of an array.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        name: what the caption calls the case; its id when left out.
        viewer: ``html``, the browser; ``picture``, the slice it would start at; ``auto``, what ``DUALTASK_VIEWER``
            names, else the browser.

    Raises:
        DualTaskError: for what lies on another grid than the CT, or an unknown plane or viewer.
    """
    chosen = choose(viewer, STATIC)
    scan = as_scan(case, truth, spacing)
    found = labels_on(scan, prediction, "prediction")
    browser = browse(scan, found, distance_on(scan, distance), plane=plane, name=name)
    return browser.still if chosen == "picture" else browser


def browse(
    scan: Scan,
    prediction: NDArray[Any] | None,
    distance: NDArray[Any] | None,
    *,
    plane: str,
    name: str,
    beside: Sequence[NDArray[Any]] = (),
) -> SliceBrowser:
    """Make a browser; see ``slices``. Labels ``beside`` are those of other browsers, to be shown in the same crop.

    Raises:
        DualTaskError: for an unknown plane.
    """
    if plane not in planes.PLANES:
        raise DualTaskError(f"there is no plane {plane!r}", f"choose one of {', '.join(planes.PLANES)}")
    source = Source(scan, prediction, distance, plane, beside)
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
        layers=tuple(source.layers),
    )


def write_figure(title: str, panels: dict[str, SliceBrowser]) -> str:
    """Write a ``figure`` element of one or more browsers of the same slices, which move together.

    Args:
        title: the caption.
        panels: a browser under the words that head it; none for an empty one.
    """
    root = f"slices-{uuid.uuid4().hex[:12]}"  # a new one each time: the same browser may be shown twice
    first = next(iter(panels.values()))
    data = json.dumps(list(_frames(list(panels.values())))).replace("<", "\\u003c")
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").replace("ROOT", root)
    stages = "".join(_panel(head, browser) for head, browser in panels.items())
    return (
        f'<figure class="dualtask-slices" id="{root}"><style>{style}</style>'
        f"<figcaption>{html.escape(title)}</figcaption>"
        f'<div class="panels">{stages}</div>{_controls(first, list(panels.values()))}'
        f'<script type="application/json">{data}</script><script>{script}</script></figure>'
    )


def _frames(browsers: Sequence[SliceBrowser]) -> Iterator[dict[str, Any]]:
    """List what the script shows at each step; the grey values are the same in all panels."""
    for frames in zip(*(browser.frames for browser in browsers), strict=True):
        panels = [
            {"images": {name: _url(png) for name, png in f.images.items()}, "lines": f.lines, "text": f.text}
            for f in frames
        ]
        yield {"ct": _url(frames[0].ct), "panels": panels}


def _panel(head: str, browser: SliceBrowser) -> str:
    """Write one picture with its layers and letters, and its words below."""
    (rows, columns), (width, height) = browser.voxels, browser.size
    share = [100 * covered(n) for n in (columns, rows)]  # the last pixel may reach over the edge
    under_first = sorted(_outlined([browser]), key=lambda layer: layer != "distance")
    paths = "".join(_paths(layer) for layer in under_first)
    letters = "".join(f'<b class="side{i}">{s}</b>' for i, s in enumerate(browser.letters))
    title = f"<strong>{html.escape(head)}</strong>" if head else ""
    text = html.escape(browser.frames[browser.start].text)
    return (
        f'<div class="panel" style="max-width: {width}px">{title}<div class="stage" style="width: {width}px; '
        f'aspect-ratio: {width} / {height}; --across: {share[0]:.4f}%; --down: {share[1]:.4f}%">'
        f'<img class="still" alt="{html.escape(browser.still.alt)}" width="{width}" height="{height}" '
        f'src="{_url(browser.still.png)}">'
        f'<div hidden aria-hidden="true"><svg viewBox="0 0 {2 * columns} {2 * rows}" preserveAspectRatio="none">'
        f'{paths}</svg>{letters}</div></div><p class="words" aria-live="polite">{text}</p></div>'
    )


def _controls(first: SliceBrowser, browsers: Sequence[SliceBrowser]) -> str:
    """Write slider and checkboxes; the script shows them, as they do nothing without it."""
    images = {layer.name: layer for browser in browsers for layer in browser.layers}
    names = [*_outlined(browsers), *(name for name in images if name not in _LINES)]
    boxes = "".join(
        f'<label><input type="checkbox"{"" if name in _OFF else " checked"} data-layer="{name}" {_OWN_KEYS}>'
        f"{_key(name, images)}</label>"
        for name in names
    )
    fieldset = f"<fieldset><legend>Show</legend>{boxes}</fieldset>" if boxes else ""
    return (
        f'<div class="controls" hidden><label class="slider">Slice <input type="range" min="0" '
        f'max="{len(first.frames) - 1}" step="1" value="{first.start}" {_OWN_KEYS}></label>{fieldset}</div>'
    )


def _key(name: str, images: dict[str, Overlay]) -> str:
    """Write the key of a layer: its line, its colours, or both, with words."""
    line = words = ""
    if name in _LINES:
        words = _LINES[name][0]
        line = f'<svg width="28" height="8" aria-hidden="true"><path d="M0 4H28" {_pen(name)}/></svg>'
    if name not in images:
        return f"{line} {html.escape(words)}"
    layer = images[name]
    if len(layer.colours) == 2:
        named = zip(layer.colours, layer.meanings, strict=True)
        return " ".join(f'<i style="background: {colour}"></i> {meaning}' for colour, meaning in named)
    scale = f"linear-gradient(to right, {', '.join(layer.colours)})"
    ends = f'{layer.meanings[0]} <i class="scale" style="background: {scale}"></i> {layer.meanings[-1]}'
    return f"{line} {html.escape(words or layer.words)}: {ends}"


def _outlined(browsers: Sequence[SliceBrowser]) -> list[str]:
    return [layer for layer in _LINES if any(layer in browser.frames[0].lines for browser in browsers)]


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
