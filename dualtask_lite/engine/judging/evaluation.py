"""Evaluation of a model on cases that were not used in training: one row for each case, and a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.masks import dice, target_mask
from dualtask_lite.cases.sources import absolute
from dualtask_lite.engine.config import STAGES
from dualtask_lite.engine.data.dataset import label_box, labelled_cases
from dualtask_lite.engine.judging.metrics import case_metrics, summarise
from dualtask_lite.engine.predict import (
    Prediction,
    TargetPrediction,
    in_cascade_order,
    predict_box,
    predict_scan,
)
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.run import Model
from dualtask_lite.errors import DualTaskError, reason_of

INTERRUPTED = "the evaluation was interrupted before this case; repeat it"  # why an unfinished case has no result


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        rows: one dict for each case and target: ``case``, ``centre``, ``target`` and the metrics.
        summary: target -> centre (and ``all``) -> metric -> statistics over the cases.
        failed: case id -> why it could not be evaluated; no average includes such a case (METHOD, trap 14).
        warnings: case id -> what ``dualtask data check`` warns of; such a case counts as any other.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    failed: dict[str, str]
    warnings: dict[str, list[str]] = field(default_factory=dict)


class InterruptedEvaluation(KeyboardInterrupt):
    """Ctrl-C in the middle of an evaluation: an interrupt as any other, except for who wants the finished cases.

    Attributes:
        evaluations: of the finished cases, one for each cascade; all other cases are ``failed``, as ``INTERRUPTED``.
    """

    def __init__(self, evaluations: Sequence[Evaluation] = ()) -> None:
        super().__init__()  # its message stays empty: a notebook would print all rows
        self.evaluations = evaluations


def evaluate(
    models: Sequence[Model], cases: Sequence[Case], *, heads: bool = False, progress: bool = True
) -> Evaluation:
    """Predict each case from its whole volume and compare with its label.

    Args:
        models: of the cascade.
        cases: those without a label are left out, with a warning.
        heads: add the results of ``score_heads`` to the rows of the last stage's target.
        progress: show a bar on a terminal or in a notebook.

    Raises:
        DualTaskError: when one of the cases was used in training, or none has a label.
        InterruptedEvaluation: a ``KeyboardInterrupt`` with the results of the finished cases.
    """
    return evaluate_cascades([models], cases, heads=heads, progress=progress)[0]


def evaluate_cascades(
    cascades: Sequence[Sequence[Model]], cases: Sequence[Case], *, heads: bool = False, progress: bool = True
) -> list[Evaluation]:
    """Evaluate several cascades on the same cases; the stages that they share are predicted once for each case.

    Args:
        cascades: the models of each; two cascades share a first stage if it is the same object.
        cases: see ``evaluate``; a case that one cascade cannot predict has failed for all.
        heads: see ``evaluate``.
        progress: show a bar on a terminal or in a notebook.

    Returns:
        One evaluation for each cascade.

    Raises:
        DualTaskError: see ``evaluate``.
        InterruptedEvaluation: see ``evaluate``.
    """
    cases = labelled_cases(cases)
    if not cases:
        raise DualTaskError("there is no labelled case to evaluate on", "name a source or a centre with labels")
    cascades = [in_cascade_order(models) for models in cascades]
    for models in cascades:
        refuse_training_cases(models, cases)
    before_last = zip(*(models[:-1] for models in cascades), strict=False)
    shared = [same[0] for same in takewhile(_are_the_same, before_last)]
    finished: dict[str, list[list[dict[str, Any]]]] = {}  # case -> its rows of each cascade
    failed: dict[str, str] = {}
    warnings: dict[str, list[str]] = {}

    def evaluations() -> list[Evaluation]:
        totals = [[row for scored in finished.values() for row in scored[number]] for number in range(len(cascades))]
        return [Evaluation(rows, summary_of(rows), failed, warnings) for rows in totals]

    try:
        with progress_bar(progress) as bar:
            for case in bar.track(cases, description="evaluating"):
                try:
                    scan, found = case.load_with_warnings()
                    if found:
                        warnings[case.id] = found
                    earlier = predict_scan(shared, scan).targets if shared else {}
                    finished[case.id] = [
                        _scored(models, scan, earlier, len(shared), heads=heads) for models in cascades
                    ]
                except Exception as error:  # one bad case does not stop the others
                    failed[case.id] = reason_of(error)
    except KeyboardInterrupt as interrupt:
        if not finished:
            raise
        unfinished = [case.id for case in cases if case.id not in finished.keys() | failed.keys()]
        failed |= dict.fromkeys(unfinished, INTERRUPTED)
        raise InterruptedEvaluation(evaluations()) from interrupt
    return evaluations()


def _are_the_same(models: Sequence[Model]) -> bool:
    return all(model is models[0] for model in models)


def _scored(
    models: Sequence[Model], scan: Scan, earlier: Mapping[str, TargetPrediction], finished: int, *, heads: bool
) -> list[dict[str, Any]]:
    """Rows of one case; the first ``finished`` stages of the cascade gave the ``earlier`` predictions."""
    prediction = predict_scan(models[finished:], scan, earlier)
    rows = score(scan, prediction, targets(models))
    if heads:
        head_scores = score_heads(models[-1], scan, prediction)
        rows = [row | head_scores if row["target"] == prediction.target else row for row in rows]
    return rows


def refuse_training_cases(models: Sequence[Model], cases: Sequence[Case]) -> None:
    """Refuse test cases whose image was used in training or validation of a model.

    Images are compared, not names: two hospitals may both call a case ``case_001``. An unreadable image is skipped.
    """
    used = {one.digest: one.id for model in models for one in model.training_cases}
    if not used:
        return
    for case in cases:
        if (digest := _digest_of(case)) in used:
            under = "" if used[digest] in (case.id, digest) else f" as {used[digest]}"
            raise DualTaskError(
                f"case {case.id} was used in training{under}, so its score would be too high",
                "evaluate on a held-out centre (--centre) or on another source",
            )


def _digest_of(case: Case) -> str | None:
    with suppress(DualTaskError):
        return case.digest()
    return None


def unseen_cases(
    models: Sequence[Model], cases: Sequence[Case], centre: str | None = None, *, source: str | None = None
) -> list[Case]:
    """Choose the cases to evaluate on: those of ``centre``, else of the models' held-out centre, else all.

    Args:
        models: of one cascade.
        cases: to choose from.
        centre: evaluate on this centre only.
        source: of the cases; by default the training source. The held-out centre belongs to the training source, so
            its name is ignored for another source.

    Raises:
        DualTaskError: when there is no case of the centre.
    """
    data = [model.settings.data for model in models]
    if centre is None and (source is None or absolute(source) in {absolute(one.source) for one in data}):
        held_out = {one.held_out for one in data}
        centre = held_out.pop() if len(held_out) == 1 else None
    chosen = [case for case in cases if centre in (None, case.centre)]
    if not chosen:
        known = ", ".join(sorted({case.centre for case in cases}))
        raise DualTaskError(f"there is no case of centre {centre!r}", f"choose one of: {known}")
    return chosen


def targets(models: Sequence[Model]) -> list[str]:
    """Targets of the models: pancreas, tumour or both."""
    return sorted({STAGES[model.settings.stage].target for model in models})


def score(scan: Scan, prediction: Prediction, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """One row of metrics for each target, from the mask of that target on the scan's own grid.

    The written label map is not used: in it the tumour covers the pancreas, so each false tumour voxel would count
    as an error of the pancreas stage.
    """
    if scan.label is None:
        raise DualTaskError(f"{scan.id}: has no label", "evaluate labelled cases only")
    return [
        {
            "case": scan.id,
            "centre": scan.centre,
            "target": target,
            **case_metrics(prediction.targets[target].mask, target_mask(scan.label, target), scan.spacing),
        }
        for target in wanted
    ]


def score_heads(model: Model, scan: Scan, prediction: Prediction) -> dict[str, float]:
    """Dice of each head of a stage, and Dice in the box that comes from the label.

    Returns:
        ``dice_distance_head`` and ``dice_mean_head``, from the forward pass of the prediction, if a distance head was
        trained; ``dice_own_box``: of the segmentation head in the label's own box, which shows whether this stage or
        the one before it causes the errors, and is no result. A model with a trained distance head alone has only the
        latter, of this head. NaN for a case without the target.
    """
    assert scan.label is not None
    stage, threshold = STAGES[model.settings.stage], model.settings.prediction.threshold
    truth = target_mask(scan.label, stage.target)
    by_head = prediction.targets[stage.target].masks
    first = next(iter(by_head))
    own_box = by_head[first]
    if stage.region != "volume":  # else the box is the whole volume, which was predicted already
        maps = predict_box(model, scan, label_box(scan, stage, stage.margin))
        own_box = maps.mask_of(first, threshold)
    masks = {f"dice_{head}_head": mask for head, mask in by_head.items() if head != first}
    masks["dice_own_box"] = own_box
    return {name: dice(mask, truth) if truth.any() else math.nan for name, mask in masks.items()}


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics over the cases for each target, by centre and over all."""
    summary: dict[str, Any] = {}
    for target in dict.fromkeys(row["target"] for row in rows):
        target_rows = [dict(row) for row in rows if row["target"] == target]
        centres = sorted({row["centre"] for row in target_rows})
        summary[target] = {"all": summarise(target_rows)}
        summary[target] |= {name: summarise([r for r in target_rows if r["centre"] == name]) for name in centres}
    return summary
