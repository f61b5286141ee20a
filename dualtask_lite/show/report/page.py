"""One self-contained HTML page of a run: training, evaluation and errors.

The page loads nothing from any network; its content policy forbids it. A section names its missing data.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from string import Template

from dualtask_lite.show.report.contents import Report
from dualtask_lite.show.report.sections import HEADINGS, WRITERS, describe_example, examples, in_3d, paragraph
from dualtask_lite.show.slices.browser import slices

LIMIT = 12_000_000  # bytes of the page; above it slice browsers are left out, the last one first, then the 3D view


def to_html(report: Report) -> str:
    """Write the page of a run; above ``LIMIT`` bytes without slice browsers, and then without the 3D view."""
    browsers = [slices(e.scan, prediction=e.mask, distance=e.distance_mm).to_html() for e in report.examples]
    descriptions = ["".join(describe_example(e)) for e in report.examples]
    parts = {key: "".join(write(report)) for key, write in WRITERS.items()}
    view_3d = in_3d(report.examples)
    while True:
        parts["examples"] = "".join(examples(descriptions, browsers)) + view_3d
        page = _fill_template(report, parts)
        remaining = [number for number, browser in enumerate(browsers) if browser]
        if len(page.encode()) <= LIMIT or not (remaining or view_3d):
            return page
        if remaining:
            browsers[remaining[-1]] = ""
        else:
            view_3d = ""


def _fill_template(report: Report, parts: Mapping[str, str]) -> str:
    contents, sections = [], []
    for key, heading in HEADINGS.items():
        contents.append(f'<li><a href="#{key}">{heading}</a></li>')
        note = f'<p class="missing">{html.escape(report.missing[key])}</p>' if key in report.missing else ""
        sections.append(f'<section id="{key}"><h2>{heading}</h2>{note}{parts[key]}</section>')
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(report.title),
        summary=paragraph(_summary(report)),
        contents="".join(contents),
        sections="\n".join(sections),
        made=html.escape(report.made),
    )


def _summary(report: Report) -> str:
    """The run in one or two sentences, with its main numbers."""
    last = report.stages[-1].settings
    names = " and ".join(stage.name for stage in report.stages)
    held_out = last["data"]["held_out"]
    tested = f"; centre {held_out} was held out" if held_out else ""
    sentences = [f"{names}, {last['profile']} profile, seed {last['seed']}{tested}."]
    for target, centres in report.summary.items():
        dice = centres["all"]["dice"]
        if dice["mean"] is not None:
            sentences.append(f"Mean {target} Dice {dice['mean']:.2f} over {dice['n']} cases.")
    return " ".join(sentences)
