"""A slice browser that needs no kernel and no network: prepared images and a slider.

Moving the slider sends nothing to the kernel, so a step takes one frame of the screen, and an exported page works like
the notebook itself. Where scripts do not run, a picture of one slice remains.
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
from dualtask_lite.show.inputs import CaseLike, Volume, as_scan, distance_on, labels_on
from dualtask_lite.show.overlays import Overlay
from dualtask_lite.show.picture import Picture
from dualtask_lite.show.slices.frames import Frame, Source, covered
from dualtask_lite.show.viewer import STATIC, ViewerChoice, choose

MOST_SLICES = 64  # of a thicker stack every n-th slice is shown
_LINES = {  # layer: (description, colour, width in px, dashes)
    "pancreas": ("pancreas (truth)", palette.PANCREAS, 1.5, ""),
    "tumour": ("tumour (truth, thick)", palette.TUMOUR, 3.0, ""),
    "prediction": ("prediction (dashed)", palette.PREDICTION, 2.0, "6 4"),
    "distance": (f"signed distance (to {planes.BAND:g} mm; zero dotted)", palette.BLACK, 1.5, "1 3"),
}
_OFF = ("difference", "surface")  # hidden until the reader ticks them
_OWN_KEYS = "data-lm-suppress-shortcuts"  # in such elements JupyterLab leaves the arrow keys to the element
_SIDE_NAMES = {"R": "right", "A": "front"}


@dataclass(frozen=True, repr=False)  # megabytes of pictures
class SliceBrowser:
    """Slices with a slider, shown by a notebook and by pages exported from it.

    Attributes:
        title: of the figure.
        frames: the slices.
        start: index of the first frame to show.
        still: that frame as one picture, for pages without scripts.
        voxels: rows and columns of the visible part of a slice.
        size: width and height of the stage, px; in the proportions of the body.
        letters: the patient's sides at left, right, top and bottom.
        layers: the overlays that are drawn as colours.
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
        """Write a self-contained ``figure`` element."""
        return write_figure(self.title, {"": self})

    def __str__(self) -> str:
        size = len(self.to_html().encode()) / 1e6
        return f"{self.title}, {size:.1f} MB. It starts at: {self.frames[self.start].text}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {**self.still.bundle(), "text/html": self.to_html(), "text/plain": str(self)}


def slices(
    case: CaseLike,
    prediction: Volume | None = None,
    distance: Volume | None = None,
    *,
    truth: Volume | None = None,
    spacing: Sequence[float] | None = None,
    plane: str = "axial",
    name: str = "",
    viewer: ViewerChoice = "auto",
) -> SliceBrowser | Picture:
    """Browse the slices of a CT with overlays of truth, prediction, errors and distances.

    The first slice is the one with the most tumour, else the most pancreas, of the truth, or of the prediction when the
    truth is empty; else the middle one. At most ``MOST_SLICES`` slices of 256 pixels across are shown, cropped to the
    body.

    Args:
        case: a case, a loaded one, an array (X, Y, Z) in HU in RAS+ order, or a NIfTI file.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2 on its grid, or a NIfTI file.
        distance: signed distance, (X, Y, Z) in mm, negative inside, or a NIfTI file.
        truth: labels for an array or a file; a case has its own.
        spacing: size of a voxel along each axis in mm; for arrays only.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        name: of the case in the caption; by default its id.
        viewer: ``html``, the browser; ``picture``, its first slice; ``auto``, the value of ``DUALTASK_VIEWER``, else
            the browser.

    Raises:
        DualTaskError: for an array on another grid than the CT, or an unknown plane or viewer.
    """
    chosen = choose(viewer, STATIC)
    scan = as_scan(case, truth, spacing)
    predicted = labels_on(scan, prediction, "prediction")
    browser = browse(scan, predicted, distance_on(scan, distance), plane=plane, name=name)
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
    """Make a browser; see ``slices``. ``beside`` holds the labels of all browsers that share its crop and its slices.

    Raises:
        DualTaskError: for an unknown plane.
    """
    if plane not in planes.PLANES:
        raise DualTaskError(f"there is no plane {plane!r}", f"choose one of {', '.join(planes.PLANES)}")
    source = Source(scan, prediction, distance, plane, beside)
    predictions = beside or [label for label in (prediction,) if label is not None]
    first = _start([scan.label, _union(predictions)], source.axis, source.count)
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
    """Write a ``figure`` element of one or more browsers of the same slices under one slider.

    Args:
        title: the caption.
        panels: heading -> browser; an empty heading is not shown.
    """
    root = f"slices-{uuid.uuid4().hex[:12]}"  # unique, because the same browser may be shown twice
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
    """List the data of the script for each step; the grey values are the same in all panels."""
    for frames in zip(*(browser.frames for browser in browsers), strict=True):
        panels = [
            {"images": {name: _url(png) for name, png in f.images.items()}, "lines": f.lines, "text": f.text}
            for f in frames
        ]
        yield {"ct": _url(frames[0].ct), "panels": panels}


