"""A learner predicts by keyboard and answers an exercise, in JupyterLab."""

from __future__ import annotations

from typing import Any

import pytest
from looking import PATIENCE

pytestmark = pytest.mark.browser

CELLS = [
    "from dualtask_lite.show.lesson import check, choice, outcome",
    "choice('02.A', 'What will 60 steps do to the map?', 'it moves', 'it stays where it is, ' * 12, 'an error')",
    "stuck = [0.5, 0.5]\noutcome('02.A')",
    "from dualtask_lite.show.exercises import judge\njudge._wrong_answers.clear()\n"
    "for wrong in (1, 2):\n    check('02.1', wrong)\ncheck('02.1', 3)",
    "check('02.1', -4.394)",
]


def outputs(page: Any, cell: int) -> Any:
    return page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")


def test_a_choice_by_keyboard_stands_beside_the_outcome(lab: Any, page: Any):
    lab.run(page, CELLS)
    assert "nothing was chosen" in outputs(page, 2).inner_text()
    assert "The way to the solution" in outputs(page, 3).inner_text()
    assert "Right. -4.4 mm" in outputs(page, 4).inner_text()
    buttons = outputs(page, 1).get_by_role("button")
    assert buttons.count() == 3
    buttons.first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    outputs(page, 1).get_by_text("You expect b.").wait_for()
    assert "mod-primary" in buttons.nth(1).get_attribute("class")
    wide, area = (part.bounding_box()["width"] for part in (buttons.nth(1), outputs(page, 1)))
    assert wide <= area, "a long option wraps"
    assert buttons.nth(1).bounding_box()["height"] > 1.5 * buttons.nth(0).bounding_box()["height"]
    page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex = 2")
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-cell')")
    outputs(page, 2).get_by_text("b) it stays where it is").first.wait_for(timeout=1000 * PATIENCE)
    assert "nothing was chosen" not in outputs(page, 2).inner_text()
