"""The exception whose message is written for users."""

from __future__ import annotations


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
