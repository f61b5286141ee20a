"""The folder of a table: what all its cells measured so far.

========================  ==================================================================================
``plan.json``             what all cells share, the content of the cases, and where the table was begun
``cases.csv``             a row a cell, case and target: the metrics
``cells.csv``             a row a cell: steps, images and samples a step, seconds, processor, versions, date
``curves.csv``            a row a cell and point of its training, see ``curves.read_curve``
``summary.json``          means, differences from the baseline, and what was mixed
========================  ==================================================================================

A cell whose rows are here is done, whether or not its weights are at hand: so a committed table goes on elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualtask_lite.engine.run import provenance, read_json, read_rows, write_json, write_rows
from dualtask_lite.errors import DualTaskError

KEYS = ("arm", "protocol", "part", "seed")  # what names a cell, in each of its rows
PARTS = ("cases", "curves", "cells")  # the last is written last: a cell in it is whole


class ResultTable:
    """Rows of the cells that are done.

    Args:
        folder: of the table; made when it is not there.
        plan: what all cells share, JSON-able; a folder that holds a table of another plan is refused.

    Raises:
        DualTaskError: when the folder holds a table of another plan, or a damaged one.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        file = folder / "plan.json"
        if not file.exists():
            write_json(file, {**plan, "begun": provenance("cpu")})
        before = read_json(file)
        if other := next((key for key in plan if plan[key] != before.get(key)), None):
            raise DualTaskError(
                f"{folder}: holds a table with other {other}", "choose another --out, or repeat its own command"
            )
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [dict(row) for row in read_rows(folder / f"{name}.csv")] for name in PARTS
        }
        done = {_key(row) for row in self.rows["cells"]}  # rows of a cell that was cut while it was written go
        self.rows = {name: [row for row in rows if _key(row) in done] for name, rows in self.rows.items()}

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether a cell is done."""
        return any(_key(row) == _key(key) for row in self.rows["cells"])

    def add(
        self,
        key: Mapping[str, Any],
        *,
        cases: Sequence[Mapping[str, Any]],
        curves: Sequence[Mapping[str, Any]],
        cell: Mapping[str, Any],
    ) -> None:
        """Add the rows of one cell and write the table."""
        for name, rows in zip(PARTS, (cases, curves, [cell]), strict=True):
            self.rows[name] += [{**key, **row} for row in rows]
            self.rows[name].sort(key=_key)  # stable: the cases of a cell keep their order
            write_rows(self.folder / f"{name}.csv", self.rows[name])

    def mixed(self) -> list[str]:
        """One sentence for each thing that differs between cells and may make their results differ."""
        notes = []
        for name, what in (("device", "processors"), ("versions", "versions")):
            found = Counter(row.get(name, "") for row in self.rows["cells"])
            if len(found) > 1:
                shares = "; ".join(f"{value}: {count} cells" for value, count in found.most_common())
                notes.append(f"The cells come from several {what} ({shares}); cells.csv says which is which.")
        return notes


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEYS)
