"""A Chromium page that may neither complain nor leave this machine."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
VIEWPORT = {"width": 1024, "height": 768}
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
_CALL = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Leave the outcome of the test where its fixtures can see it."""
    report: Any = yield
    if report.when == "call":
        item.stash[_CALL] = report
    return report


def stays_here(url: str) -> bool:
    """Whether a request does not leave this machine."""
    parts = urlsplit(url)
    return parts.scheme in {"file", "data", "blob", "about"} or parts.hostname in {"127.0.0.1", "localhost", "::1"}


@pytest.fixture(scope="module")  # not longer: while Playwright is open, nothing else can run an event loop
def chromium() -> Iterator[Any]:
    """One browser for all tests of a module."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        missing = "no Chromium: apt install chromium"
        if os.environ.get("DUALTASK_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh page; the test fails when it logs an error or asks for anything outside."""
    context = chromium.new_context(viewport=VIEWPORT)
    page, complaints = context.new_page(), []

    def guard(route: Any) -> None:
        if stays_here(route.request.url):
            route.continue_()
        else:
            complaints.append(f"request to {route.request.url[:200]}")
            route.abort()

    context.route("**/*", guard)
    page.on("console", lambda message: message.type == "error" and complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    yield page
    call = request.node.stash.get(_CALL, None)
    if complaints or (call is not None and call.failed):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "-", request.node.name)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    context.close()
    if complaints:
        pytest.fail("\n".join(complaints))
