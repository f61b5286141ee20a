"""The colours of every figure, in one place.

They are Okabe and Ito's (*Color Universal Design*, 2008), which readers with any kind of colour blindness can
tell apart; figures also tell their lines apart by style or position, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, MAGENTA = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#777777"

PANCREAS = SKY
TUMOUR = ORANGE
PREDICTION = MAGENTA
PREDICTION_PALE = "#E8C3D7"  # 45 % of the same on white: a predicted pancreas beside a predicted tumour
FALSE_POSITIVE = VERMILLION
FALSE_NEGATIVE = BLUE
ERROR_MAP = "viridis"  # of a surface, mm: dark is right, bright is far off
DISTANCE_MAP = "RdBu_r"  # diverging, centred on the surface: blue inside (negative), red outside

CENTRES = (BLUE, ORANGE, GREEN, MAGENTA, SKY, VERMILLION)
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


def centre_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each centre a colour by the order of their names, so that it looks the same in every figure."""
    return dict(zip(sorted(set(names)), cycle(CENTRES), strict=False))
