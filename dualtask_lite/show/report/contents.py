"""The contents of the page of a run: plain rows, scans and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.show.figures import Row


@dataclass(frozen=True)
class Stage:
    """One trained stage: the content of its files.

    Attributes:
        name: of the stage.
        settings: by section, as in its ``config.yaml``.
        curves: the rows of its ``metrics.csv``.
        manifest: of its training; empty while it is not finished.
    """

    name: str
    settings: Mapping[str, Any]
    curves: Sequence[Row]
    manifest: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Example:
    """One case, shown with its prediction.

    Attributes:
        role: ``best``, ``median`` or ``worst``.
        row: its row of the evaluation.
        scan: the CT with its label.
        mask: predicted labels, (X, Y, Z).
        distance_mm: predicted signed distance to the target of the row, (X, Y, Z).
        error_mm: (X, Y, Z) from the predicted surface to the true one, NaN elsewhere.
        doubt_mm: (X, Y, Z) by which the two heads' distances differ; None with one head, or when the row is
            not of the last target.
    """

    role: str
    row: Row
    scan: Scan
    mask: NDArray[Any]
    distance_mm: NDArray[Any]
    error_mm: NDArray[Any]
    doubt_mm: NDArray[Any] | None


@dataclass(frozen=True)
class Doubts:
    """How well warnings that need no label follow the true error.

    Attributes:
        target: the structure to which the warnings refer.
        rows: one for each case, with ``case``, ``centre``, ``risk`` and the warnings.
        summary: one row for each warning, for a table.
        shown: the warning to plot case by case: its key, and its description.
        correlation: of that warning with the risk (Spearman).
        curves: description of a warning -> mean error of the 1, 2, ... n cases with the lowest warnings.
        perfect: the same for a warning that equals the error.
        voxels: median over the cases of the correlation on the surface.
    """

    target: str
    rows: Sequence[Row]
    summary: Sequence[Row]
    shown: tuple[str, str]
    correlation: float
    curves: Mapping[str, Sequence[float]]
    perfect: Sequence[float]
    voxels: float


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that the page of a run shows.

    Attributes:
        title: of the page.
        stages: in the order of the cascade.
        rows: of the evaluation, one for each case and target (numbers, or text as in ``cases.csv``).
        summary: of the evaluation: target -> centre -> metric -> statistics.
        failed: case -> why it could not be evaluated; these may be all cases, and then there are no rows.
        examples: best, median and worst case.
        doubts: about the warnings; None without an evaluation.
        missing: section (``evaluation``, ``examples``, ``doubts``, ``curves``, ``manifest``) -> what is missing, and
            what to do about it.
        made: the program, date and device that made the page.
    """

    title: str
    stages: Sequence[Stage]
    rows: Sequence[Row] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    doubts: Doubts | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    made: str = ""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Report:
        """Build a report from plain values by field name, with mappings for its stages, examples and doubts."""
        parts = {
            "stages": [Stage(**stage) for stage in values["stages"]],
            "examples": [Example(**example) for example in values["examples"]],
            "doubts": None if values["doubts"] is None else Doubts(**values["doubts"]),
        }
        return cls(**{**values, **parts})
