"""The exercises and predictions of the lessons: right answers, hints and explanations.

The answers are not in the notebooks, where learners would see them beside the question, but in the functions of
``lesson_NN.py``, which ``check`` and ``outcome`` find by number.
"""

from dualtask_lite.show.exercises.choices import OUTCOME_TYPE, choice, outcome
from dualtask_lite.show.exercises.judge import VERDICT_TYPE, Verdict, check

__all__ = ["OUTCOME_TYPE", "VERDICT_TYPE", "Verdict", "check", "choice", "outcome"]
