"""What stands in the sections of the page of a run."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualtask_lite.cases.findings import LABELS
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import figures
from dualtask_lite.show.figures import Row, trust
from dualtask_lite.show.table import Table
from dualtask_lite.show.volume.volume3d import volume3d

if TYPE_CHECKING:
    from dualtask_lite.show.report.page import Example, Report

_SUMMARY = {  # column of the evaluation: its head
    "dice": "Dice",
    "nsd_2mm": "NSD at 2 mm",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "volume_error_ml": "volume error (ml)",
    "detected": "detected",
}
_CASES = {
    **{name: name for name in ("case", "centre", "target")},
    **_SUMMARY,
    "volume_ml_truth": "true volume (ml)",
    "volume_ml_prediction": "found (ml)",
}
_LEAST = {name: value for value, name in LABELS.items()}  # pancreas means label 1 and up


def _training(report: Report) -> Iterator[str]:
    yield paragraph(
        "Thin lines are single steps, thick lines running means. The Dice of validation cases watches a run; it is "
        "measured on boxes from their labels, and is no result."
    )
    for stage in report.stages:
        yield f"<h3>{html.escape(stage.name)}</h3>"
        if stage.curves:
            yield figures.curves(stage.curves).to_html()


def _evaluation(report: Report) -> Iterator[str]:
    if not report.rows:
        return
    yield paragraph(
        "Each case was predicted from its whole volume and compared with its label. Mean over the cases where the "
        "metric is defined, ± standard deviation (number of cases). Dice and NSD: 1 is perfect; HD95 and ASSD: mm "
        "between the surfaces; detected: share of the structures that were met in at least one voxel."
    )
    lines = [
        {"target": target, "centre": centre, **{head: _mean(of.get(name)) for name, head in _SUMMARY.items()}}
        for target, centres in report.summary.items()
        for centre, of in centres.items()
    ]
    yield _table(lines, "Evaluation")
    if report.failed:
        yield _table(
            [{"case": case, "why": why} for case, why in report.failed.items()], "Not evaluated, in no average"
        )
    yield figures.scores(report.rows, by="target").to_html()
    lines = [{head: _value(row.get(name)) for name, head in _CASES.items()} for row in report.rows]
    yield _table(lines, "Case by case")


def examples(report: Report, looked_at: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Write the cases to look at: what ``one_example`` says of each, and its slice browser or nothing."""
    if looked_at:
        yield paragraph(
            "Chosen by the Dice of the last target among the cases that have it. An average hides the worst case; a "
            "picture of the best one hides all others."
        )
    for text, browser in looked_at:
        left_out = paragraph("The slice browser of this case would make the page too large and was left out.")
        yield text + (browser or left_out)


def one_example(example: Example) -> Iterator[str]:
    """Write one case: its numbers, its planes with the prediction, and its error beside what the heads disagree on."""
    row, scan = example.row, example.scan
    target = str(row["target"])
    yield f"<h3>{example.role.capitalize()}: {html.escape(f'case {scan.id}, centre {scan.centre}')}</h3>"
    values = ", ".join(f"{head} {_value(row.get(name))}" for name, head in _SUMMARY.items() if name != "detected")
    yield paragraph(f"{target.capitalize()}: {values}.")
    yield figures.orthogonal(scan, prediction=example.mask, distance=example.distance_mm).to_html()
    yield trust.where_wrong(
        scan, example.mask, _LEAST[target], error=example.error_mm, doubt=example.doubt_mm
    ).to_html()


def in_3d(examples: Sequence[Example]) -> str:
    """Write the last example, the worst, so that it can be turned; nothing without examples."""
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
        f"Where two opinions on the {doubts.target} differ, at least one is wrong; no label is needed to see it. How "
        "well do such warnings go with the true error (1 - Dice)? Spearman: 1 when the order is the same, 0 when there "
        "is no relation. Gain: when cases are handed to a human in the order of the warning, how much is saved of what "
        "a perfect warning would save; 0 is no better than chance. A tumour that all miss gives no warning."
    )
    yield _table(doubts.summary, f"Warnings against the true error, {len(doubts.rows)} cases")
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
    known = {s.name: {k: v for k, v in s.manifest.items() if k != "cases"} for s in report.stages if s.manifest}
    names = dict.fromkeys(name for values in known.values() for name in values)
    if known:
        yield _table(
            [{"what": name, **{s: _plain(values.get(name)) for s, values in known.items()}} for name in names],
            "With what it was trained",
        )
    seen: dict[tuple[str, ...], list[str]] = {}
    for stage in report.stages:
        for case in stage.manifest.get("cases", ()):
            key = (case["id"], case["centre"], case["role"], case["digest"][:16])
            seen.setdefault(key, []).append(stage.name)
    if seen:
        yield _table(
            [
                dict(
                    zip(("case", "centre", "role", "SHA-256 of its voxels"), key, strict=True), stages=", ".join(stages)
                )
                for key, stages in seen.items()
            ],
            "Cases that the model has seen: a test on one of them would say nothing",
        )


#: Section: (heading, what writes it); the examples are written by the page, which may have to leave some out.
SECTIONS: dict[str, tuple[str, Callable[[Report], Iterator[str]]]] = {
    "evaluation": ("Evaluation", _evaluation),
    "examples": ("Best, median and worst case", lambda report: examples(report, ())),
    "doubts": ("Does it know when it is wrong?", _doubts),
    "curves": ("Training", _training),
    "settings": ("Settings", _settings),
    "manifest": ("Manifest", _manifest),
}


def paragraph(text: str) -> str:
    """Write text, escaped."""
    return f"<p>{html.escape(text)}</p>"


def _table(rows: Sequence[Row], caption: str) -> str:
    """A table that scrolls by itself where the page is narrow, also by keyboard."""
    label = html.escape(caption)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{Table(rows, caption).to_html()}</div>'


def _mean(of: Mapping[str, Any] | None) -> str:
    if not of or of["mean"] is None or not of["n"]:
        return "-"
    spread = "" if of["sd"] is None else f" ± {of['sd']:.2f}"
    return f"{of['mean']:.2f}{spread} ({of['n']})"


def _value(value: Any) -> str:
    """A field of ``cases.csv``: numbers with two decimals, words as they are."""
    if value is None or str(value) in ("", "nan"):
        return "-"
    try:
        return f"{float(value):.2f}" if not isinstance(value, bool) else str(value)
    except ValueError:
        return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    """Keep small numbers readable: a table would round 0.0001 to 0.00."""
    return f"{value:g}" if isinstance(value, float) else value
