"""A small table for a notebook, without a data-frame library."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under a caption; a notebook shows it as HTML, a terminal as text.

    Args:
        rows: one mapping for each row.
        caption: of the table.
        columns: the columns to show, in this order; by default all, in order of first use.
        digits: decimals of a float.
    """

    rows: Sequence[Mapping[str, Any]]
    caption: str = ""
    columns: Sequence[str] = ()
    digits: int = 2

    def to_html(self) -> str:
        """Write a ``table`` element."""
        names = self._names()
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(self._text(row.get(name)))}</td>" for name in names) + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __str__(self) -> str:
        names = self._names()
        lines = [names, *([self._text(row.get(name)) for name in names] for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
        text = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self.caption, *text])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": str(self)}

    def _names(self) -> list[str]:
        return list(self.columns) or list(dict.fromkeys(name for row in self.rows for name in row))

    def _text(self, value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, float):
            return f"{value:.{self.digits}f}"
        if isinstance(value, Mapping):
            return ", ".join(f"{name}: {self._text(item)}" for name, item in value.items())
        if isinstance(value, (list, tuple)):
            return ", ".join(self._text(item) for item in value)
        return str(value)