def _panel(head: str, browser: SliceBrowser) -> str:
    """Write one picture with its layers and letters, and its description below."""
    (rows, columns), (width, height) = browser.voxels, browser.size
    share = [100 * covered(n) for n in (columns, rows)]  # the last pixel may extend beyond the edge
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
        f'<div hidden aria-hidden="true"><svg viewBox="0 0 {columns} {rows}" preserveAspectRatio="none">'
        f'{paths}</svg>{letters}</div></div><p class="words" aria-live="polite">{text}</p></div>'
    )


def _controls(first: SliceBrowser, browsers: Sequence[SliceBrowser]) -> str:
    """Write slider and checkboxes; they are hidden until the script runs, because they need it."""
    images = {layer.name: layer for browser in browsers for layer in browser.layers}
    names = [*_outlined(browsers), *(name for name in images if name not in _LINES)]
    boxes = "".join(
        f'<label><input type="checkbox"{"" if name in _OFF else " checked"} data-layer="{name}" {_OWN_KEYS}>'
        f"{_legend(name, images)}</label>"
        for name in names
    )
    fieldset = f"<fieldset><legend>Show</legend>{boxes}</fieldset>" if boxes else ""
    return (
        f'<div class="controls" hidden><label class="slider">Slice <input type="range" min="0" '
        f'max="{len(first.frames) - 1}" step="1" value="{first.start}" {_OWN_KEYS}></label>{fieldset}</div>'
    )


def _legend(name: str, images: dict[str, Overlay]) -> str:
    """Write the legend entry of a layer: its line, its colours, or both, with a description."""
    line = title = ""
    if name in _LINES:
        title = _LINES[name][0]
        line = f'<svg width="28" height="8" aria-hidden="true"><path d="M0 4H28" {_pen(name)}/></svg>'
    if name not in images:
        return f"{line} {html.escape(title)}"
    layer = images[name]
    if len(layer.colours) == 2:
        named = zip(layer.colours, layer.meanings, strict=True)
        return " ".join(f'<i style="background: {colour}"></i> {meaning}' for colour, meaning in named)
    scale = f"linear-gradient(to right, {', '.join(layer.colours)})"
    ends = f'{layer.meanings[0]} <i class="scale" style="background: {scale}"></i> {layer.meanings[-1]}'
    return f"{line} {html.escape(title or layer.title)}: {ends}"


def _outlined(browsers: Sequence[SliceBrowser]) -> list[str]:
    return [layer for layer in _LINES if any(layer in browser.frames[0].lines for browser in browsers)]


def _title(scan: Scan, plane: str, name: str, shown: int, count: int) -> str:
    side = _SIDE_NAMES[planes.PLANES[plane][1][0]]
    number = f"{count}" if shown == count else f"{shown} of {count}"
    thickness = scan.spacing[planes.PLANES[plane][0]]
    low, high = CT_WINDOW
    return (
        f"{name or scan.id}: {number} {plane} slices of {thickness:.3g} mm, CT window {low:g} to {high:g} HU, "
        f"the patient's {side} is on the left of the picture"
    )


def _start(choices: Sequence[NDArray[Any] | None], axis: int, count: int) -> int:
    """Find the slice with the most tumour, else pancreas, of the first labels that have any; else the middle one."""
    others = tuple(i for i in range(3) if i != axis)
    for labels in choices:
        for least in (2, 1):
            if labels is not None and (areas := (labels >= least).sum(axis=others)).any():
                return int(areas.argmax())
    return count // 2


def _union(labels: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """Combine labels to the highest value of each voxel; None without labels."""
    return np.maximum.reduce(list(labels)) if labels else None


def _pen(layer: str) -> str:
    _, colour, width, dashes = _LINES[layer]
    return f'stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dashes or "none"}"'


def _paths(layer: str) -> str:
    """Write the elements for the outlines of a layer: the line, on a wider dark line for contrast."""
    width = _LINES[layer][2] + 1.5
    dark = f"stroke: black; stroke-opacity: 0.5; stroke-width: {width}px"
    rim = f'<path data-layer="{layer}" {_pen(layer)} style="{dark}"/>'
    line = f'<path data-layer="{layer}" {_pen(layer)}/>'
    return line if layer == "distance" else rim + line


def _url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
