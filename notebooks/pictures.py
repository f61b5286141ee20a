"""Pictures for the README: the figure of the method, and a page that ``make demo`` built, as Chromium shows it."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.show import figures
from dualtask_lite.show.picture import Picture

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL2 without a graphics card
LINES = "pictures.md"

# The screenshot: a slice browser. Its page, its element, what is in it when it is drawn, and its description.
PAGE, ELEMENT = "04_the_framework.html", ".dualtask-slices"
DRAWN, DESCRIPTION = f"{ELEMENT} .stage img.ct", f"{ELEMENT} .words"
CAPTION = (
    "Lesson 04, slice by slice, by a model that trained for 60 steps: truth, prediction, and the distance that the "
    "second head predicts. The case is the median, by Dice, of the detected tumours."
)


def framework() -> Picture:
    """Draw the method, on a made-up case with finer voxels than the lessons use."""
    return figures.framework(make_case("B", 5, size=(200, 200, 80)).load())


def chromium() -> str | None:
    """Find Chromium, or a browser made of it."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def save_screenshot(folder: Path) -> None:
    """Save a screenshot of the demo in ``folder``, and the README's lines about it; or report what is missing."""
    program = chromium()
    if program is None or not find_spec("playwright"):
        missing = "playwright" if program else "chromium"
        print(f"no screenshot for the README: {missing} is not installed", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        page = browser.new_page(viewport={"width": 1024, "height": 720})
        page.goto((folder / PAGE).as_uri())
        page.wait_for_selector(DRAWN)
        page.locator(ELEMENT).first.screenshot(path=folder / "slices.jpg", type="jpeg", quality=85)
        alt = " ".join(page.locator(DESCRIPTION).first.inner_text().split())
        browser.close()
    (folder / LINES).write_text(f"![{alt}](data/results/slices.jpg)\n\n*{CAPTION}*\n", encoding="utf-8")
