"""Numbers in sentences and tables: a count with its noun, a signed difference, an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``: a number with its noun, whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def signed(difference: float) -> str:
    """A difference with its sign and three digits; what rounds to zero has no sign."""
    text = f"{difference:+.3f}"
    return text if float(text) else text[1:]


def interval_in_words(interval: Sequence[float], undefined: str = "undefined") -> str:
    """Both ends of an interval of differences, or ``undefined`` when they are NaN."""
    low, high = interval
    return f"{signed(low)} to {signed(high)}" if math.isfinite(low) else undefined
