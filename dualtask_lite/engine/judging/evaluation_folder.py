"""The folder of an evaluation, ``cases.csv`` and ``summary.json``: written, and kept from being replaced by another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import InstanceOf, StrictFloat, StrictInt

from dualtask_lite.cases.case import Case
from dualtask_lite.engine.judging.evaluation import INTERRUPTED, Evaluation
from dualtask_lite.engine.records import plain, read_json, read_rows, write_json, write_rows
from dualtask_lite.engine.run import Model
from dualtask_lite.errors import DualTaskError

_Text = InstanceOf[str]  # pydantic's own str refuses a path that is no valid UTF-8


@dataclass(frozen=True)
class _Statistics:
    mean: StrictFloat | None
    sd: StrictFloat | None
    n: StrictInt


#: The entries of ``summary.json`` that are read again, for ``read_json``; an older version wrote fewer.
SUMMARY = {
    "source": _Text | None,
    "models": list[_Text] | None,
    "summary": dict[_Text, dict[_Text, dict[str, StrictInt | _Statistics]]] | None,
    "failed": dict[_Text, _Text] | None,
}


def write_evaluation(
    evaluation: Evaluation, folder: Path, source: str | None = None, models: Sequence[Model] = ()
) -> None:
    """Write ``cases.csv`` (one row for each case and target) and ``summary.json``.

    Args:
        evaluation: the results.
        folder: to write to.
        source: of the cases; for the report.
        models: of the cascade; for the report, which by default uses those of the run around ``folder``.
    """
    write_rows(folder / "cases.csv", evaluation.rows)
    summary = {
        "source": source,
        "models": _paths_of(models, folder),
        "summary": evaluation.summary,
        "failed": evaluation.failed,
        "warnings": evaluation.warnings,
    }
    write_json(folder / "summary.json", plain(summary))


def write_interrupted(
    evaluation: Evaluation, folder: Path, source: str | None = None, models: Sequence[Model] = ()
) -> bool:
    """Write the finished cases of an interrupted evaluation, unless they would replace a whole one.

    Args:
        evaluation: of the finished cases.
        folder: see ``write_evaluation``.
        source: see ``write_evaluation``.
        models: see ``write_evaluation``.

    Returns:
        Whether they were written.
    """
    earlier = folder / "summary.json"
    if earlier.exists() and INTERRUPTED not in (read_json(earlier, SUMMARY).get("failed") or {}).values():
        return False
    write_evaluation(evaluation, folder, source, models)
    return True


def check_evaluation_folder(folder: Path, cases: Sequence[Case], source: str, models: Sequence[Model]) -> None:
    """Refuse a folder with an ablation table or the evaluation of other cases or models: it would be lost.

    A model is identified by its path, so a run that was trained further may be evaluated again.

    Raises:
        DualTaskError: when the folder holds one.
    """
    if (folder / "plan.json").exists():
        raise DualTaskError(f"{folder}: holds the table of dualtask ablate", "choose another --out")
    if not (folder / "summary.json").exists():
        return
    summary, written = read_json(folder / "summary.json", SUMMARY), read_rows(folder / "cases.csv", ["case"])
    there, remedy = summary.get("source"), "choose another --out, or remove it"
    if there not in (None, source) or not {row["case"] for row in written} <= {case.id for case in cases}:
        raise DualTaskError(f"{folder}: holds the evaluation of other cases{f', of {there}' if there else ''}", remedy)
    if (others := summary.get("models")) and others != _paths_of(models, folder):
        raise DualTaskError(f"{folder}: holds the evaluation of other models ({', '.join(others)})", remedy)


def _paths_of(models: Sequence[Model], folder: Path) -> list[str]:
    return [_relative(model.path, folder) for model in models]


def _relative(path: Path, folder: Path) -> str:
    """A path that stays right when the folders are moved together; ``..`` leads out of the target of a link."""
    path, folder = path.resolve(), folder.resolve()
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return str(path)
