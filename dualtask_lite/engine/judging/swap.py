"""The same patients scanned by another hospital, to tell the shift of the scanner from that of the disease.

Two hospitals differ in how they scan and in whom they treat, and real data cannot take one from the other. The phantom
can: the patients of each centre are scanned by both, so that along one side of the square only the scanner changes, and
along the other only the patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.judging.evaluation import evaluate
from dualtask_lite.engine.run import Model
from dualtask_lite.errors import DualTaskError

FIRST = 100  # number of the first patient: beyond those of every embedded set, so that no model has seen one


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
        models: of the cascade; they may have trained on these centres, the patients are new.
        centres: names of two centres of the phantom.
        patients: of each centre.
        seed: of the patients.
        size: voxels along x, y and z, see ``make_case``.
        progress: show a bar on a terminal or in a notebook.

    Returns:
        One row a case and target: ``patients`` and ``scanner`` (names of centres), ``patient`` (the same for both
        scanners), and what ``evaluate`` measures.

    Raises:
        DualTaskError: when a centre is unknown or a case cannot be evaluated.
    """
    rows: list[dict[str, Any]] = []
    for owner in centres:
        for scanner in centres:
            cases = [make_case(owner, FIRST + n, scanner=scanner, seed=seed, size=size) for n in range(patients)]
            found = evaluate(models, cases, progress=progress)
            if found.failed:
                raise DualTaskError(f"not evaluated: {found.failed}", "leave size at its default")
            patient = {case.id: f"{owner}_{FIRST + n}" for n, case in enumerate(cases)}
            about = {"patients": owner, "scanner": scanner}
            rows += [{**about, "patient": patient[row["case"]], **row} for row in found.rows]
    return rows
