"""The sections of the page of a run, each as pieces of HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dualtask_lite.cases.findings import LABELS
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import figures
from dualtask_lite.show.figures import Row, trust
from dualtask_lite.show.report.contents import Example, Report
from dualtask_lite.show.table import Table
from dualtask_lite.show.volume.volume3d import volume3d

_METRICS = {  # column of the evaluation -> its heading in a table
    "dice": "Dice",
    "nsd_2mm": "NSD at 2 mm",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "volume_error_ml": "volume error (ml)",
    "detected": "detected",
}
_NAMES = ("case", "centre", "target")  # may look like numbers: a case "001"
_MEASURED = {
    **_METRICS,
    "volume_ml_truth": "true volume (ml)",
    "volume_ml_prediction": "found (ml)",
}
_LOWEST_LABEL = {name: value for value, name in LABELS.items()}  # the pancreas is label 1 and above


def _training(report: Report) -> Iterator[str]:
    yield paragraph(
        "Thin lines are single steps, thick lines running means. The validation Dice monitors the training; it is "
        "measured in boxes around the labels, so it is not a test result."
    )
    for stage in report.stages:
        yield f"<h3>{html.escape(stage.name)}</h3>"
        if stage.curves:
            yield figures.curves(stage.curves).to_html()


def _evaluation(report: Report) -> Iterator[str]:
    if report.rows:
        yield from _averages(report)
    if report.failed:
        yield _table(
            [{"case": case, "reason": reason} for case, reason in report.failed.items()],
            "Not evaluated, and left out of every average",
        )
    if report.rows:
        yield from _case_by_case(report)


def _averages(report: Report) -> Iterator[str]:
    yield paragraph(
        "Each case was predicted from its whole volume and compared with its label. Mean over the cases where the "
        "metric is defined, ± standard deviation (number of cases). Dice and NSD: 1 is perfect; HD95 and ASSD: mm "
        "between the surfaces; detected: share of the structures of which at least one voxel was found."
    )
    lines = [
        {"target": target, "centre": centre, **{head: _mean(metrics.get(key)) for key, head in _METRICS.items()}}
        for target, centres in report.summary.items()
        for centre, metrics in centres.items()
    ]
    yield _table(lines, "Evaluation")


def _case_by_case(report: Report) -> Iterator[str]:
    yield figures.scores(report.rows, by="target").to_html()
    lines = [
        {name: row.get(name) for name in _NAMES} | {head: _value(row.get(name)) for name, head in _MEASURED.items()}
        for row in report.rows
    ]
    yield _table(lines, "Case by case")


def examples(descriptions: Sequence[str], browsers: Sequence[str]) -> Iterator[str]:
    """Write the examples: the HTML of ``describe_example`` for each, and its slice browser, empty when left out."""
    if descriptions:
        yield paragraph(
            "Chosen by the Dice of the last target that any label has, among the cases that have it. An average hides "
            "the worst case; a picture of the best one hides all others."
        )
    for description, browser in zip(descriptions, browsers, strict=True):
        left_out = paragraph("The slice browser of this case would make the page too large and was left out.")
        yield description + (browser or left_out)


def describe_example(example: Example) -> Iterator[str]:
    """Write one example: its numbers, its planes with the prediction, and its error beside the heads' difference."""
    row, scan = example.row, example.scan
    target = str(row["target"])
    yield f"<h3>{example.role.capitalize()}: {html.escape(f'case {scan.id}, centre {scan.centre}')}</h3>"
    values = ", ".join(f"{head} {_value(row.get(name))}" for name, head in _METRICS.items() if name != "detected")
    yield paragraph(f"{target.capitalize()}: {values}.")
    yield figures.orthogonal(scan, prediction=example.mask, distance=example.distance_mm).to_html()
    yield trust.where_wrong(
        scan, example.mask, _LOWEST_LABEL[target], error=example.error_mm, doubt=example.doubt_mm
    ).to_html()


def in_3d(examples: Sequence[Example]) -> str:
    """Write an interactive 3D view of the last example, the worst; nothing without examples."""
    if not examples:
        return ""
    role, scan, mask, distance = (getattr(examples[-1], name) for name in ("role", "scan", "mask", "distance_mm"))
    head = f"<h3>{role.capitalize()} in 3D</h3>"
    try:
        return head + volume3d(scan, mask, distance, viewer="html")._repr_mimebundle_()["text/html"]
    except DualTaskError as error:  # ipyniivue, which holds the viewer, is an extra
        return f'{head}<p class="missing">{html.escape(str(error))}</p>'


