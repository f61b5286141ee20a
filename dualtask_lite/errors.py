"""The one exception that a user is meant to read."""

from __future__ import annotations


class DualTaskError(Exception):
    """Something that the user can put right.

    Args:
        what: what was found, naming the file or the setting.
        remedy: what to do about it, as an instruction.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(what, remedy)

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"
