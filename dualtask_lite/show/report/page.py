"""One self-contained HTML page of a run: what was trained, how good it is, where it is wrong, and on what evidence.

The page is given plain rows, scans and arrays. It asks for nothing from any network (its content policy forbids it),
and what was not at hand is named where it would stand.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.show.figures import Row
from dualtask_lite.show.report.sections import SECTIONS, examples, in_3d, one_example, paragraph
from dualtask_lite.show.slices.browser import slices

LIMIT = 12_000_000  # bytes of the page; beyond it slice browsers are left out, the last one first, then the 3D view


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
        curves: a warning in words -> mean error of the 1, 2, ... n cases that it warns of least.
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
        parts = {key: "".join(write(self)) for key, (_, write) in SECTIONS.items() if key != "examples"}
        looked_at = [("".join(one_example(e)), browser) for e, browser in zip(self.examples, browsers, strict=True)]
        solid = in_3d(self.examples)
        while True:
            parts["examples"] = "".join(examples(self, looked_at)) + solid
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
        for key, (heading, _) in SECTIONS.items():
            contents.append(f'<li><a href="#{key}">{heading}</a></li>')
            note = f'<p class="missing">{html.escape(self.missing[key])}</p>' if key in self.missing else ""
            sections.append(f'<section id="{key}"><h2>{heading}</h2>{note}{parts[key]}</section>')
        template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
        return template.substitute(
            title=html.escape(self.title),
            summary=paragraph(self._in_words()),
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
