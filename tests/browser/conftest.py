"""A Chromium page that may neither complain nor leave this machine, and a JupyterLab to open in it."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pictures
import pytest
from looking import PATIENCE, require

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *pictures.FLAGS,
]
VIEWPORT = {"width": 1024, "height": 768}
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SLOW = "[anywidget] Failed to initialize model."  # it says so after 2 s, and goes on
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


@pytest.fixture(scope="session")
def program() -> str:
    """Where Chromium is."""
    found = pictures.chromium()
    if found is None:
        missing = "no Chromium: apt install chromium"
        if os.environ.get("DUALTASK_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.fixture(scope="module")  # not longer: while Playwright is open, nothing else can run an event loop
def chromium(program: str) -> Iterator[Any]:
    """One browser for all tests of a module."""
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

    def listen(message: Any) -> None:
        if message.type == "error":
            complaints.append(f"console: {message.text} ({message.location['url'][:200]})")

    def blame(error: Any) -> None:
        if str(error) != SLOW:
            complaints.append(f"script: {error}")

    def guard_socket(socket: Any) -> None:
        if not stays_here(socket.url.replace("ws", "http", 1)):
            complaints.append(f"socket to {socket.url[:200]}")

    context.route("**/*", guard)
    page.on("websocket", guard_socket)
    page.on("console", listen)
    page.on("pageerror", blame)
    yield page
    call = request.node.stash.get(_CALL, None)
    if complaints or (call is not None and call.failed):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "-", request.node.name)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    context.close()
    if complaints:
        pytest.fail("\n".join(complaints))


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab; ``run`` opens a new notebook in a page and runs it."""

    url: str
    token: str
    folder: Path

    def run(self, page: Any, cells: Sequence[str]) -> Any:
        """Run code cells in JupyterLab, as a learner does, and give back the page when the kernel is idle again.

        A cell that raises fails the test with its traceback. The outputs are ``page.locator(".jp-OutputArea-output")``.
        """
        self.open(page, cells)
        page.evaluate(_RUN_ALL)
        page.wait_for_function(f"() => window.ran && {_IDLE}", timeout=1000 * PATIENCE)
        errors = page.evaluate(_ERRORS)
        assert not errors, "\n".join(errors)
        return page

    def open(self, page: Any, cells: Sequence[str]) -> None:
        """Open a new notebook of these code cells, without running it, and wait for its kernel."""
        name = f"{secrets.token_hex(4)}.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / name)
        page.goto(f"{self.url}lab/tree/{name}?reset&token={self.token}")
        page.wait_for_function(f"() => {_IDLE}", timeout=1000 * PATIENCE)
        page.evaluate("window.jupyterapp.shell.collapseLeft()")


_IDLE = "window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'"
_CELLS = "[...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === 'code')"
_RUN_ALL = "void window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true })"
_ERRORS = f"{_CELLS}.flatMap(cell => cell.outputs.toJSON()).filter(o => o.output_type === 'error')"
_ERRORS += ".map(o => o.traceback.join('\\n').replace(/\\x1b\\[[0-9;]*m/g, ''))"


@contextmanager
def jupyterlab(
    folder: Path, base_url: str = "/", *, imjoy: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Lab]:
    """Start JupyterLab on a free port of this machine, with settings of its own; it and its kernels end with the block.

    Args:
        folder: an empty one, for notebooks, settings and the log.
        base_url: where it is served, as behind JupyterHub ``/user/ada/``.
        imjoy: with the extension that shows itkwidgets.
        environment: variables for the server and its kernels.
    """
    token, port, home = secrets.token_hex(16), _free_port(), folder / "home"
    (home / "config" / "labconfig").mkdir(parents=True)
    # Both load from the network as soon as JupyterLab opens.
    off = {"@jupyterlab/apputils-extension:announcements": True, "imjoy-jupyterlab-extension": not imjoy}
    (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps({"disabledExtensions": off}))
    (folder / "notebooks").mkdir()
    own = {f"JUPYTER_{what.upper()}_DIR": str(home / what) for what in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PLATFORM_DIRS": "0"}
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("DUALTASK_VIEWER", "JPY_"))}
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.base_url": base_url,
        "ServerApp.root_dir": folder / "notebooks",
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.extension_manager": "readonly",
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "jupyterlab.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=outer | own | dict(environment or {}), stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}{base_url}"
    try:
        _wait_for(server, f"{url}api/status?token={token}", folder / "jupyterlab.log")
        yield Lab(url, token, folder / "notebooks")
    finally:
        server.terminate()  # it ends its kernels first
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()  # a kernel whose server is gone ends by itself
            server.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def lab_with(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start a JupyterLab in a new folder; see ``jupyterlab``."""
    require("jupyterlab")
    return lambda *args, **options: jupyterlab(tmp_path_factory.mktemp("lab"), *args, **options)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, lab_with: Any) -> Iterator[Lab]:
    """One JupyterLab for all tests of a module; its base URL is ``/`` unless parametrised (indirectly)."""
    with lab_with(getattr(request, "param", "/")) as running:
        yield running
