"""A deck of slides in Chromium, with reveal.js from npm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import slides
from nbformat.v4 import new_markdown_cell, new_notebook

from dualtask_lite.errors import DualTaskError


@pytest.fixture(scope="module")
def library() -> dict[str, str]:
    try:
        return slides.reveal()
    except DualTaskError as error:
        if os.environ.get("DUALTASK_REQUIRE_BROWSER"):
            raise
        pytest.skip(f"needs npm and its registry: {error}")


def test_deck_turns_its_slides_by_keyboard_without_network(page: Any, tmp_path: Path, library: dict[str, str]):
    texts = ["# 09 A lesson\n\nOpening.", "## First\n\nShown.\n\nFor the speaker.", "## Second\n\nAlso shown."]
    notebook = new_notebook(cells=[new_markdown_cell(text) for text in texts])
    file = tmp_path / "deck.html"
    file.write_text(slides.deck(notebook, "09 A lesson", library), encoding="utf-8")
    page.goto(file.as_uri())
    page.wait_for_selector(".reveal.ready")
    assert page.locator("section.present", has_text="Opening.").first.is_visible()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**#/1")
    assert page.locator("section.present", has_text="Shown.").first.is_visible()
    assert not page.get_by_text("For the speaker.").is_visible()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**#/2")
    assert page.locator("section.present", has_text="Also shown.").first.is_visible()
