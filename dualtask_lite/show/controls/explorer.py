"""Sliders beside pictures and numbers: the common base of all explorers.

An explorer calls a function for the frame at a setting of its knobs. With few settings all frames are computed in
advance: then it needs no kernel, and exported pages keep it. With many settings an anywidget asks the running kernel;
without a kernel the picture of the first setting is shown instead. Both kinds share one script.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import find_contours

from dualtask_lite.show import outlines
from dualtask_lite.show.picture import WIDTH, Picture, new_figure
from dualtask_lite.show.viewer import STATIC, VARIABLE, in_kernel

_OWN_KEYS = "data-lm-suppress-shortcuts"  # in such elements JupyterLab leaves the arrow keys to the element
_HERE = Path(__file__)


class Knob(NamedTuple):
    """One input of an explorer."""

    name: str  # argument of the function
    label: str
    options: Mapping[str, Any]  # text of an option -> its value
    start: str  # the first option
    slides: bool = True  # a slider; else a drop-down list


class LineStyle(NamedTuple):
    """Colour, dashes and meaning of an outline."""

    meaning: str
    colour: str
    dashes: str = ""  # in the notation of SVG


class Panel(NamedTuple):
    """One image with outlines."""

    title: str
    levels: NDArray[np.uint8]  # rows (downwards) and columns
    colours: NDArray[np.uint8]  # (n, 3), the colour of each level
    ends: tuple[str, str] | None = None  # meaning of the first and the last colour; None without a scale
    lines: Mapping[str, tuple[NDArray[Any], float]] = {}  # name of a line style -> field or mask, level


class Frame(NamedTuple):
    """The content at one setting."""

    panels: Sequence[Panel]
    numbers: Mapping[str, str]
    words: str  # description of the panels, for readers who cannot see them


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """Knobs and the frames at their settings; a notebook shows the richest form that it supports.

    Attributes:
        title: of the figure.
        knobs: the inputs.
        draw: returns the frame for a value of each knob.
        styles: line styles of the outlines, by name.
        aspect: width of a panel divided by its height.
        ahead: compute all frames in advance instead of asking the kernel.
    """

    title: str
    knobs: Sequence[Knob]
    draw: Callable[..., Frame]
    styles: Mapping[str, LineStyle] = field(default_factory=dict)
    aspect: float = 1.0
    ahead: bool = False

    def frame(self, **values: Any) -> Frame:
        """Compute the frame at some values; the other knobs keep their first option."""
        return self.draw(**({knob.name: knob.options[knob.start] for knob in self.knobs} | values))

    @cached_property
    def picture(self) -> Picture:
        """The frame of the first setting as one picture."""
        return self.picture_at()

    def picture_at(self, **options: str) -> Picture:
        """Draw the frame at some options, by their texts; the other knobs keep their first option."""
        shown = {knob.name: options.get(knob.name, knob.start) for knob in self.knobs}
        frame = self.frame(**{knob.name: knob.options[shown[knob.name]] for knob in self.knobs})
        panels, columns = frame.panels, len(frame.panels)
        wide = min(WIDTH / columns, 420)
        notes = [f"{name}: {value}" for name, value in frame.numbers.items()]
        rows = [notes[i : i + 3] for i in range(0, len(notes), 3)]
        styles = [style for name, style in self.styles.items() if any(name in panel.lines for panel in panels)]
        figure = new_figure(height=wide / self.aspect + 90 + 18 * len(rows) + 22 * bool(styles))
        for axes, panel in zip(figure.subplots(1, columns, squeeze=False)[0], panels, strict=True):
            rows_, columns_ = panel.levels.shape
            axes.imshow(panel.colours[panel.levels], aspect=columns_ / rows_ / self.aspect, interpolation="nearest")
            for name, line in panel.lines.items():
                points, style = _outlines(*line), self.styles[name]
                pen: dict[str, Any] = {"colors": [style.colour], "linestyles": ["--" if style.dashes else "-"]}
                axes.add_collection(LineCollection([part - 0.5 for part in points], **pen))
            axes.set_title(panel.title, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
            if panel.ends:
                axes.set_xlabel("  to  ".join(panel.ends), fontsize=9)
        setting = ", ".join(f"{knob.label}: {shown[knob.name]}" for knob in self.knobs)
        figure.suptitle(f"{self.title}\n{setting}", fontsize=10)
        measured = "\n".join("     ".join(row) for row in rows)
        keys = [Line2D([], [], color=s.colour, ls="--" if s.dashes else "-", label=s.meaning) for s in styles]
        legend = figure.legend(
            handles=keys,
            title=measured,
            title_fontsize=9,
            fontsize=9,
            loc="outside lower center",
            ncols=max(1, len(keys)),
            frameon=False,
        )
        legend.get_title().set_multialignment("center")
        return Picture.of(figure, f"{self.title}. {setting}. {frame.words} {'; '.join(notes)}.")

    def to_html(self) -> str:
        """Write a ``figure`` element with all frames, or only the picture when they are not computed in advance."""
        if not self.ahead:
            return self.picture.to_html()
        root = f"explorer-{uuid.uuid4().hex[:12]}"  # unique, because the same explorer may be shown twice
        images: dict[str, int] = {}
        frames = [self._packed(frame, images) for frame in self._frames()]
        setup = {"styles": self._styles(), "frames": frames, "images": list(images)}
        script = f'{_script()};mount(document.getElementById("{root}"), {_json(setup)});'
        return (
            f'<figure class="dualtask-explorer" id="{root}"><style>{_style()}</style>'
            f"{self._inside(self.picture.to_html())}<script>(() => {{{script}}})()</script></figure>"
        )

    def __str__(self) -> str:
        return self.picture.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = {"text/plain": str(self)}
        if self.ahead or not is_live():
            return {"text/html": self.to_html(), **text}
        return {**view_of(self.widget), "text/html": self.picture.to_html(), **text}

    @cached_property
    def widget(self) -> Any:
        """The live widget, which requests each frame from this kernel."""
        import anywidget
        import ipywidgets
        import traitlets

        class Live(anywidget.AnyWidget):
            _esm = f"{_script()};export default {{ render: renderLive }};"
            _css = _style()
            inside = traitlets.Unicode().tag(sync=True)
            setup = traitlets.Dict().tag(sync=True)

        # Frames are sent through ipywidgets: an anywidget that needed over 2 s to load receives no messages.
        frames = ipywidgets.Text()
        start = self._frame_at(self._starts())
        setup = {"styles": self._styles(), "answers": frames.model_id, **start}
        widget = Live(inside=self._inside(""), setup=setup)

        def send_frame(_: Any, request: Mapping[str, Any], __: Any) -> None:
            try:
                answer = self._frame_at(request["at"], start["images"])
            except BaseException as error:  # also an interrupt
                answer = {"failed": f"{type(error).__name__}: {error}"}
                raise  # Jupyter shows the traceback
            finally:
                frames.value = json.dumps({**answer, "asked": request["asked"]})

        widget.on_msg(send_frame)
        return widget

    def _frame_at(self, at: Sequence[int], known: Sequence[str] = ()) -> dict[str, Any]:
        """Compute the frame for options by index, with its images that are not in ``known``."""
        images = {url: number for number, url in enumerate(known)}
        values = {knob.name: list(knob.options.values())[i] for knob, i in zip(self.knobs, at, strict=True)}
        return {"frames": [self._packed(self.frame(**values), images)], "images": list(images)[len(known) :]}

    def _frames(self) -> Iterator[Frame]:
        """Compute all frames; the last knob varies fastest."""
        for values in itertools.product(*(knob.options.values() for knob in self.knobs)):
            yield self.draw(**dict(zip((knob.name for knob in self.knobs), values, strict=True)))

    def _starts(self) -> list[int]:
        return [list(knob.options).index(knob.start) for knob in self.knobs]

    def _packed(self, frame: Frame, images: dict[str, int]) -> dict[str, Any]:
        """Encode a frame for the script; an image that several frames share is stored once, in ``images``."""
        panels = [
            {
                "title": panel.title,
                "image": images.setdefault(_url(panel.levels, panel.colours), len(images)),
                "sides": panel.levels.shape[::-1],
                "ends": panel.ends,
                "colours": _ramp(panel.colours) if panel.ends else "",
                "lines": {name: _path(*line) for name, line in panel.lines.items()},
            }
            for panel in frame.panels
        ]
        return {"panels": panels, "numbers": list(frame.numbers.items()), "words": frame.words}

    def _styles(self) -> dict[str, Any]:
        return {name: style._asdict() for name, style in self.styles.items()}

    def _inside(self, still: str) -> str:
        """Write the figure before the script fills it: the picture, and hidden knobs and stage."""
        keys = "".join(
            f'<span><svg width="30" height="8" aria-hidden="true" stroke-dasharray="{style.dashes or "none"}">'
            f'<path d="M0 4H30" class="rim"/><path d="M0 4H30" stroke="{style.colour}"/></svg> '
            f"{html.escape(style.meaning)}</span>"
            for style in self.styles.values()
        )
        return (
            f'<figcaption>{html.escape(self.title)}</figcaption><div class="still">{still}</div>'
            f'<div class="live" hidden><div class="knobs">{"".join(map(_knob, self.knobs))}</div>'
            f'<div class="stage" style="--aspect: {self.aspect:.4f}"></div><p class="keys">{keys}</p>'
            f'<div aria-live="polite" aria-atomic="true"><div class="numbers"></div><p class="words"></p></div></div>'
        )


def is_live(library: str = "anywidget") -> bool:
    """Whether widgets of a library can be shown: in a kernel, unless ``DUALTASK_VIEWER`` chooses a static viewer."""
    return in_kernel() and os.environ.get(VARIABLE) not in STATIC and find_spec(library) is not None


def colours_of(name: str) -> NDArray[np.uint8]:
    """The 256 colours of a colour map of matplotlib, (256, 3)."""
    return np.rint(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)


def levels_of(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map values to the levels 0 to 255 of a scale from ``low`` to ``high``; beyond it they are clipped."""
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _knob(knob: Knob) -> str:
    """Write one labelled input."""
    options, start = [html.escape(text) for text in knob.options], list(knob.options).index(knob.start)
    label = html.escape(knob.label)
    if not knob.slides:
        chosen = "".join(f"<option{' selected' * (i == start)}>{text}</option>" for i, text in enumerate(options))
        return f"<label><span>{label}</span> <select {_OWN_KEYS}>{chosen}</select></label>"
    texts, last, now = html.escape(json.dumps(list(knob.options))), len(options) - 1, options[start]
    return (
        f'<label><span>{label}</span> <input type="range" min="0" max="{last}" step="1" value="{start}" '
        f'aria-valuetext="{now}" data-texts="{texts}" {_OWN_KEYS}> <output>{now}</output></label>'
    )


