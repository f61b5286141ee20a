"""The cases of a training: those that its settings select, or, when a run is resumed, those that it began with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.cases.masks import target_mask
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split, leave_one_centre_out, train_validation
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data.cache import Track
from dualtask_lite.engine.data.dataset import labelled_cases
from dualtask_lite.errors import DualTaskError


def split_for(settings: Settings, track: Track = iter) -> Split:
    """Split the cases of the settings into training, validation and test; the held-out centre is the test part."""
    cases = selected_cases(settings)
    for case in track(cases):
        case.digest()  # cached from here on
    share, seed = settings.data.validation, settings.seed
    if settings.data.held_out is None:
        return train_validation(cases, validation=share, seed=seed)
    return leave_one_centre_out(cases, settings.data.held_out, validation=share, seed=seed)


def checked_split(settings: Settings, folder: Path, split: Split | None = None, track: Track = iter) -> Split:
    """Select the training and validation cases of a run, and check that it can learn from them.

    A resumed run keeps its cases: if ``folder`` holds a checkpoint, the split recorded there is restored.

    Args:
        settings: of the run.
        folder: of the run.
        split: the cases; by default :func:`split_for` the settings.
        track: iterates over the cases while their images are compared, for example with a progress bar.

    Raises:
        DualTaskError: when there is no labelled case, no label contains the target, or the cases of the checkpoint in
            ``folder`` are missing or differ from ``split``.
    """
    checkpoint = folder / files.CHECKPOINT
    if recorded := files.cases_of_checkpoint(checkpoint) if checkpoint.exists() else ():
        return _restored_split(recorded, split, settings, folder, track)
    split = split or split_for(settings, track)
    if not split.train:
        raise DualTaskError(
            "there is no labelled case to train on", "list the content of the folder with dualtask data check"
        )
    check_target_is_labelled(split.train, settings)
    return split


def selected_cases(settings: Settings) -> list[Case]:
    """The labelled cases that ``settings.data`` selects, of all centres; a warning names those without a label."""
    cases = find_cases(settings.data.source)
    if settings.data.cases is not None:
        known = {case.id: case for case in cases}
        if missing := [name for name in settings.data.cases if name not in known]:
            raise DualTaskError(
                f"data.cases: no case {missing[0]!r} in {settings.data.source}",
                "list its cases with dualtask data check",
            )
        cases = [known[name] for name in settings.data.cases]
    return labelled_cases(cases)


def _restored_split(
    recorded: Sequence[files.TrainingCase], split: Split | None, settings: Settings, folder: Path, track: Track
) -> Split:
    """The recorded split of a run; cases are matched by image content, since files may be renamed or added."""
    available = selected_cases(settings) if split is None else [*split.train, *split.validation]
    by_content: dict[str, list[Case]] = {}
    for case in track(available):
        by_content.setdefault(case.digest(), []).append(case)
    parts: dict[str, list[Case]] = {"train": [], "validation": []}
    for record in recorded:
        matches = by_content.get(record.digest, [])
        if not matches:
            raise DualTaskError(
                f"{folder}: began with case {record.id} of {record.centre}, which is not among the available cases",
                "restore this case, or start a new run in another folder",
            )
        parts[record.role].append(next((case for case in matches if case.id == record.id), matches[0]))
    restored = Split(train=tuple(parts["train"]), validation=tuple(parts["validation"]), test=())
    if split and training_cases(split) != training_cases(restored):
        raise DualTaskError(f"{folder}: began with another split of the cases", "start a new run in another folder")
    return restored


def check_target_is_labelled(cases: Sequence[Case], settings: Settings) -> None:
    """Check that a label contains the target of the stage; the first label that does ends the search.

    Raises:
        DualTaskError: when none does.
    """
    target = STAGES[settings.stage].target
    values: set[int] = set()
    for case in cases:
        label = case.load().label
        if label is None or target_mask(label, target).any():  # training_region refuses a case without label
            return
        values |= set(np.unique(label).tolist())
    shown = ", ".join(f"{value} ({LABELS[value]})" for value in sorted(values))
    raise DualTaskError(
        f"{settings.stage}: none of the {len(cases)} labels to train on holds the target, {target}; they hold {shown}",
        "train another stage, or label the target; dualtask data check shows the labels of each source",
    )


def training_cases(split: Split) -> list[files.TrainingCase]:
    """What a run records of its cases: id, centre, digest and role."""
    parts = (("train", split.train), ("validation", split.validation))
    return [files.TrainingCase(case.id, case.centre, case.digest(), role) for role, cases in parts for case in cases]
