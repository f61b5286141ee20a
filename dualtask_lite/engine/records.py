"""Tables (CSV) and records (JSON): read with clear errors, since people edit them, and written whole."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import report_write_errors, whole_file
from dualtask_lite.rows import number as as_number


class MetricsLog:
    """``metrics.csv``: one row for each step, one column for each term; resuming drops rows after the checkpoint."""

    def __init__(self, path: Path, columns: Sequence[str], *, finished: int = 0) -> None:
        rows = read_rows(path, ["step"], numbers=["step"]) if finished else []
        finished_rows = [row for row in rows if as_number(row["step"]) <= finished]
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            columns = list(dict.fromkeys([*columns, *(name for row in finished_rows for name in row)]))
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(finished_rows)
        self._path = path
        with report_write_errors(path):
            self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row and flush it, so that a live plot can read it."""
        with report_write_errors(self._path):
            self._writer.writerow(row)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with report_write_errors(self._path):
            self._file.close()


def seconds_until(path: Path, step: int) -> float:
    """Seconds that a run needed until a step, by its ``metrics.csv``; 0 when the file does not say."""
    columns = ["step", "seconds"]
    rows = read_rows(path, columns, numbers=columns)
    return max((float(row["seconds"] or 0) for row in rows if as_number(row["step"]) <= step), default=0.0)


def read_rows(path: Path, columns: Sequence[str] = (), *, numbers: Sequence[str] | None = ()) -> list[dict[str, str]]:
    """Rows of a CSV file, as text, without an incomplete last row; empty if the file does not exist.

    Args:
        path: of the file.
        columns: that the table must have; a spreadsheet may have saved it with other separators.
        numbers: those of these columns that hold numbers only, ``None`` for all; a spreadsheet may write 0,5 for 0.5.

    Raises:
        DualTaskError: when the file cannot be read as CSV, or lacks one of the columns or a number.
    """
    if not path.exists():
        return []
    remedy = "remove it, or create it again"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # a spreadsheet writes a mark of the encoding
            reader = csv.DictReader(file)
            if missing := [name for name in columns if name not in (reader.fieldnames or columns)]:
                raise DualTaskError(f"{path}: has no column {missing[0]}, with commas between the columns", remedy)
            return [row for row in _checked(reader, path, numbers) if None not in row.values()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DualTaskError(f"{path}: cannot be read as a table ({error})", remedy) from error


def _checked(reader: csv.DictReader[str], path: Path, numbers: Sequence[str] | None) -> Iterator[dict[str, str]]:
    """Rows of a table, if none has more fields than there are columns, and numbers where they must be."""
    remedy = "write its numbers with a decimal point, as 0.5, or create it again"
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        if None in row:  # the key of surplus fields: without quotes 0,5 is two fields
            raise DualTaskError(f"{where} has more fields than there are columns", remedy)
        for name in row if numbers is None else numbers:
            try:
                as_number(row[name])
            except ValueError as error:
                raise DualTaskError(f"{where}, column {name}: {row[name]!r} is not a number", remedy) from error
        yield row


def read_json(path: Path, entries: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Content of a JSON file that holds an object.

    Args:
        path: of the file.
        entries: name -> type of those entries that are used, for pydantic; ``X | None`` may be missing.

    Raises:
        DualTaskError: when the file is missing, damaged or no object, or an entry is missing or of another type.
    """
    remedy = "remove it, or create it again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: wrong encoding or wrong JSON
        raise DualTaskError(f"{path}: cannot be read ({error})", remedy) from error
    if not isinstance(content, dict):
        raise DualTaskError(f"{path}: holds no JSON object", remedy)
    for name, wanted in (entries or {}).items():
        try:
            TypeAdapter(wanted).validate_python(content.get(name))
        except ValidationError as error:
            what = "is not as dualtask writes it" if name in content else "is missing"
            raise DualTaskError(f"{path}: its entry {name} {what}", remedy) from error
    return content


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, completely or not at all; columns in order of first use."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, completely or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Convert a value for JSON: numpy numbers to Python's, undefined numbers to ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
