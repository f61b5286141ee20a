"""Parts of the README that programs write, each between two marks."""

from __future__ import annotations

import sys
from pathlib import Path

ANSWERS = {  # what each lesson answers, for the README's table
    "00": "What is the task, what do the data look like, can this machine run it?",
    "01": "Why should a network predict a distance, and in mm?",
    "02": "How do mask and distance become each other, and when does that train nothing?",
    "03": "What stays the same across scanners?",
    "04": "How are heads and conversions trained together, and tested?",
    "05": "Is a difference between two methods more than luck, and is the protocol fair?",
    "05b": "What do the terms of the method buy in a new hospital?",
    "06": "Where is it wrong, in mm, and do its two heads know it?",
    "07": "How do I check, train and predict on public CT or my own?",
    "08": "Can you beat the baseline on a fourth hospital, and how often may you try?",
}


def marks(part: str, made_by: str = "make times") -> tuple[str, str]:
    """The two lines of the README between which a part stands."""
    return f"<!-- {part}: made by `{made_by}` -->", f"<!-- end of {part} -->"


def write_part(readme: Path, part: str, lines: str, made_by: str = "make times") -> None:
    """Replace a part of the README."""
    first, last = marks(part, made_by)
    before, start, rest = readme.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        sys.exit(f"{readme.name} has no place for the {part}; put these lines into it:\n{first}\n{last}")
    readme.write_text(f"{before}{start}\n{lines}\n{end}{after}", encoding="utf-8")
