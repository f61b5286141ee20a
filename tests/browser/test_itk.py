"""itkwidgets with its JavaScript from npm, served by JupyterLab, in a copy of the extension."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from looking import coloured, drawn, require

from dualtask_lite.errors import DualTaskError
from dualtask_lite.viewers import extension

require("itkwidgets")
pytestmark = pytest.mark.browser

RED, VIOLET = "#D70000", "#8C3CFF"  # of labels 1 and 2 in its colour table
NEAR = 0.15  # its light changes hues a little
CASE = """
from dualtask_lite import show
from dualtask_lite.cases.phantom import make_case
scan = make_case("B", 5, size=(48, 48, 24)).load()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder for JUPYTER_PATH with the extension and its JavaScript."""
    found, root = extension.find(), tmp_path_factory.mktemp("jupyter")
    assert found is not None, "itkwidgets brings it"
    shutil.copytree(found, root / "labextensions" / extension.NAME)
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(root)
    try:
        extension.install()
    except DualTaskError as error:
        if os.environ.get("DUALTASK_REQUIRE_BROWSER"):
            raise
        pytest.skip(f"needs npm and its registry: {error}")
    finally:
        os.environ.pop("JUPYTER_PATH")
        if before is not None:
            os.environ["JUPYTER_PATH"] = before
    return root


@pytest.fixture(scope="module")
def itk_lab(lab_with: Any, installed: Path):
    with lab_with("/user/ada/", imjoy=True, environment={"JUPYTER_PATH": str(installed)}) as running:
        yield running


def test_itkwidgets_draws_without_network_and_does_not_block(itk_lab: Any, page: Any):
    page.set_viewport_size({"width": 760, "height": 760})
    itk_lab.run(page, [CASE, "view = show.volume3d(scan, viewer='itk')\nview", "print('after', view.viewer)"])
    assert "after itk" in page.locator(".jp-OutputArea-output").last.inner_text()
    words = page.locator(".jp-Notebook").inner_text()
    assert "true pancreas red, true tumour violet" in words
    assert "orange" not in words, "that is NiiVue's"
    page.locator(".jp-OutputArea iframe").scroll_into_view_if_needed()
    view = page.frame_locator(".jp-OutputArea iframe").locator("canvas").first
    view.wait_for()
    shown = drawn(view, VIOLET, near=NEAR)
    assert shown.std() > 0.02
    assert coloured(shown, VIOLET, NEAR) > 50
    assert coloured(shown, RED, NEAR) > 50
