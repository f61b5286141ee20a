"""A prediction: asked, chosen, and put beside what came out."""

from __future__ import annotations

import pytest

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.exercises import choices
from dualtask_lite.show.exercises.choices import OUTCOME_TYPE, choice, outcome, result

OPTIONS = ("up", "down <b>")


@pytest.fixture(autouse=True)
def own_choices(monkeypatch):
    """A question of a lesson 99, and no memory of other tests."""
    for name in ("_results", "_asked", "_chosen"):
        monkeypatch.setattr(choices, name, {})
    monkeypatch.setattr(choices, "load_lesson", lambda number: None)

    @result("99.A")
    def way(change):
        return ("a" if change > 0 else "b"), f"It changed by {change}."


def in_notebook(code, **values):
    notebook = {"outcome": outcome, **values}
    exec(f"shown = {code}", notebook)
    return notebook["shown"]


def test_a_page_shows_the_question_and_its_options():
    bundle = choice("99.A", "Which way & why?", *OPTIONS)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}, "no widget where there is no kernel"
    assert "Which way &amp; why?" in bundle["text/html"]
    assert (
        '<ol type="a" style="list-style-type: lower-alpha"><li>up</li><li>down &lt;b&gt;</li></ol>'
        in bundle["text/html"]
    )
    assert bundle["text/plain"].splitlines()[1:] == ["a) up", "b) down <b>"]


@pytest.mark.parametrize(
    ("chosen", "expected", "as_expected"),
    [(None, "nothing was chosen", None), ("a", "a) up", False), ("b", "b) down <b>", True)],
)
def test_the_choice_stands_beside_the_outcome(chosen, expected, as_expected):
    asked = choice("99.A", "Which way?", *OPTIONS)
    if chosen:
        asked.choose(chosen)
    shown = in_notebook("outcome('99.A')", change=-1)
    assert (shown.expected, shown.found, shown.as_expected) == (expected, "b) down <b>", as_expected)
    bundle = shown._repr_mimebundle_()
    assert bundle[OUTCOME_TYPE] == {"choice": "99.A", "as_expected": as_expected}
    assert "down &lt;b&gt;" in bundle["text/html"]
    assert "It changed by -1." in bundle["text/html"]


def test_a_choice_survives_that_its_cell_runs_again():
    choice("99.A", "Which way?", *OPTIONS).choose("a")
    assert choice("99.A", "Which way?", *OPTIONS).chosen == "a"


def test_a_button_chooses_and_shows_that_it_is_chosen():
    pytest.importorskip("ipywidgets")
    asked = choice("99.A", "Which way?", *OPTIONS)
    _, up, down, status = asked.widget.children
    down.click()
    assert asked.chosen == "b"
    assert (up.button_style, down.button_style) == ("", "primary")
    assert "You expect b" in status.value
    up.click()
    assert (asked.chosen, up.button_style, down.button_style) == ("a", "primary", "")


def test_outcome_without_question_or_values_names_missing_cells():
    with pytest.raises(DualTaskError, match="not asked; run the cell with its choice"):
        in_notebook("outcome('99.A')", change=1)
    choice("99.A", "Which way?", *OPTIONS)
    with pytest.raises(DualTaskError, match="needs change of the lesson; run the cells above"):
        in_notebook("outcome('99.A')")
