"""The exception whose message is written for users, and the description of any other."""

from __future__ import annotations

import os
import traceback


class DualTaskError(Exception):
    """An error that the user can fix.

    Args:
        what: what was found, with the name of the file or the setting.
        remedy: what to do about it, as an instruction.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(what, remedy)

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def reason_of(error: Exception) -> str:
    """Describe why one case of many failed; an unexpected error is printed with its traceback after ``--debug``."""
    if isinstance(error, DualTaskError):
        return str(error)
    if os.environ.get("DUALTASK_DEBUG"):
        traceback.print_exception(error)
    return f"{type(error).__name__}: {error}; run dualtask --debug ... to see where, and report it"
