"""Check an answer: not attempted, wrong (with a hint, later with the solution), or right (with its meaning).

The function of an exercise is named like its answer, and its parameters are names of the lesson: ``check`` takes their
values from the calling notebook. It returns the right answer, or, with a parameter ``answer``, whether that is
right.
"""

from __future__ import annotations

import html
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dualtask_lite.errors import DualTaskError

VERDICT_TYPE = "application/vnd.dualtask.verdict+json"
PATIENCE = 3  # number of different wrong answers after which the solution is shown
_SIGNS = {"not attempted": "○", "wrong": "✗", "right": "✓"}
_ASSIGNED = re.compile(r"^\s*(?:def\s+(\w+)\s*\(|(\w+)\s*(?::[^=\n]*)?=(?!=))", re.M)
_exercises: dict[str, Exercise] = {}
_wrong_answers: dict[str, set[str]] = {}
_failed: set[str] = set()  # names that were assigned in a cell that ended with an error


class MissingNameError(Exception):
    """The notebook has not set a name that an exercise needs."""


class AnswerFailedError(Exception):
    """The function that is the answer fails; the message is that of its error."""


@dataclass(frozen=True)
class Verdict:
    """The result of checking an answer."""

    number: str
    state: Literal["not attempted", "wrong", "right"]
    message: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.message}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        first, *more = str(self).split("\n")
        lines = [f"<strong>{html.escape(first)}</strong>", *map(html.escape, more)]
        paragraph = f'<p role="status">{"<br>".join(lines)}</p>'
        record = {"exercise": self.number, "state": self.state}
        return {"text/html": paragraph, "text/plain": str(self), VERDICT_TYPE: record}


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        right: computes the right answer, or judges the parameter ``answer``.
        hint: shown after a wrong answer.
        solution: how to find the answer, shown after ``PATIENCE`` wrong answers.
        meaning: shown after the right answer; a text with ``{answer}`` in it, or a function like ``right``.
        tolerance: relative tolerance of numbers.
        rounding: absolute tolerance of numbers, so that an answer with the digits of ``meaning`` is right.
    """

    right: Callable[..., Any]
    hint: str
    solution: str
    meaning: str | Callable[..., str]
    tolerance: float
    rounding: float

    @property
    def name(self) -> str:
        """The name of the answer in the notebook."""
        return self.right.__name__

    def accepts(self, answer: Any, lesson: Mapping[str, Any]) -> bool:
        """Judge an answer with the values of the lesson.

        Raises:
            AnswerFailedError: when the answer is a function, and it fails.
        """
        arguments = _arguments(self.right, {**lesson, "answer": answer})
        if "answer" not in arguments:
            return self._equals(answer, self.right(**arguments))
        try:
            return bool(self.right(**arguments))
        except Exception as error:
            if callable(answer):
                raise AnswerFailedError(f"{type(error).__name__}: {error}") from error
            return False

    def _equals(self, answer: Any, expected: Any) -> bool:
        if isinstance(expected, str):
            return isinstance(answer, str) and answer == expected
        try:
            if not np.shape(expected):
                answer = _plain(answer)  # an array of one number, as values[x == 10] gives, is that number
            if np.asarray(answer).dtype == bool or np.shape(answer) != np.shape(expected):
                return False
            return bool(np.allclose(answer, expected, rtol=self.tolerance, atol=self.rounding))
        except Exception:  # an answer that cannot be compared is wrong
            return False

    def explain(self, answer: Any, lesson: Mapping[str, Any]) -> str:
        """Explain the meaning of a right answer."""
        value = _plain(answer)
        if callable(self.meaning):
            return str(call_with(self.meaning, {**lesson, "answer": value}))
        return self.meaning.format(answer=value)


def exercise(
    number: str,
    *,
    hint: str,
    solution: str,
    meaning: str | Callable[..., str],
    tolerance: float = 0.01,
    rounding: float = 0.0,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the exercise ``number``, such as ``"02.3"``; see ``Exercise``."""

    def register(right: Callable[..., Any]) -> Callable[..., Any]:
        _exercises[number] = Exercise(right, hint, solution, meaning, tolerance, rounding)
        return right

    return register


def find_exercise(number: str) -> Exercise:
    """Get an exercise by its number.

    Raises:
        DualTaskError: when there is none.
    """
    load_lesson(number)
    if number not in _exercises:
        raise DualTaskError(f"there is no exercise {number!r}", "write lesson and number, such as '02.3'")
    return _exercises[number]


def load_lesson(number: str) -> None:
    """Import the module of the lesson that an exercise or a choice belongs to, which registers both."""
    lesson = number.partition(".")[0]
    try:
        importlib.import_module(f"dualtask_lite.show.exercises.lesson_{lesson}")
    except ModuleNotFoundError as missing:
        raise DualTaskError(f"there is no lesson {lesson!r}", "write lesson and number, such as '02.3'") from missing


def check(number: str, answer: Any) -> Verdict:
    """Check the answer to an exercise, with the values in the calling notebook.

    Args:
        number: of the exercise: lesson and number, such as ``"02.3"``.
        answer: of the learner; ``...`` or ``None`` without an answer.

    Raises:
        DualTaskError: when there is no such exercise.
    """
    _watch_cells()
    task = find_exercise(number)
    lesson = sys._getframe(1).f_globals
    if answer is None or answer is ...:
        message = "Not attempted yet: replace the three dots by your answer and run this again."
        return Verdict(number, "not attempted", message)
    if task.name in _failed:
        message = f"Not judged: the cell that sets {task.name} ended with an error. Correct it and run both again."
        return Verdict(number, "not attempted", message)
    message = f"Not yet. Hint: {task.hint}"
    try:
        if task.accepts(answer, lesson):
            return Verdict(number, "right", f"Right. {task.explain(answer, lesson)}")
    except MissingNameError as missing:
        return Verdict(number, "not attempted", f"Not judged: {missing}.")
    except AnswerFailedError as failed:
        message += f"\nYour function ended with {failed}"
    tried = _wrong_answers.setdefault(number, set())
    tried.add(repr(answer))
    if len(tried) >= PATIENCE:
        message += f"\nThe way to the solution: {task.solution}"
    return Verdict(number, "wrong", message)


def call_with(function: Callable[..., Any], lesson: Mapping[str, Any]) -> Any:
    """Call a function with the lesson's values of its parameters.

    Raises:
        MissingNameError: when the notebook has not set one of them.
    """
    return function(**_arguments(function, lesson))


def _arguments(function: Callable[..., Any], lesson: Mapping[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(function).parameters)
    if missing := [name for name in names if name not in lesson]:
        raise MissingNameError(f"it needs {', '.join(missing)} of the lesson; run the cells above first")
    return {name: lesson[name] for name in names}


def _plain(value: Any) -> Any:
    """Convert a number of numpy or torch to Python's, for format strings."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError):  # no such number
        return value


def _watch_cells() -> None:
    """Record which cells fail, so that the old value of a name is not mistaken for a new answer."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    shell = get_ipython()
    if shell is not None and _note_failure not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _note_failure)


def _note_failure(result: Any) -> None:
    """Add the names that a failed cell assigns to ``_failed``, and remove those of a successful cell."""
    names = {name for pair in _ASSIGNED.findall(result.info.raw_cell or "") for name in pair if name}
    if result.success:
        _failed.difference_update(names)
    else:
        _failed.update(names)


_watch_cells()
