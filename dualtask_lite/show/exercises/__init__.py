"""The exercises of the lessons: what is right, the hints, and what a right answer means.

They lie here and not in the notebooks, so that an answer does not stand under its question. A lesson's exercises are
the functions of ``lesson_NN.py``; ``check`` finds them by number.
"""

from dualtask_lite.show.exercises.judge import VERDICT_TYPE, Verdict, check

__all__ = ["VERDICT_TYPE", "Verdict", "check"]
