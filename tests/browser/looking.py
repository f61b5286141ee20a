"""What a browser shows, as numbers."""

from __future__ import annotations

import io
import os
import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

PATIENCE = 120  # s; no test depends on speed, but none may hang either
HUE_NEAR = 0.04  # the labels are laid over grey, which leaves their hue


def require(module: str) -> None:
    """Skip these tests, by name, where a package of an optional extra is absent; where all must run, fail."""
    if find_spec(module):
        return
    missing = f"{module} is not installed: pip install 'dualtask-lite[notebooks,viewers]'"
    if os.environ.get("DUALTASK_REQUIRE_BROWSER"):
        raise ImportError(missing)
    pytest.skip(missing, allow_module_level=True)


def pixels_of(locator: Any) -> np.ndarray:
    """Give what an element shows, (rows, columns, 3) from 0 to 1, once two looks at it agree."""
    last = None
    while True:
        png = locator.screenshot()
        if png == last:
            return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float) / 255
        last = png


def drawn(locator: Any, colour: str, *, near: float = HUE_NEAR, patience: float = PATIENCE) -> np.ndarray:
    """Give what an element shows as soon as some of it has a colour; a viewer first says that it loads."""
    end = time.monotonic() + patience
    while coloured(shown := pixels_of(locator), colour, near) < 50 and time.monotonic() < end:
        locator.page.wait_for_timeout(500)
    return shown


def coloured(image: np.ndarray, colour: str, near: float = HUE_NEAR) -> int:
    """Count the pixels with the hue of a colour, whatever grey lies under it."""
    chroma = image - image.min(axis=-1, keepdims=True)
    strength = chroma.max(axis=-1)
    wanted = np.array(to_rgb(colour)) - min(to_rgb(colour))
    apart = np.abs(chroma / np.maximum(strength, 1e-6)[..., None] - wanted / wanted.max()).max(axis=-1)
    return int(((strength > 0.15) & (apart < near)).sum())


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Give the share of pixels that differ."""
    return float((np.abs(before - after).max(axis=-1) > 0.05).mean())
