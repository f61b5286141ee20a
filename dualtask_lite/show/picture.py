"""A finished figure with its alternative text."""

from __future__ import annotations

import base64
import html
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from dualtask_lite.files import whole_file

WIDTH = 900  # px of a notebook's output area
NARROWEST = 640  # px; on a phone the picture scrolls sideways, because its words would be too small to read
BOX = '<div class="dualtask-picture"'  # how the HTML of a picture starts
_SHARPNESS = 1.5  # image pixels for each px, for high-resolution screens
_DPI = 100


@dataclass(frozen=True)
class Picture:
    """A PNG with alt text; notebooks and exported pages show both.

    Args:
        png: bytes of the image file.
        alt: the content of the figure in words, with its numbers.
    """

    png: bytes
    alt: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Picture:
        """Render ``figure``, made by ``new_figure``, to a PNG."""
        for text in figure.findobj(Text):
            if "$" in text.get_text():  # the name of a case; ticks, which may be formulas, get their text later
                text.set_parse_math(False)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a letter that the font lacks is drawn as a box
            FigureCanvasAgg(figure).print_png(buffer, metadata={"Description": alt, "Software": None})
        return cls(buffer.getvalue(), alt)

    def save(self, path: str | Path) -> Path:
        """Write the PNG (its ``Description`` field holds the alt text) and return its path."""
        path = Path(path)
        with whole_file(path) as temporary:
            temporary.write_bytes(self.png)
        return path

    def to_html(self) -> str:
        """Write an ``img`` element that contains the image, in a box that scrolls sideways on a narrow screen."""
        source = base64.b64encode(self.png).decode("ascii")
        style = f"width: {WIDTH}px; max-width: 100%; min-width: {NARROWEST}px; height: auto"
        image = f'<img alt="{html.escape(self.alt)}" style="{style}" src="data:image/png;base64,{source}">'
        return f'{BOX} style="overflow-x: auto">{image}</div>'

    def bundle(self) -> dict[str, str]:
        """Write the forms for all front ends: HTML with alt text, and the PNG for PDF and GitHub."""
        return {
            "text/html": self.to_html(),
            "image/png": base64.b64encode(self.png).decode("ascii"),
            "text/plain": self.alt,
        }

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.bundle()


def new_figure(height: float) -> Figure:
    """Make an empty figure as wide as a notebook and ``height`` px high, with constrained layout.

    It belongs to no window and no global state, so it need not be closed. It is black on white, which is readable on
    any page; ``matplotlib.style.use("dark_background")`` makes the following figures white on black.
    """
    return Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI * _SHARPNESS, layout="constrained")
