"""Predict before you run: a question with choices before a result, and the choice beside the outcome after it.

The question is in the notebook. A function of ``lesson_NN.py`` finds the outcome from the values of the notebook, so
that the notebook does not reveal the answer.
"""

from __future__ import annotations

import html
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.controls.explorer import is_live, view_of
from dualtask_lite.show.exercises.judge import MissingNameError, call_with, load_lesson

OUTCOME_TYPE = "application/vnd.dualtask.outcome+json"
_STYLE = """<style>
.dualtask-choice button { display: block; height: auto; min-height: 2.2em; line-height: 1.4; padding: 0.3em 0.8em;
  text-align: left; white-space: normal; }
</style>"""
_results: dict[str, Callable[..., tuple[str, str]]] = {}
_asked: dict[str, Choice] = {}
_chosen: dict[str, str] = {}


@dataclass(frozen=True)
class Choice:
    """A question with lettered options: buttons in a live notebook, a list in a saved page."""

    number: str
    question: str
    options: Sequence[str]

    @property
    def letters(self) -> str:
        """The letters of the options: ``"abc"``."""
        return string.ascii_lowercase[: len(self.options)]

    def named(self, letter: str) -> str:
        """An option with its letter."""
        return f"{letter}) {self.options[self.letters.index(letter)]}"

    def choose(self, letter: str) -> None:
        """Store the choice until the kernel ends."""
        _chosen[self.number] = letter

    @property
    def chosen(self) -> str | None:
        """The letter that was chosen."""
        return _chosen.get(self.number)

    def __str__(self) -> str:
        return "\n".join([f"Before you go on: {self.question}", *map(self.named, self.letters)])

    def to_html(self) -> str:
        """Write the question and its options."""
        items = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        return f'{self._heading()}<ol type="a" style="list-style-type: lower-alpha">{items}</ol>'

    def _heading(self) -> str:
        return f"<p><strong>Before you go on:</strong> {html.escape(self.question)}</p>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        still = {"text/html": self.to_html(), "text/plain": str(self)}
        return {**view_of(self.widget), **still} if is_live("ipywidgets") else still

    @cached_property
    def widget(self) -> Any:
        """The question with a button for each option; Tab goes from one to the next, and Space chooses."""
        import ipywidgets

        status = ipywidgets.HTML()
        wide = ipywidgets.Layout(width="auto")
        buttons = [ipywidgets.Button(description=self.named(letter), layout=wide) for letter in self.letters]

        def show() -> None:
            for letter, button in zip(self.letters, buttons, strict=True):
                button.button_style = "primary" if letter == self.chosen else ""
            if self.chosen:
                status.value = f'<p role="status">You expect {self.chosen}. Now run the cells below.</p>'

        def press(letter: str) -> Callable[[Any], None]:
            def pressed(_: Any) -> None:
                self.choose(letter)
                show()

            return pressed

        for letter, button in zip(self.letters, buttons, strict=True):
            button.on_click(press(letter))
        show()
        box = ipywidgets.VBox([ipywidgets.HTML(_STYLE + self._heading()), *buttons, status])
        box.add_class("dualtask-choice")
        return box


@dataclass(frozen=True)
class Outcome:
    """The outcome, beside the expectation of the learner."""

    number: str
    expected: str
    found: str
    because: str
    as_expected: bool | None

    def __str__(self) -> str:
        return f"You expected: {self.expected}\nIt is: {self.found}\n{self.because}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        rows = (("You expected", self.expected), ("It is", self.found))
        cells = "".join(
            f'<tr><th scope="row" style="text-align: left">{name}</th>'
            f'<td style="text-align: left">{html.escape(text)}</td></tr>'
            for name, text in rows
        )
        record = {"choice": self.number, "as_expected": self.as_expected}
        shown = f"<table>{cells}</table><p>{html.escape(self.because)}</p>"
        return {"text/html": shown, "text/plain": str(self), OUTCOME_TYPE: record}


def result(number: str) -> Callable[[Callable[..., tuple[str, str]]], Callable[..., tuple[str, str]]]:
    """Register the decorated function: it takes values of the lesson, and returns the right letter and the reason."""

    def register(find: Callable[..., tuple[str, str]]) -> Callable[..., tuple[str, str]]:
        _results[number] = find
        return find

    return register


def choice(number: str, question: str, *options: str) -> Choice:
    """Ask for the outcome before the cells below show it.

    Args:
        number: lesson and letter, such as ``"02.A"``, as for ``outcome``.
        question: one sentence.
        options: the possible outcomes; they get the letters a, b, c.
    """
    _asked[number] = Choice(number, question, options)
    return _asked[number]


def outcome(number: str) -> Outcome:
    """Show the outcome beside the expectation, from the values in the calling notebook.

    Args:
        number: of the choice.

    Raises:
        DualTaskError: when there is no such choice, or its question or a cell above was not run.
    """
    load_lesson(number)
    if number not in _asked or number not in _results:
        raise DualTaskError(f"the question {number!r} was not asked", "run the cell with its choice first")
    asked, lesson = _asked[number], sys._getframe(1).f_globals
    try:
        letter, because = call_with(_results[number], lesson)
    except MissingNameError as missing:
        raise DualTaskError(f"the outcome of {number} is not known", str(missing)) from missing
    expected = asked.named(asked.chosen) if asked.chosen else "nothing was chosen"
    right = asked.chosen == letter if asked.chosen else None
    return Outcome(number, expected, asked.named(letter), because, right)
