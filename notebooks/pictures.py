"""Pictures for the README: the figure of the method, and pages that ``make demo`` built, as Chromium shows them."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.show import figures
from dualtask_lite.show.picture import Picture

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL2 without a graphics card
LINES = "pictures.md"


class Shot(NamedTuple):
    """One picture to take."""

    name: str
    page: str  # pattern of a file of the demo
    part: str  # what of it
    words: str  # where it says what it shows
    ready: str  # what is there when it is drawn
    caption: str


SHOTS = (
    Shot(
        "volume3d",
        "runs/04-*/*_3d.html",
        "body",
        "#summary",
        "body[data-ready='3d']",
        "A tumour of the held-out hospital and its prediction, in three planes and in 3D: a page of lesson 04.",
    ),
    Shot(
        "slices",
        "04_the_framework.html",
        ".dualtask-slices",
        ".dualtask-slices .words",
        ".dualtask-slices .stage img.ct",
        "The same case slice by slice, with the distance that the second head predicts. "
        "Of the tumours that were found, it is the median by Dice.",
    ),
)


def framework() -> Picture:
    """Draw the method, on a made-up case with finer voxels than the lessons use."""
    return figures.framework(make_case("B", 5, size=(200, 200, 80)).load())


def chromium() -> str | None:
    """Find Chromium, or a browser made of it."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def take(folder: Path) -> None:
    """Take all pictures of the demo in ``folder``, and write the README's lines about them; or say what is lacking."""
    program = chromium()
    if program is None or not find_spec("playwright"):
        lacking = "playwright" if program else "chromium"
        print(f"no pictures of the pages for the README: {lacking} is not installed", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        page = browser.new_page(viewport={"width": 1024, "height": 720})
        lines = [_take(page, folder, shot) for shot in SHOTS]
        browser.close()
    (folder / LINES).write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _take(page: Any, folder: Path, shot: Shot) -> str:
    """Take one picture; returns the README's lines about it, with the page's own words for who cannot see it."""
    page.goto(next(folder.glob(shot.page)).as_uri())
    page.wait_for_selector(shot.ready)
    page.locator(shot.part).first.screenshot(path=folder / f"{shot.name}.jpg", type="jpeg", quality=85)
    words = " ".join(page.locator(shot.words).first.inner_text().split())
    return f"![{words}](data/results/{shot.name}.jpg)\n\n*{shot.caption}*"
