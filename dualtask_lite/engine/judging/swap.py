"""Separate the effect of the scanner from that of the patients: the same patients, scanned by two hospitals.

Two hospitals differ in their scanners and in their patients, and real data cannot separate the two effects. The phantom
can: both centres scan the patients of each, so that two of the four groups differ in the scanner only, and two in the
patients only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.judging.evaluation import evaluate
from dualtask_lite.engine.run import Model
from dualtask_lite.errors import DualTaskError

FIRST = 100  # number of the first patient: higher than in every embedded set, so no patient was used in training


def evaluate_swapped(
    models: Sequence[Model],
    centres: tuple[str, str] = ("A", "C"),
    *,
    patients: int = 16,
    seed: int = 0,
    size: Sequence[int] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Score models on the patients of two centres, each scanned by both.

    Args:
        models: of the cascade; they may have been trained on these centres, because the patients are new.
        centres: names of two centres of the phantom.
        patients: number of patients of each centre.
        seed: of the patients.
        size: voxels along x, y and z, see ``make_case``.
        progress: show a bar on a terminal or in a notebook.

    Returns:
        One row for each case and target: ``patients`` and ``scanner`` (names of centres), ``patient`` (the same for
        both scanners), and the metrics of ``evaluate``.

    Raises:
        DualTaskError: when a centre is unknown or a case cannot be evaluated.
    """
    rows: list[dict[str, Any]] = []
    for owner in centres:
        for scanner in centres:
            cases = [make_case(owner, FIRST + n, scanner=scanner, seed=seed, size=size) for n in range(patients)]
            evaluation = evaluate(models, cases, progress=progress)
            if evaluation.failed:
                raise DualTaskError(f"not evaluated: {evaluation.failed}", "use the default size")
            patient = {case.id: f"{owner}_{FIRST + n}" for n, case in enumerate(cases)}
            group = {"patients": owner, "scanner": scanner}
            rows += [{**group, "patient": patient[row["case"]], **row} for row in evaluation.rows]
    return rows