def _doubts(report: Report) -> Iterator[str]:
    doubts = report.doubts
    if doubts is None:
        return
    yield paragraph(
        f"Where two predictions of the {doubts.target} differ, at least one is wrong, and no label is needed to see "
        "it. How well does such a warning follow the true error (1 - Dice)? Spearman: 1 when both give the same order "
        "of the cases, 0 when there is no relation. Gain: a human corrects the cases in the order of the warning; the "
        "share of the error that this saves, compared with a perfect warning; 0 is no better than chance. A tumour "
        "that all predictions miss gives no warning."
    )
    yield _table(
        doubts.summary, f"Warnings against the true error, {len(doubts.rows)} cases whose label has the {doubts.target}"
    )
    warning, label = doubts.shown
    yield trust.warning_against_error(doubts.rows, warning, label, doubts.correlation).to_html()
    yield trust.risk_coverage(doubts.curves, doubts.perfect).to_html()
    if math.isfinite(doubts.voxels):
        yield paragraph(
            "Voxel by voxel on the predicted surface: Spearman of the difference of the heads' distances (mm) with the "
            f"distance to the true surface (mm), median over the cases: {doubts.voxels:.2f}."
        )


def _settings(report: Report) -> Iterator[str]:
    flat = {stage.name: dict(_flat(stage.settings)) for stage in report.stages}
    names = dict.fromkeys(name for values in flat.values() for name in values)
    yield _table(
        [{"setting": name, **{s: _plain(values.get(name)) for s, values in flat.items()}} for name in names],
        "Every setting of the run",
    )


def _manifest(report: Report) -> Iterator[str]:
    entries = {s.name: {k: v for k, v in s.manifest.items() if k != "cases"} for s in report.stages if s.manifest}
    names = dict.fromkeys(name for values in entries.values() for name in values)
    if entries:
        yield _table(
            [{"entry": name, **{s: _plain(values.get(name)) for s, values in entries.items()}} for name in names],
            "Versions, device and duration of the training",
        )
    used_by: dict[tuple[str, ...], list[str]] = {}
    for stage in report.stages:
        for case in stage.manifest.get("cases", ()):
            key = (case["id"], case["centre"], case["role"], case["digest"][:16])
            used_by.setdefault(key, []).append(stage.name)
    columns = ("case", "centre", "role", "SHA-256 of its voxels")
    if used_by:
        yield _table(
            [dict(zip(columns, key, strict=True), stages=", ".join(stages)) for key, stages in used_by.items()],
            "Training and validation cases: do not test on any of them",
        )


HEADINGS = {  # of the sections, in the order of the page
    "evaluation": "Evaluation",
    "examples": "Best, median and worst case",
    "doubts": "Does it know when it is wrong?",
    "curves": "Training",
    "settings": "Settings",
    "manifest": "Manifest",
}
#: Section -> what writes it, except the examples: the page writes these, because it may have to leave some out.
WRITERS: dict[str, Callable[[Report], Iterator[str]]] = {
    "evaluation": _evaluation,
    "doubts": _doubts,
    "curves": _training,
    "settings": _settings,
    "manifest": _manifest,
}


def paragraph(text: str) -> str:
    """Write a paragraph of escaped text."""
    return f"<p>{html.escape(text)}</p>"


def _table(rows: Sequence[Row], caption: str) -> str:
    """Write a table that scrolls on its own where the page is narrow, also by keyboard."""
    label = html.escape(caption)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{Table(rows, caption).to_html()}</div>'


def _mean(metric: Mapping[str, Any] | None) -> str:
    """Write ``mean ± standard deviation (number of cases)``."""
    if not isinstance(metric, Mapping) or metric["mean"] is None or not metric["n"]:
        return "-"
    spread = "" if metric["sd"] is None else f" ± {metric['sd']:.2f}"
    return f"{metric['mean']:.2f}{spread} ({metric['n']})"


def _value(value: Any) -> str:
    """Write a measured field of ``cases.csv``: a number with two decimals, text unchanged."""
    if value is None or str(value) in ("", "nan"):
        return "-"
    try:
        return f"{float(value):.2f}" if not isinstance(value, bool) else str(value)
    except ValueError:
        return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings to dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    """Write a small number with all its digits: a table would round 0.0001 to 0.00."""
    return f"{value:g}" if isinstance(value, float) else value
