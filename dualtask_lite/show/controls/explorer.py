"""Sliders beside pictures and numbers: what all explorers of this package share.

An explorer asks a function for what it shows at a setting of its knobs. With few settings all answers are made
ahead: then it needs no kernel, and static pages keep it whole. With many the running kernel is asked, through an
anywidget; where there is none, the picture of the first setting stands in its place. Both kinds share one script.
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
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import find_contours

from dualtask_lite.show.ladder import STATIC, VARIABLE, in_kernel
from dualtask_lite.show.picture import WIDTH, Picture, new_figure

_OWN_KEYS = "data-lm-suppress-shortcuts"  # JupyterLab moves between cells by arrow keys, except in such elements
_HERE = Path(__file__)


class Knob(NamedTuple):
    """One thing to set."""

    name: str  # the argument that it sets
    label: str  # what a reader reads
    options: Mapping[str, Any]  # what a reader reads -> the value
    start: str  # the option that it starts at
    slides: bool = True  # a slider; else a list to choose from


class Look(NamedTuple):
    """How an outline is drawn, and what it means."""

    meaning: str
    colour: str
    dashes: str = ""  # as SVG writes them


class Panel(NamedTuple):
    """One picture."""

    title: str
    levels: NDArray[np.uint8]  # rows (downwards) and columns
    colours: NDArray[np.uint8]  # (n, 3), the colour of each level
    ends: tuple[str, str] | None = None  # what the first and the last colour mean; None without a scale
    lines: Mapping[str, tuple[NDArray[Any], float]] = {}  # name of a look -> field and the level outlined


class Frame(NamedTuple):
    """What is shown at one setting."""

    panels: Sequence[Panel]
    numbers: Mapping[str, str]
    words: str  # what the panels show, for who cannot see them


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """Knobs, and what is shown at each of their settings; a notebook shows the best that it can draw.

    Attributes:
        title: what it is about.
        knobs: what can be set.
        look: called with a value for each knob.
        looks: how outlines are drawn.
        aspect: how many times wider than high a panel is.
        ahead: make all frames ahead, instead of asking the kernel.
    """

    title: str
    knobs: Sequence[Knob]
    look: Callable[..., Frame]
    looks: Mapping[str, Look] = field(default_factory=dict)
    aspect: float = 1.0
    ahead: bool = False

    def frame(self, **values: Any) -> Frame:
        """What is shown at some values; a knob that is left out stays where it starts."""
        return self.look(**({knob.name: knob.options[knob.start] for knob in self.knobs} | values))

    @cached_property
    def picture(self) -> Picture:
        """The first setting as one picture."""
        frame = self.frame()
        panels, columns = frame.panels, len(frame.panels)
        wide = min(WIDTH / columns, 420)
        notes = [f"{name}: {value}" for name, value in frame.numbers.items()]
        rows = [notes[i : i + 3] for i in range(0, len(notes), 3)]
        figure = new_figure(height=wide / self.aspect + 90 + 18 * len(rows))
        for axes, panel in zip(figure.subplots(1, columns, squeeze=False)[0], panels, strict=True):
            rows_, columns_ = panel.levels.shape
            axes.imshow(panel.colours[panel.levels], aspect=columns_ / rows_ / self.aspect, interpolation="nearest")
            for name, (values, level) in panel.lines.items():
                if values.min() < level < values.max():
                    style = "--" if self.looks[name].dashes else "-"
                    axes.contour(values, [level], colors=[self.looks[name].colour], linestyles=[style])
            axes.set_title(panel.title, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
            if panel.ends:
                axes.set_xlabel("  to  ".join(panel.ends), fontsize=9)
        setting = ", ".join(f"{knob.label}: {knob.start}" for knob in self.knobs)
        figure.suptitle(f"{self.title}\n{setting}", fontsize=10)
        figure.supxlabel("\n".join("     ".join(row) for row in rows), fontsize=9)
        return Picture.of(figure, f"{self.title}. {setting}. {frame.words} {'; '.join(notes)}.")

    def to_html(self) -> str:
        """Write a ``figure`` element with all frames in it, or only the picture when they are not made ahead."""
        if not self.ahead:
            return self.picture.to_html()
        root = f"explorer-{uuid.uuid4().hex[:12]}"  # a new one each time: the same explorer may be shown twice
        images: dict[str, int] = {}
        frames = [self._packed(frame, images) for frame in self._frames()]
        setup = {"looks": self._pens(), "frames": frames, "images": list(images)}
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
        """The live widget, which asks this kernel for each frame."""
        import anywidget
        import ipywidgets
        import traitlets

        class Live(anywidget.AnyWidget):
            _esm = f"{_script()};export default {{ render: renderLive }};"
            _css = _style()
            inside = traitlets.Unicode().tag(sync=True)
            setup = traitlets.Dict().tag(sync=True)

        # A widget of ipywidgets takes the answers: anywidget lets nothing through to one that took over 2 s to load.
        answers = ipywidgets.Text()
        start = self._answer(self._starts())
        setup = {"looks": self._pens(), "answers": answers.model_id, **start}
        widget = Live(inside=self._inside(""), setup=setup)

        def answer(_: Any, asked: Mapping[str, Any], __: Any) -> None:
            answers.value = json.dumps({**self._answer(asked["at"], start["images"]), "number": asked["number"]})

        widget.on_msg(answer)
        return widget

    def _answer(self, at: Sequence[int], known: Sequence[str] = ()) -> dict[str, Any]:
        """One frame with its images beyond those that are known, for options by their places."""
        images = {url: number for number, url in enumerate(known)}
        values = {knob.name: list(knob.options.values())[i] for knob, i in zip(self.knobs, at, strict=True)}
        return {"frames": [self._packed(self.frame(**values), images)], "images": list(images)[len(known) :]}

    def _frames(self) -> Iterator[Frame]:
        """All frames; the last knob turns fastest."""
        for values in itertools.product(*(knob.options.values() for knob in self.knobs)):
            yield self.look(**dict(zip((knob.name for knob in self.knobs), values, strict=True)))

    def _starts(self) -> list[int]:
        return [list(knob.options).index(knob.start) for knob in self.knobs]

    def _packed(self, frame: Frame, images: dict[str, int]) -> dict[str, Any]:
        """Write a frame for the script; an image that several frames share is kept once, in ``images``."""
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

    def _pens(self) -> dict[str, Any]:
        return {name: look._asdict() for name, look in self.looks.items()}

    def _inside(self, still: str) -> str:
        """Write what the figure holds before the script fills it: the picture, and hidden knobs and stage."""
        keys = "".join(
            f'<span><svg width="30" height="8" aria-hidden="true" stroke-dasharray="{look.dashes or "none"}">'
            f'<path d="M0 4H30" class="rim"/><path d="M0 4H30" stroke="{look.colour}"/></svg> '
            f"{html.escape(look.meaning)}</span>"
            for look in self.looks.values()
        )
        return (
            f'<figcaption>{html.escape(self.title)}</figcaption><div class="still">{still}</div>'
            f'<div class="live" hidden><div class="knobs">{"".join(map(_knob, self.knobs))}</div>'
            f'<div class="stage" style="--aspect: {self.aspect:.4f}"></div><p class="keys">{keys}</p>'
            f'<div aria-live="polite" aria-atomic="true"><div class="numbers"></div><p class="words"></p></div></div>'
        )


def is_live(library: str = "anywidget") -> bool:
    """Whether a library's widgets can be shown: in a kernel, unless ``DUALTASK_VIEWER`` asks for what pages keep."""
    return in_kernel() and os.environ.get(VARIABLE) not in STATIC and find_spec(library) is not None


def colours_of(name: str) -> NDArray[np.uint8]:
    """The 256 colours of one of matplotlib's colour maps, (256, 3)."""
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
    """List a scale's colours for CSS."""
    chosen = colours[np.linspace(0, len(colours) - 1, 9).astype(int)]
    return ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in chosen)


def _path(values: NDArray[Any], level: float) -> str:
    """Outline where a field crosses a level, as an SVG path in tenths of a pixel."""
    if not values.min() < level < values.max():
        return ""
    lines = find_contours(values.astype(np.float64), level)
    return "".join(_drawn(np.rint(10 * (line[:, ::-1] + 0.5)).astype(int)) for line in lines)


def _drawn(points: NDArray[np.int_]) -> str:
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
