"""The folder of an ablation table: the results of all finished cells.

========================  ==================================================================================
``plan.json``             settings of all cells, digests of images and labels, and where the table was started
``cases.csv``             one row for each cell, case and target: the metrics
``cells.csv``             one row for each cell: steps, images and samples a step, seconds, processor, versions, date
``curves.csv``            one row for each cell and point of its training, see ``curves.read_curve``
``summary.json``          means, differences from the baseline, and different machines or versions
========================  ==================================================================================

A cell with rows in the table is finished, even without its weights: so another machine can continue a committed table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualtask_lite.engine.records import read_json, read_rows, write_json, write_rows
from dualtask_lite.engine.run import provenance
from dualtask_lite.errors import DualTaskError

KEYS = ("arm", "protocol", "part", "seed")  # these columns identify a cell
PARTS = ("cases", "curves", "cells")  # in the order of writing: a cell of the last one is complete


class ResultTable:
    """Rows of the finished cells.

    Args:
        folder: of the table; created if it does not exist.
        plan: the settings of all cells, as JSON values.

    Raises:
        DualTaskError: when the folder holds a table of another plan, or a damaged one.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        file = folder / "plan.json"
        if not file.exists():
            if others := [name for name in ("cases.csv", "summary.json") if (folder / name).exists()]:
                raise DualTaskError(f"{folder}: holds other results, in {others[0]}", "choose another --out")
            write_json(file, {**plan, "begun": provenance("cpu")})
        existing = read_json(file)
        if changed := next((key for key in plan if plan[key] != existing.get(key)), None):
            raise DualTaskError(
                f"{folder}: holds a table with other {changed}", "choose another --out, or repeat its own command"
            )
        self.rows = self._read()

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        rows = {name: [dict(row) for row in read_rows(self.folder / f"{name}.csv", KEYS)] for name in PARTS}
        # A cell whose writing was interrupted is dropped, so it is added again.
        finished = {_key(row) for row in rows["cells"]} & {_key(row) for row in rows["cases"]}
        return {name: [row for row in of_name if _key(row) in finished] for name, of_name in rows.items()}

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether a cell is finished."""
        return any(_key(row) == _key(key) for row in self.rows["cells"])

    def add(
        self,
        key: Mapping[str, Any],
        *,
        cases: Sequence[Mapping[str, Any]],
        curves: Sequence[Mapping[str, Any]],
        cell: Mapping[str, Any],
    ) -> None:
        """Add the rows of one cell to those in the folder; another command may have added some since."""
        self.rows = self._read()
        if self.has(key):
            return
        for name, rows in zip(PARTS, (cases, curves, [cell]), strict=True):
            self.rows[name] += [{**key, **row} for row in rows]
            self.rows[name].sort(key=_key)  # stable: the cases of a cell keep their order
            write_rows(self.folder / f"{name}.csv", self.rows[name])

    def mixed(self) -> list[str]:
        """Describe differences of processor or versions between cells, which may change their results."""
        notes = []
        for name, what in (("device", "processors"), ("versions", "versions")):
            counts = Counter(row.get(name, "") for row in self.rows["cells"])
            if len(counts) > 1:
                shares = "; ".join(f"{value}: {count} cells" for value, count in counts.most_common())
                notes.append(f"The cells come from several {what} ({shares}); see cells.csv.")
        return notes


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEYS)
