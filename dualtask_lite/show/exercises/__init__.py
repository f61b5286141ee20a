"""The exercises and predictions of the lessons: what is right, the hints, and what it means.

They lie here and not in the notebooks, so that an answer does not stand under its question: the functions of
``lesson_NN.py``, which ``check`` and ``outcome`` find by number.
"""

from dualtask_lite.show.exercises.choices import OUTCOME_TYPE, choice, outcome
from dualtask_lite.show.exercises.judge import VERDICT_TYPE, Verdict, check

__all__ = ["OUTCOME_TYPE", "VERDICT_TYPE", "Verdict", "check", "choice", "outcome"]
