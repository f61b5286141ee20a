"""Split cases into training, validation and test: whole centres are held out, and no patient is in two parts.

A split depends on the cases and the seed only, not on the order in which cases are listed; the draw from a centre does
not depend on the other centres. Cases with the same image, which some public data sets contain under two names, count
as one patient.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dualtask_lite.cases.case import Case
from dualtask_lite.errors import DualTaskError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The cases for training, validation and test.

    Creating a split reads every image once, to compare contents.

    Raises:
        DualTaskError: when an id occurs twice, or a patient or an image is in two parts, which would make the test
            worthless.
    """

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]

    def __post_init__(self) -> None:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        names: dict[str, str] = {}  # id -> description of its case, for messages
        owners: dict[str, tuple[str, str]] = {}  # patient or digest -> part and description of its first case
        for part, cases in parts.items():
            for case in cases:
                name = f"{case.id} ({case.centre}, {part})"
                if case.id in names:
                    raise DualTaskError(f"cases {names[case.id]} and {name} have the same id", "rename one of them")
                names[case.id] = name
                for finding, key in (("hold the same image", case.digest()), ("are of one patient", case.patient)):
                    first_part, first = owners.setdefault(key, (part, name)) if key else (part, name)
                    if first_part != part:
                        raise DualTaskError(
                            f"cases {first} and {name} {finding}",
                            "keep them in one part, or use one of them: data.cases lists the cases to use",
                        )


def _merge_patients(cases: Sequence[Case]) -> list[Case]:
    """Give cases with the same image the same patient, so that a split keeps them together."""
    first: dict[str, Case] = {}  # digest -> the first case with this image
    merged: dict[str, str] = {}  # patient -> the patient with the same image

    def patient_of(case: Case) -> str:
        name = case.patient or case.id
        while name in merged:
            name = merged[name]
        return name

    for case in cases:
        twin = first.setdefault(case.digest(), case)
        if twin is not case:
            _log.warning(
                "cases %s and %s hold the same image and count as one patient; data.cases can list one of them alone",
                twin.id,
                case.id,
            )
            if patient_of(case) != patient_of(twin):
                merged[patient_of(case)] = patient_of(twin)
    return [replace(case, patient=patient_of(case)) if patient_of(case) in merged.values() else case for case in cases]


def leave_one_centre_out(cases: Sequence[Case], held_out: str, *, validation: float, seed: int) -> Split:
    """Test on all cases of one centre, train on the others.

    Args:
        cases: of at least two centres.
        held_out: the centre to test on.
        validation: share of each training centre's patients for validation, in [0, 1); above 0, at least one patient
            of every centre that has two. A case without a patient counts as a patient.
        seed: of the draw.

    Raises:
        DualTaskError: when ``held_out`` is unknown or the only centre, or an id occurs twice.
    """
    by_centre = _by_centre(cases)
    test = _of_centre(by_centre, held_out)
    if len(by_centre) == 1:
        raise DualTaskError(
            f"{held_out} is the only centre, so no case is left for training",
            "give a folder with a sub-folder for each centre, or hold no centre out",
        )
    others = {centre: of_centre for centre, of_centre in by_centre.items() if centre != held_out}
    train, validation_cases = _draw_from_each(others, validation, seed)
    return Split(train=train, validation=validation_cases, test=tuple(test))


def train_validation(cases: Sequence[Case], *, validation: float, seed: int) -> Split:
    """Train on all centres, with a share of each for validation and no test part.

    Args:
        cases: any number of them.
        validation: share, as for ``leave_one_centre_out``.
        seed: of the draw.

    Raises:
        DualTaskError: when an id occurs twice.
    """
    train, validation_cases = _draw_from_each(_by_centre(cases), validation, seed)
    return Split(train=train, validation=validation_cases, test=())