def _url(levels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> str:
    image = Image.fromarray(levels)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _ramp(colours: NDArray[np.uint8]) -> str:
    """List the colours of a scale for CSS."""
    chosen = colours[np.linspace(0, len(colours) - 1, 9).astype(int)]
    return ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in chosen)


def _outlines(values: NDArray[Any], level: float) -> list[NDArray[Any]]:
    """Outline where a field crosses a level, or a mask along the edges of its pixels.

    Returns:
        The points of each line, (N, 2), as (column, row) in pixels from the outer corner of the first pixel.
    """
    if values.dtype == bool:
        return outlines.trace(values)
    if not values.min() < level < values.max():  # a field that only touches the level would be outlined there
        return []
    return [points[:, ::-1] + 0.5 for points in find_contours(values.astype(np.float64), level)]


def _path(values: NDArray[Any], level: float) -> str:
    """Write the outlines of a field as an SVG path in tenths of a pixel."""
    return "".join(_line(np.rint(10 * points).astype(int)) for points in _outlines(values, level))


def _line(points: NDArray[np.int_]) -> str:
    """Write points (N, 2) as an SVG path of relative moves."""
    steps = np.diff(points, axis=0)
    moves = " ".join(f"{x} {y}" for x, y in steps[np.any(steps != 0, axis=1)])
    return f"M{points[0, 0]} {points[0, 1]}l{moves}" if moves else ""


def view_of(widget: Any) -> dict[str, Any]:
    """The MIME type that shows a widget, which ipywidgets 7 and 8 write differently."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _script() -> str:
    return _HERE.with_suffix(".js").read_text(encoding="utf-8")


def _style() -> str:
    return _HERE.with_suffix(".css").read_text(encoding="utf-8")
