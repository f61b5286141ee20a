"""One self-contained HTML page of a run: what was trained, how good it is, where it is wrong, and on what evidence.

The page is given plain rows, scans and arrays. It asks for nothing from any network (its content policy forbids it),
and what was not at hand is named where it would stand.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import plots, trust
from dualtask_lite.show.plots import Row
from dualtask_lite.show.slices import slices
from dualtask_lite.show.table import Table
from dualtask_lite.show.volume3d import volume3d

LIMIT = 12_000_000  # bytes of the page; beyond it slice browsers are left out, the last one first, then the 3D view
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


@dataclass(frozen=True)
class Stage:
    """What is known of one trained stage: the content of its files."""

    name: str
    settings: Mapping[str, Any]
    curves: Sequence[Row]
    manifest: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Example:
    """One case to look at.

    Attributes:
        role: ``best``, ``median`` or ``worst``.
        row: its row of the evaluation.
        scan: the CT with its label.
        mask: predicted labels, (X, Y, Z).
        distance_mm: predicted signed distance, (X, Y, Z).
        error_mm: (X, Y, Z) from the predicted surface to the true one, NaN off it.
        doubt_mm: (X, Y, Z) by which the two heads' distances differ; None with one head.
    """

    role: str
    row: Row
    scan: Scan
    mask: NDArray[Any]
    distance_mm: NDArray[Any]
    error_mm: NDArray[Any]
    doubt_mm: NDArray[Any] | None


@dataclass(frozen=True)
class Doubts:
    """How well warnings that need no label go with the true error.

    Attributes:
        target: what the warnings are about.
        rows: one a case, with ``case``, ``centre``, ``risk`` and the warnings.
        summary: one row a warning, for a table.
        shown: the warning to show case by case, and what it means.
        correlation: of that one with the risk (Spearman).
        curves: warning -> mean error of the 1, 2, ... n cases that it warns of least.
        perfect: the same for a warning that knows the error.
        voxels: median over the cases of the correlation on the surface.
    """

    target: str
    rows: Sequence[Row]
    summary: Sequence[Row]
    shown: tuple[str, str]
    correlation: float
    curves: Mapping[str, Sequence[float]]
    perfect: Sequence[float]
    voxels: float


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that the page of a run shows.

    Attributes:
        title: of the page.
        stages: in the order of the cascade.
        rows: of the evaluation, one a case and target (numbers, or text as in ``cases.csv``).
        summary: of the evaluation: target -> centre -> metric -> statistics.
        failed: case -> why it could not be evaluated.
        examples: best, median and worst case.
        doubts: about the warnings.
        missing: section (``evaluation``, ``examples``, ``doubts``, ``curves``, ``manifest``) -> what is not at hand,
            and what to do about it.
        made: by what and when the page was made.
    """

    title: str
    stages: Sequence[Stage]
    rows: Sequence[Row] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    doubts: Doubts | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    made: str = ""

    def to_html(self) -> str:
        """Write the page.

        It holds all it needs. When it would be larger than ``LIMIT``, slice browsers and then the 3D view are left out.
        """
        browsers = [slices(e.scan, prediction=e.mask, distance=e.distance_mm).to_html() for e in self.examples]
        parts = {key: "".join(write(self)) for key, (_, write) in _SECTIONS.items() if key != "examples"}
        looked_at = [
            ("".join(_example(example)), browser) for example, browser in zip(self.examples, browsers, strict=True)
        ]
        solid = _in_3d(self.examples)
        while True:
            parts["examples"] = "".join(_examples(self, looked_at)) + solid
            page = self._page(parts)
            kept = [number for number, (_, browser) in enumerate(looked_at) if browser]
            if len(page.encode()) <= LIMIT or not (kept or solid):
                return page
            if kept:
                looked_at[kept[-1]] = (looked_at[kept[-1]][0], "")
            else:
                solid = ""

    def _page(self, parts: Mapping[str, str]) -> str:
        contents, sections = [], []
        for key, (heading, _) in _SECTIONS.items():
            contents.append(f'<li><a href="#{key}">{heading}</a></li>')
            note = f'<p class="missing">{html.escape(self.missing[key])}</p>' if key in self.missing else ""
            sections.append(f'<section id="{key}"><h2>{heading}</h2>{note}{parts[key]}</section>')
        template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
        return template.substitute(
            title=html.escape(self.title),
            summary=_paragraph(self._in_words()),
            contents="".join(contents),
            sections="\n".join(sections),
            made=html.escape(self.made),
        )

    def _in_words(self) -> str:
        """The run in one or two sentences, with its main numbers."""
        last = self.stages[-1].settings
        names = " and ".join(stage.name for stage in self.stages)
        held_out = last["data"]["held_out"]
        tested = f"; centre {held_out} was held out" if held_out else ""
        words = [f"{names}, {last['profile']} profile, seed {last['seed']}{tested}."]
        for target, centres in self.summary.items():
            dice = centres["all"]["dice"]
            if dice["mean"] is not None:
                words.append(f"Mean {target} Dice {dice['mean']:.2f} over {dice['n']} cases.")
        return " ".join(words)


def _training(report: Report) -> Iterator[str]:
    yield _paragraph(
        "Thin lines are single steps, thick lines running means. The Dice of validation cases watches a run; it is "
        "measured on boxes from their labels, and is no result."
    )
    for stage in report.stages:
        yield f"<h3>{html.escape(stage.name)}</h3>"
        if stage.curves:
            yield plots.curves(stage.curves).to_html()


def _evaluation(report: Report) -> Iterator[str]:
    if not report.rows:
        return
    yield _paragraph(
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
    yield plots.scores(report.rows, by="target").to_html()
    lines = [{head: _value(row.get(name)) for name, head in _CASES.items()} for row in report.rows]
    yield _table(lines, "Case by case")


def _examples(report: Report, looked_at: Sequence[tuple[str, str]]) -> Iterator[str]:
    if looked_at:
        yield _paragraph(
            "Chosen by the Dice of the last target among the cases that have it. An average hides the worst case; a "
            "picture of the best one hides all others."
        )
    for text, browser in looked_at:
        left_out = _paragraph("The slice browser of this case would make the page too large and was left out.")
        yield text + (browser or left_out)


def _example(example: Example) -> Iterator[str]:
    row, scan = example.row, example.scan
    target = str(row["target"])
    yield f"<h3>{example.role.capitalize()}: {html.escape(f'case {scan.id}, centre {scan.centre}')}</h3>"
    values = ", ".join(f"{head} {_value(row.get(name))}" for name, head in _SUMMARY.items() if name != "detected")
    yield _paragraph(f"{target.capitalize()}: {values}.")
    yield plots.orthogonal(scan, prediction=example.mask, distance=example.distance_mm).to_html()
    yield trust.where_wrong(
        scan, example.mask, _LEAST[target], error=example.error_mm, doubt=example.doubt_mm
    ).to_html()


def _in_3d(examples: Sequence[Example]) -> str:
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
    yield _paragraph(
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
        yield _paragraph(
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
_SECTIONS: dict[str, tuple[str, Callable[[Report], Iterator[str]]]] = {
    "evaluation": ("Evaluation", _evaluation),
    "examples": ("Best, median and worst case", lambda report: _examples(report, ())),
    "doubts": ("Does it know when it is wrong?", _doubts),
    "curves": ("Training", _training),
    "settings": ("Settings", _settings),
    "manifest": ("Manifest", _manifest),
}


def _paragraph(text: str) -> str:
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
