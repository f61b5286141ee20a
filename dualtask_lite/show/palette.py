"""The colours of every figure, in one place.

They are Okabe and Ito's (*Color Universal Design*, 2008), which readers with any kind of colour blindness can
distinguish; lines of a figure also differ in style or position, never in colour alone.

Background and text have the colours of matplotlib: black on white, or white on black after
``matplotlib.style.use("dark_background")``. The colours here contrast with both.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

import matplotlib

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, MAGENTA = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"  # equally readable on white and on black

PANCREAS = SKY
TUMOUR = ORANGE
PREDICTION = MAGENTA
PREDICTION_PALE = "#E8C3D7"  # 45 % of the same on white: a predicted pancreas beside a predicted tumour
FALSE_POSITIVE = VERMILLION
FALSE_NEGATIVE = BLUE
ERROR_MAP = "viridis"  # of a surface, mm: dark is a small error, bright a large one
DISTANCE_MAP = "RdBu_r"  # diverging, centred on the surface: blue inside (negative), red outside

CENTRES = (BLUE, ORANGE, GREEN, MAGENTA, SKY, VERMILLION)
#: Colour and marker of each arm, in the order of a table; further arms start again from the first.
ARMS = ((GREY, "o"), (BLUE, "s"), (VERMILLION, "^"), (GREEN, "D"), (MAGENTA, "v"), (ORANGE, "P"), (SKY, "X"))
#: Colour and line style of each term of the objective, under its name in ``metrics.csv``.
TERMS: dict[str, tuple[str, str]] = {
    "seg": (BLUE, "-"),
    "dist": (ORANGE, "-"),
    "conv_mask": (GREEN, "--"),
    "conv_distance": (VERMILLION, "--"),
    "out": (MAGENTA, ":"),
    "feat": (SKY, ":"),
    "slice": (GREY, "-."),
}


def ink() -> str:
    """The colour of text and axes."""
    return str(matplotlib.rcParams["text.color"])


def ink_on(colour: Iterable[float]) -> str:
    """Black or white, whichever contrasts more with a colour (red, green, blue from 0 to 1), by WCAG's luminance."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


def arm_styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give each arm a colour and a marker, in the order in which they come; the first, the baseline, is grey."""
    return dict(zip(dict.fromkeys(names), cycle(ARMS), strict=False))


def centre_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each centre a colour by the order of the names, so that it is the same in every figure."""
    return dict(zip(sorted(set(names)), cycle(CENTRES), strict=False))
