"""Collect the contents of a report: the files of a run, and new predictions of its evaluated cases.

The values are plain Python values, so that ``show.report`` does not import the engine; their names are the fields of
``show.report.contents``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import StrictInt

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import target_mask
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.judging.disagreement import (
    WARNINGS,
    disagreement,
    judge,
    risk_coverage,
    summarise_warnings,
    surface_error_mm,
)
from dualtask_lite.engine.judging.evaluation import INTERRUPTED, score
from dualtask_lite.engine.judging.evaluation_folder import SUMMARY
from dualtask_lite.engine.predict import in_cascade_order, predict_scan
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.records import read_json, read_rows
from dualtask_lite.engine.run import CONFIG, MANIFEST, METRICS, Model, TrainingCase, load_models, provenance
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import as_model
from dualtask_lite.words import counted

_PLOTTED = (
    "heads_probability",
    "views_probability",
    "unsure",
)  # warnings with a curve; the first also with a plot by case
_TOLERANCE = 0.01  # Dice; if the new score of a case differs by more, the case or the model has changed


_SHOWN = {"steps": StrictInt, "cases": list[TrainingCase] | None}  # entries of a manifest on which the page relies


@dataclass(frozen=True)
class Examination:
    """New predictions of the evaluated cases.

    Attributes:
        examples: best, median and worst case, each with the fields of ``show.report.contents.Example``.
        doubts: the fields of ``show.report.contents.Doubts``; None when no error is known.
        missing: section of the report -> why it is incomplete.
    """

    examples: Sequence[dict[str, Any]] = ()
    doubts: dict[str, Any] | None = None
    missing: dict[str, str] = field(default_factory=dict)


def collect(run: Path, source: str | None = None, device: str = "auto") -> dict[str, Any]:
    """Collect the contents of a report, by the field names of ``show.report.contents.Report``.

    Args:
        run: a run folder, or the folder of a cascade.
        source: where the evaluated cases are; by default the one that the evaluation names.
        device: to predict the examples on.

    Raises:
        DualTaskError: when the folder holds no run. Other missing files are listed under ``missing``.
    """
    stages = read_stages(run)
    rows: list[dict[str, Any]] = [
        dict(row) for row in read_rows(run / "evaluation" / "cases.csv", ["case", "target", "dice"], numbers=["dice"])
    ]
    evaluation = _read_optional(run / "evaluation" / "summary.json", SUMMARY)
    trained_on = stages[-1]["settings"]["data"]["source"]
    missing, quoted = {}, shlex.quote(as_model(run))
    if not all(stage["curves"] for stage in stages):
        missing["curves"] = f"Part of this run is not trained yet: dualtask train --resume {quoted}"
    if not all(stage["manifest"] for stage in stages):
        missing["manifest"] = f"The training is not finished, so there is no manifest: dualtask train --resume {quoted}"
    examination, failed = Examination(), evaluation.get("failed") or {}
    if not rows:
        missing |= _missing_without_rows(failed, quoted)
    else:
        if unfinished := sum(reason == INTERRUPTED for reason in failed.values()):
            missing["evaluation"] = (
                f"The evaluation was interrupted before {counted(unfinished, 'case')}, and no average includes them. "
                f"Evaluate again: dualtask evaluate {quoted}"
            )
        try:
            evaluated = [run / "evaluation" / path for path in evaluation.get("models") or ()] or [run]
            models = in_cascade_order([one for path in evaluated for one in load_models(path, pick_device(device))])
            cases = evaluated_cases(rows, source or evaluation.get("source") or trained_on)
            examination = examine(models, cases, rows)
        except DualTaskError as error:
            missing["examples"] = f"The evaluated cases could not be predicted again, so none is shown: {error}"
            missing["doubts"] = "Without these cases the warnings cannot be measured."
    on = provenance(pick_device(device))
    return {
        "title": f"Run {run.resolve().name}",
        "stages": stages,
        "rows": rows,
        "summary": evaluation.get("summary") or {},
        "failed": failed,
        "examples": examination.examples,
        "doubts": examination.doubts,
        "missing": {**missing, **examination.missing},
        "made": f"Made by Dual-Task Lite {on['versions']['dualtask-lite']}, {on['date']}, on {on['device']}.",
    }


def read_stages(run: Path) -> list[dict[str, Any]]:
    """Read the files of each stage, in the order of the cascade: name, settings, curves, manifest."""
    folders = [run] if (run / CONFIG).exists() else [config.parent for config in run.glob(f"*/{CONFIG}")]
    if not folders:
        raise DualTaskError(f"{run}: holds no run", "give a folder made by dualtask train")
    stages = []
    for folder in folders:
        settings = Settings.read(folder / CONFIG)
        stages.append(
            {
                "name": settings.stage,
                "settings": settings.model_dump(mode="json"),
                "curves": read_rows(folder / METRICS, ["step"], numbers=None),
                "manifest": _read_optional(folder / MANIFEST, _SHOWN),
            }
        )
    return sorted(stages, key=lambda stage: list(STAGES).index(stage["name"]))


def evaluated_cases(rows: Sequence[dict[str, Any]], source: str) -> list[Case]:
    """Find the cases of an evaluation in a source, in the order of its rows.

    Raises:
        DualTaskError: when the source lacks one of them.
    """
    available = {case.id: case for case in find_cases(source)}
    names = list(dict.fromkeys(row["case"] for row in rows))
    if absent := [name for name in names if name not in available]:
        raise DualTaskError(f"{source} has no case {absent[0]}", "name the source of the evaluated cases with --source")
    return [available[name] for name in names]


def examine(models: Sequence[Model], cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> Examination:
    """Predict the evaluated cases again, measure the warnings where the error is known, and collect the examples.

    The Dice of a target that the label lacks is undefined here as in the table, so such a case has no known error.
    """
    chosen, examples, judged, changed = choose_examples(rows), {}, [], []
    target = STAGES[models[-1].settings.stage].target
    with progress_bar() as bar:
        for case in bar.track(cases, description="predicting"):
            scan = case.load()
            prediction = predict_scan(models, scan)
            assert scan.label is not None  # it was evaluated
            doubt_mm = None
            if target_mask(scan.label, target).any():
                result = disagreement(models, scan, prediction)
                judged.append(judge(scan, prediction, result))
                doubt_mm = result.heads_mm
            if case.id not in chosen:
                continue
            role, row = chosen[case.id]
            (again,) = score(scan, prediction, [row["target"]])
            if abs(again["dice"] - float(row["dice"])) > _TOLERANCE:
                changed.append(case.id)
            shown, truth = prediction.targets[row["target"]], target_mask(scan.label, row["target"])
            examples[role] = {
                "role": role,
                "row": row,
                "scan": scan,
                "mask": prediction.mask,
                "distance_mm": shown.distance_mm,
                "error_mm": surface_error_mm(shown.mask, truth, scan.spacing),
                "doubt_mm": doubt_mm if row["target"] == target else None,
            }
    missing = {}
    if not chosen:
        missing["examples"] = (
            "No evaluated case has a defined Dice, so none is the best or the worst: no label has a target of this run."
        )
    if changed:
        missing["examples"] = (
            f"Case {', '.join(changed)} now has another Dice than in the table: the cases or the model have changed. "
            "Evaluate again."
        )
    if not judged:
        missing["doubts"] = f"No label has the target, {target}, so no error is known to compare the warnings with."
    doubts = _doubts(target, judged) if judged else None
    return Examination([examples[role] for role, _ in chosen.values()], doubts, missing)


def choose_examples(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Choose the best, median and worst case by the Dice of the last target that has one.

    This is the tumour, or the pancreas if no tumour was predicted or no label has one.

    Args:
        rows: of an evaluation, one for each case and target.

    Returns:
        case -> (role, its row); a case with two roles gets the better one only. Empty when no Dice is defined.
    """
    defined = [row for row in rows if row["dice"] not in ("", "nan")]
    target = "tumour" if any(row["target"] == "tumour" for row in defined) else "pancreas"
    ranked = sorted(
        (row for row in defined if row["target"] == target), key=lambda row: float(row["dice"]), reverse=True
    )
    ranks = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1} if ranked else {}
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    for role, rank in ranks.items():
        chosen.setdefault(ranked[rank]["case"], (role, ranked[rank]))
    return chosen


