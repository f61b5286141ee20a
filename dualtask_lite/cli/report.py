"""``dualtask report``: gathers what is known of a run, and lets ``show.report`` write the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualtask_lite.cli.shared import AsJson, app, models_of, out, print_json
from dualtask_lite.errors import DualTaskError

if TYPE_CHECKING:
    from dualtask_lite.cases.case import Case
    from dualtask_lite.engine.run import Model
    from dualtask_lite.show.report.page import Doubts, Example, Report, Stage

_CURVES = ("heads_probability", "views_probability", "unsure")  # shown, in this order of preference
_SAME = 0.01  # Dice; a case whose score is further from the table's is not the case of the table


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder, or the folder of a cascade.")],
    file: Annotated[Path | None, typer.Option("--out", "-o", help="The page; default RUN/report.html.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Where the evaluated cases are; default: what the model was trained on."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page of a run: curves, table, best and worst case, warnings, manifest."""
    from dualtask_lite.files import whole_file

    page = collect(run, source, device)
    path = file or run / "report.html"
    written = page.to_html()
    with whole_file(path) as temporary:
        temporary.write_text(written, encoding="utf-8")
    if as_json:
        print_json({"report": str(path), "bytes": len(written.encode()), "missing": dict(page.missing)})
        return
    for note in page.missing.values():
        typer.echo(f"note: {note}", err=True)
    out.print(f"wrote {path} ({len(written.encode()) / 1e6:.1f} MB)", markup=False, highlight=False)


def collect(run: Path, source: str | None = None, device: str = "auto") -> Report:
    """Gather what the page of a run shows.

    Args:
        run: a run folder, or the folder of a cascade.
        source: where the evaluated cases are; by default what the last stage was trained on.
        device: to predict the examples on.

    Raises:
        DualTaskError: when the folder holds no run. All else that is not there is noted in the report.
    """
    from dualtask_lite.engine.run import provenance, read_rows
    from dualtask_lite.engine.training.devices import pick_device
    from dualtask_lite.show.report.page import Report

    stages = _stages(run)
    rows: list[dict[str, Any]] = [dict(row) for row in read_rows(run / "evaluation" / "cases.csv")]
    described = _json(run / "evaluation" / "summary.json")
    missing = {}
    if not all(stage.curves for stage in stages):
        missing["curves"] = f"Nothing was trained yet in part of this run: dualtask train --resume {run}"
    if not all(stage.manifest for stage in stages):
        missing["manifest"] = f"The training is not finished, so there is no manifest: dualtask train --resume {run}"
    examined = _Examined()
    if not rows:
        missing["evaluation"] = f"It was not evaluated yet: dualtask evaluate {run}"
        missing["examples"] = missing["doubts"] = "No case can be shown before the evaluation."
    else:
        try:
            models = models_of(device, run)
            cases = _evaluated(rows, source or stages[-1].settings["data"]["source"])
            examined = _examine(models, cases, rows)
        except DualTaskError as error:
            missing["examples"] = f"The cases are not at hand, so none is shown: {error}"
            missing["doubts"] = "Without the cases the warnings cannot be measured."
    on = provenance(pick_device(device))
    return Report(
        title=f"Run {run.resolve().name}",
        stages=stages,
        rows=rows,
        summary=described.get("summary", {}),
        failed=described.get("failed", {}),
        examples=examined.examples,
        doubts=examined.doubts,
        missing={**missing, **examined.missing},
        made=f"Made by Dual-Task Lite {on['versions']['dualtask-lite']}, {on['date']}, on {on['device']}.",
    )


@dataclass(frozen=True)
class _Examined:
    """What came out of predicting the evaluated cases again."""

    examples: Sequence[Example] = ()
    doubts: Doubts | None = None
    missing: dict[str, str] = field(default_factory=dict)