def within_centre(cases: Sequence[Case], centre: str, *, test: float, validation: float, seed: int) -> Split:
    """Train on one centre and test on other cases of the same centre.

    Args:
        cases: those of other centres are left out.
        centre: the one to use.
        test: share of its patients for the test, in (0, 1); at least one patient is tested and at least one is left.
        validation: share of the other patients for validation, as for ``leave_one_centre_out``.
        seed: of the draw.

    Raises:
        DualTaskError: when ``centre`` is unknown or has fewer than two patients, or an id occurs twice.
    """
    of_centre = _of_centre(_by_centre(cases), centre)
    if (patients := len({case.patient or case.id for case in of_centre})) < 2 or test <= 0:
        raise DualTaskError(
            f"{centre}: {patients} patients and a share of {test} to test on leave a part empty",
            "give at least two patients of this centre and a share above 0",
        )
    rest, tested = _draw_patients(of_centre, test, seed)
    train, validation_cases = _draw_patients(rest, validation, seed)
    return Split(train=tuple(train), validation=tuple(validation_cases), test=tuple(tested))


def cross_validation(cases: Sequence[Case], fold: int, *, folds: int, seed: int) -> Split:
    """Test on one of several equal folds of the cases, train on the others; over all folds each case is tested once.

    Args:
        cases: of at least as many patients as folds; each centre is spread over all folds.
        fold: the fold to test on, counted from 0.
        folds: number of folds.
        seed: of the draw; the folds of one seed belong together.

    Raises:
        DualTaskError: when there are fewer patients than folds, or an id occurs twice.
    """
    rng = np.random.default_rng(seed)
    shuffled = [of_centre[i] for of_centre in _by_centre(cases).values() for i in rng.permutation(len(of_centre))]
    patients = {name: number for number, name in enumerate(dict.fromkeys(case.patient or case.id for case in shuffled))}
    if not 2 <= folds <= len(patients):
        raise DualTaskError(
            f"{len(patients)} patients cannot be split into {folds} folds", "give at least 2 folds and as many patients"
        )
    tested = [patients[case.patient or case.id] % folds == fold for case in shuffled]
    test = tuple(case for case, is_tested in zip(shuffled, tested, strict=True) if is_tested)
    rest = tuple(case for case, is_tested in zip(shuffled, tested, strict=True) if not is_tested)
    return Split(train=rest, validation=(), test=test)


def _by_centre(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """Cases of each centre; centres by name, cases by id."""
    groups: dict[str, list[Case]] = {centre: [] for centre in sorted({case.centre for case in cases})}
    for case in _merge_patients(sorted(cases, key=lambda case: case.id)):
        groups[case.centre].append(case)
    return groups


def _of_centre(by_centre: dict[str, list[Case]], centre: str) -> list[Case]:
    if centre not in by_centre:
        raise DualTaskError(f"there is no centre {centre!r}", f"choose from: {', '.join(by_centre) or 'none, no case'}")
    return by_centre[centre]


def _draw_from_each(
    by_centre: dict[str, list[Case]], share: float, seed: int
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Draw the same share of every centre for validation; patients of two centres are validated if drawn in both."""
    rest = [case for of_centre in by_centre.values() for case in _draw_patients(of_centre, share, seed)[0]]
    train = {case.patient or case.id for case in rest}
    cases = [case for of_centre in by_centre.values() for case in of_centre]
    return (
        tuple(case for case in cases if (case.patient or case.id) in train),
        tuple(case for case in cases if (case.patient or case.id) not in train),
    )


def _draw_patients(cases: list[Case], share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Draw a share of the patients of one centre, but never its only one; return the other cases and the drawn ones."""
    if not 0 <= share < 1:
        raise DualTaskError(f"a share of {share} of the cases cannot be drawn", "give at least 0 and less than 1")
    patients = list(dict.fromkeys(case.patient or case.id for case in cases))
    wanted = max(1, math.floor(share * len(patients) + 0.5)) if share else 0
    count = max(0, min(wanted, len(patients) - 1))
    order = np.random.default_rng([seed, *cases[0].centre.encode()]).permutation(len(patients))
    drawn = {patients[index] for index in order[:count]}
    return (
        [case for case in cases if (case.patient or case.id) not in drawn],
        [case for case in cases if (case.patient or case.id) in drawn],
    )