def _missing_without_rows(failed: Mapping[str, str], quoted: str) -> dict[str, str]:
    """Why the sections about evaluated cases are empty: no evaluation, or one in which every case failed."""
    evaluate = f"dualtask evaluate {quoted}"
    if not failed:
        before = "No case can be shown before the evaluation."
        return {"evaluation": f"This run is not evaluated yet: {evaluate}", "examples": before, "doubts": before}
    number = len(failed)
    after = "No case can be shown, because all of them failed in the evaluation."
    return {
        "evaluation": f"All cases failed in the evaluation ({number} of {number}); the page lists the reasons. Repair "
        f"these cases, see dualtask data check, then evaluate again: {evaluate}",
        "examples": after,
        "doubts": after,
    }


def _doubts(target: str, judged: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fields of ``show.report.contents.Doubts``: how well the warnings of all cases follow their errors."""
    assessment = summarise_warnings(judged)
    risks = [row["risk"] for row in judged]
    plotted = [name for name in _PLOTTED if name in assessment.summary]
    return {
        "target": target,
        "rows": judged,
        "summary": [{"warning": WARNINGS[name], **numbers} for name, numbers in assessment.summary.items()],
        "shown": (plotted[0], WARNINGS[plotted[0]]),
        "correlation": assessment.summary[plotted[0]]["spearman"],
        "curves": {
            WARNINGS[name]: risk_coverage(risks, [row[name] for row in judged]).risk.tolist() for name in plotted
        },
        "perfect": risk_coverage(risks, risks).risk.tolist(),
        "voxels": assessment.spearman_voxels,
    }


def _read_optional(path: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON file with these entries, see ``read_json``; empty when it does not exist."""
    return read_json(path, entries) if path.exists() else {}
