"""How answers are judged, in a notebook and out of one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.exercises import judge
from dualtask_lite.show.exercises.judge import VERDICT_TYPE, check, exercise


@pytest.fixture(autouse=True)
def own_exercises(monkeypatch):
    """Exercises of a lesson 99, and no memory of other tests."""
    for name in ("_exercises", "_wrong_answers"):
        monkeypatch.setattr(judge, name, {})
    monkeypatch.setattr(judge, "_failed", set())
    monkeypatch.setattr(judge, "load_lesson", lambda number: None)


def of(expected, **more):
    """An exercise whose right answer is known; check it in the namespace of this module."""

    def size():
        return expected

    exercise("99.1", hint="think", solution="do this", meaning="{answer} it is", **more)(size)


@pytest.mark.parametrize(
    ("answer", "right", "state"),
    [
        (..., 3, "not attempted"),
        (None, 3, "not attempted"),
        (3, 3, "right"),
        (3.01, 3, "right"),
        (3.1, 3, "wrong"),
        ("3", 3, "wrong"),
        (math.nan, 3, "wrong"),
        (np.float32(3), 3, "right"),
        (torch.tensor(3.0), 3, "right"),
        ([1, 2], [1.0, 2.0], "right"),
        ([1, 2, 3], [1.0, 2.0], "wrong"),
        ("B", "B", "right"),
        ("b", "B", "wrong"),
        (object(), 3, "wrong"),
        (0, 0, "right"),
        (False, 0, "wrong"),
        (np.bool_(True), 1, "wrong"),
        (np.str_("B"), "B", "right"),
        (np.array([3.0]), 3, "right"),
        (torch.tensor([[3.0]], requires_grad=True), 3, "right"),
        (np.array([True]), 1, "wrong"),
        (np.array([3.0, 3.0]), 3, "wrong"),
        ([1.0], [1.0], "right"),
        (np.array([1.0]), [1.0], "right"),
    ],
)
def test_an_answer_is_compared_with_the_right_one(answer, right, state):
    of(right)
    verdict = check("99.1", answer)
    assert verdict.state == state
    assert ("think" in verdict.message) == (state == "wrong")
    assert ("it is" in verdict.message) == (state == "right")


def test_a_whole_number_may_not_be_off():
    of(100, tolerance=0)
    assert check("99.1", 100.5).state == "wrong"


def test_rounded_answer_is_right():
    of(0.1243, tolerance=0, rounding=0.005)
    assert [check("99.1", answer).state for answer in (0.12, 0.124, 0.13)] == ["right", "right", "wrong"]


def test_error_of_a_function_is_shown():
    @exercise("99.4", hint="think", solution="do this", meaning="yes")
    def doubled(answer):
        return answer(2) == 4

    assert check("99.4", lambda value: 2 * value).state == "right"
    failed = check("99.4", lambda value: value / 0)
    assert (failed.state, failed.message.splitlines()[1]) == (
        "wrong",
        "Your function ended with ZeroDivisionError: division by zero",
    )


def test_answer_that_raises_is_wrong():
    @exercise("99.2", hint="think", solution="do this", meaning="yes")
    def larger(answer):
        return answer > 3

    assert check("99.2", 4).state == "right"
    assert check("99.2", object()).state == "wrong"


def test_values_come_from_the_notebook_that_calls():
    @exercise("99.3", hint="add", solution="a + b", meaning=lambda answer, a: f"{answer} is more than {a}")
    def total(a, b):
        return a + b

    notebook = {"check": check, "a": 2}
    exec("before = check('99.3', 5); b = 3; after = check('99.3', 5)", notebook)
    assert notebook["before"].state == "not attempted"
    assert "needs b of the lesson" in notebook["before"].message
    assert notebook["after"].message == "Right. 5 is more than 2"


def test_solution_path_appears_after_three_different_wrong_answers():
    of(3)
    messages = [check("99.1", answer).message for answer in (1, 1, 2, ..., 1, 4)]
    assert ["do this" in message for message in messages] == [False] * 5 + [True]


def test_an_unknown_number_is_refused(monkeypatch):
    with pytest.raises(DualTaskError, match=r"no exercise '99\.9'"):
        check("99.9", 1)
    monkeypatch.undo()
    with pytest.raises(DualTaskError, match="no lesson '99'"):
        check("99.1", 1)


def test_machines_read_the_state_and_the_number():
    of("<b>")
    bundle = check("99.1", "<b>")._repr_mimebundle_()
    assert json.loads(json.dumps(bundle[VERDICT_TYPE])) == {"exercise": "99.1", "state": "right"}
    assert "&lt;b&gt; it is" in bundle["text/html"]


@pytest.fixture
def shell():
    """An IPython of its own, as a kernel has one."""
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    made = interactive.InteractiveShell.instance()
    yield made
    made.events.callbacks["post_run_cell"].remove(judge._note_failure)
    interactive.InteractiveShell.clear_instance()


@pytest.mark.parametrize("broken", ["size = 1 / 0", "size = 3 +", "def size():\n  return 1 / 0\nsize = size()"])
def test_an_old_value_is_not_judged_after_an_error(shell, broken, capsys):
    of(3)
    shell.user_ns["check"] = check
    for cell, state in (("size = 3", "right"), (broken, "not attempted"), ("size = 3", "right")):
        shell.run_cell(cell)
        assert shell.run_cell("check('99.1', size)").result.state == state


def test_an_error_in_another_cell_does_not_matter(shell, capsys):
    of(3)
    shell.user_ns["check"] = check
    shell.run_cell("size = 3")
    shell.run_cell("size == 1 / 0")
    assert shell.run_cell("check('99.1', size)").result.state == "right"
