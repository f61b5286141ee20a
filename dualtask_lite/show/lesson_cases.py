"""The cases of a lesson, also from a learner's own folder: requirements of the lesson, and content of the folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import cross_validation
from dualtask_lite.errors import DualTaskError


def lesson_cases(
    data_dir: str, *, hospitals: int = 1, cases: int = 1, tumours: int = 0, learned: Collection[str] = ()
) -> list[Case]:
    """Find the labelled cases of a lesson, and print in one sentence what it needs and what the source holds.

    If all cases are of one hospital, they are split into as many parts as the lesson needs hospitals; such
    parts differ by chance only. Hospitals with too few cases are skipped.

    Args:
        data_dir: a known source or a folder with cases; empty: the embedded three-centre data.
        hospitals: required number of hospitals.
        cases: required number of labelled cases of each.
        tumours: how many labels of each hospital must contain a tumour.
        learned: digests of the images that a model of the lesson was trained on; their cases are left out.

    Returns:
        The labelled cases, by hospital.

    Raises:
        DualTaskError: when the source holds too few cases; the message is the same sentence.
    """
    source = data_dir or "phantom"
    labelled = [case for case in find_cases(source) if case.label is not None]
    count = len(labelled)
    if learned:
        labelled = [case for case in labelled if case.digest() not in learned]
    by_hospital = _by_hospital(labelled)
    is_split = len(by_hospital) == 1 and 1 < hospitals <= len(labelled)
    if is_split:
        by_hospital = _by_hospital(_in_parts(labelled, hospitals))
    enough = {name: group for name, group in by_hospital.items() if _suffices(group, cases, tumours)}
    required = f"This lesson needs {_count(hospitals, 'hospital')}, each with {_count(cases, 'labelled case')}"
    required += f" and a tumour in {'one' if tumours == 1 else tumours} of them" if tumours else ""
    listed = ", ".join(f"{name} {len(group)}" for name, group in by_hospital.items())
    holds = f"{source} holds {_count(len(labelled), 'labelled case')}" + (f" ({listed})" if listed else "")
    if learned_count := count - len(labelled):
        holds += f", and {learned_count} that the model has learned from"
    if is_split:
        holds += f" of one hospital, split into {hospitals} parts that differ by chance only"
    if left_out := [name for name in by_hospital if name not in enough]:
        holds += f"; too little is in {', '.join(left_out)}"
    if len(enough) < hospitals:
        raise DualTaskError(
            f"{required}; {holds}", "set data_dir to another folder, or leave it empty for the embedded data"
        )
    print(f"{required}; {holds}.")
    return [case for group in enough.values() for case in group]


def _by_hospital(cases: Sequence[Case]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.centre, case.id)):
        groups[case.centre].append(case)
    return dict(groups)


def _in_parts(cases: Sequence[Case], count: int) -> list[Case]:
    """Split the cases of one hospital into equal parts by patient, and name the parts like hospitals."""
    parts = [cross_validation(cases, number, folds=count, seed=0).test for number in range(count)]
    return [replace(case, centre=f"{case.centre}-{number}") for number, part in enumerate(parts, 1) for case in part]


def _suffices(cases: Sequence[Case], count: int, tumours: int) -> bool:
    with_tumour = (case for case in cases if case.load().has_tumour)
    return len(cases) >= count and len(list(islice(with_tumour, tumours))) == tumours


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
