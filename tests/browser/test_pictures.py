"""The screenshot of the README, of a page like the one that ``make demo`` builds."""

from __future__ import annotations

import re

import numpy as np
import pictures
import pytest
from looking import coloured, require
from PIL import Image

from dualtask_lite import show
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.show import palette

require("ipyniivue")
pytestmark = pytest.mark.browser


@pytest.fixture
def demo(tmp_path):
    scan = make_case("B", 5, size=(48, 48, 24)).load()
    prediction = np.roll(scan.label, (2, 1), (0, 1))
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><body>'
    slices = show.slices(scan, prediction, viewer="html").to_html()
    (tmp_path / "04_the_framework.html").write_text(head + slices, encoding="utf-8")
    return tmp_path


def test_screenshot_is_saved_with_alt_text(demo, program):
    pictures.save_screenshot(demo)
    lines = (demo / pictures.LINES).read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^]]*)]\(data/results/([^)]*)\)", lines)
    assert [file for _, file in shown] == ["slices.jpg"]
    for words, file in shown:
        assert "Prediction" in words
        assert re.search(r"tumour [^.]*\d", words)
        image = np.asarray(Image.open(demo / file).convert("RGB")).astype(float) / 255
        assert image.shape[1] > 600
        assert coloured(image, palette.TUMOUR, 0.15) > 50  # JPEG blurs hues
        assert (demo / file).stat().st_size < 150_000


def test_missing_chromium_is_reported_without_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "chromium", lambda: None)
    pictures.save_screenshot(tmp_path)
    assert "chromium is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