def _stages(run: Path) -> list[Stage]:
    """The stages of a run, in the order of the cascade, as far as they got."""
    from dualtask_lite.engine.config import STAGES, Settings
    from dualtask_lite.engine.run import CONFIG, MANIFEST, METRICS, read_rows
    from dualtask_lite.show.report.page import Stage

    folders = [run] if (run / CONFIG).exists() else [config.parent for config in run.glob(f"*/{CONFIG}")]
    if not folders:
        raise DualTaskError(f"{run}: holds no run", "name the folder that dualtask train made")
    stages = []
    for folder in folders:
        settings = Settings.read(folder / CONFIG)
        values = settings.model_dump(mode="json")
        stages.append(Stage(settings.stage, values, read_rows(folder / METRICS), _json(folder / MANIFEST)))
    return sorted(stages, key=lambda stage: list(STAGES).index(stage.name))


def _json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty when it is not there."""
    from dualtask_lite.engine.run import read_json

    return read_json(path) if path.exists() else {}


def _evaluated(rows: Sequence[dict[str, Any]], source: str) -> list[Case]:
    """The cases of the evaluation, in its order."""
    from dualtask_lite.cases.sources import find_cases

    known = {case.id: case for case in find_cases(source)}
    names = list(dict.fromkeys(row["case"] for row in rows))
    if missing := [name for name in names if name not in known]:
        raise DualTaskError(f"{source} has no case {missing[0]}", "say where the evaluated cases are with --source")
    return [known[name] for name in names]


def _examine(models: Sequence[Model], cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> _Examined:
    """Predict the evaluated cases again, ask for second opinions, and keep what the examples need."""
    from dualtask_lite.cases.masks import target_mask
    from dualtask_lite.engine.judging.disagreement import disagreement, judge, surface_error_mm
    from dualtask_lite.engine.judging.evaluation import score
    from dualtask_lite.engine.predict import predict_scan
    from dualtask_lite.engine.progress import progress_bar
    from dualtask_lite.show.report.page import Example

    chosen, examples, judged, other = _chosen(rows), {}, [], []
    with progress_bar() as bar:
        for case in bar.track(cases, description="predicting"):
            scan = case.load()
            prediction = predict_scan(models, scan)
            opinions = disagreement(models, scan, prediction)
            judged.append(judge(scan, prediction, opinions))
            if case.id not in chosen:
                continue
            role, row = chosen[case.id]
            (again,) = score(scan, prediction, [row["target"]])
            if abs(again["dice"] - float(row["dice"])) > _SAME:
                other.append(case.id)
            assert scan.label is not None  # or it could not have been scored
            found, truth = prediction.targets[row["target"]].mask, target_mask(scan.label, row["target"])
            error = surface_error_mm(found, truth, scan.spacing)
            examples[role] = Example(role, row, scan, prediction.mask, prediction.distance_mm, error, opinions.heads_mm)
    missing = {}
    if other:
        missing["examples"] = (
            f"Case {', '.join(other)} now gets another Dice than in the table: the cases or the model changed since. "
            "Evaluate again."
        )
    return _Examined([examples[role] for role, _ in chosen.values()], _doubts(opinions.target, judged), missing)


def _chosen(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Best, median and worst case by the Dice of the last target (the tumour, where there is one)."""
    target = "tumour" if any(row["target"] == "tumour" for row in rows) else "pancreas"
    ranked = sorted(
        (row for row in rows if row["target"] == target and row["dice"] not in ("", "nan")),
        key=lambda row: float(row["dice"]),
        reverse=True,
    )
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1} if ranked else {}
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    for role, place in places.items():
        chosen.setdefault(ranked[place]["case"], (role, ranked[place]))
    return chosen


def _doubts(target: str, judged: Sequence[dict[str, Any]]) -> Doubts:
    """Put the warnings of all cases into what the page shows."""
    from dualtask_lite.engine.judging.disagreement import WARNINGS, risk_coverage, summarise_warnings
    from dualtask_lite.show.report.page import Doubts

    found = summarise_warnings(judged)
    risks = [row["risk"] for row in judged]
    shown = [name for name in _CURVES if name in found.summary]
    return Doubts(
        target=target,
        rows=judged,
        summary=[{"warning": WARNINGS[name], **numbers} for name, numbers in found.summary.items()],
        shown=(shown[0], WARNINGS[shown[0]]),
        correlation=found.summary[shown[0]]["spearman"],
        curves={WARNINGS[name]: risk_coverage(risks, [row[name] for row in judged]).risk.tolist() for name in shown},
        perfect=risk_coverage(risks, risks).risk.tolist(),
        voxels=found.spearman_voxels,
    )
