"""``dualtask data``: known sources, checks of a folder, the embedded phantom."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualtask_lite.cli.shared import (
    AsJson,
    app,
    check_folder_name,
    out,
    print_json,
    print_line,
    print_table,
)
from dualtask_lite.errors import DualTaskError, reason_of
from dualtask_lite.words import counted

if TYPE_CHECKING:
    from dualtask_lite.cases.case import Case
    from dualtask_lite.cases.sources import Source

data_app = typer.Typer(help="Known sources, checks of a folder, and the embedded phantom.", no_args_is_help=True)
app.add_typer(data_app, name="data")
#: Arguments of ``data make`` for a folder like a generated source; one like the exam needs another seed, N above 0.
_MADE = {"phantom": "phantom", "phantom-48": "phantom --cases 48", "exam": "exam --seed N"}


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the known sources of cases: size, licence, citation, and whether they are on this machine."""
    from dualtask_lite.cases.sources import is_here, sources

    known = sources()
    if as_json:
        print_json({name: {**vars(s), "here": is_here(s)} for name, s in known.items()})
        return
    print_table(
        [
            {
                "source": name,
                "what": s.title,
                "cases": s.cases,
                "size": f"{s.size_gb:g} GB",
                "licence": s.licence,
                "cite": s.citation,
                "here": "made on first use" if s.how == "made" else "yes" if is_here(s) else "no",
            }
            for name, s in known.items()
        ]
    )
    out.print("get one: dualtask data get NAME; its publisher may change size and licence")


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A source of dualtask data list, such as msd, nih or panorama.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=check_folder_name,
            help="Folder; default: the cache, where other commands find it by NAME.",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only archives whose names start with this, such as batch_1 of panorama; may be repeated."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only unpack and prepare files that are already in the folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Download a known source, verify and unpack it; an interrupted download continues."""
    from dualtask_lite.cases.sources import as_source, find_cases, folder_of, sources

    known = sources()
    if name not in known:
        raise DualTaskError(f"there is no source {name!r}", f"choose from: {', '.join(known)}")
    source = known[name]
    if source.how == "made":
        if folder:
            made = f"dualtask data make {_MADE[name]} --out {shlex.quote(str(folder))}"
            raise DualTaskError(f"{name} is generated, not downloaded", f"run {made}")
        cases = find_cases(name)
        where = cases[0].image.parents[2] if isinstance(cases[0].image, Path) else Path()
    else:
        where = folder or folder_of(source)
        typer.echo(f"{source.title}\nlicence {source.licence}; cite {source.citation}", err=True)
        cases = _download(source, where, parts=part or (), offline=offline)
    labelled = sum(case.label is not None for case in cases)
    if as_json:
        print_json({"source": name, "folder": str(where), "cases": len(cases), "labelled": labelled})
    else:
        out.print(f"{where}: {counted(len(cases), 'case')}, {labelled} with a label", markup=False, highlight=False)
        where_to_look = shlex.quote(as_source(folder)) if folder else name
        out.print(f"try: dualtask data check {where_to_look}", markup=False, highlight=False)


def _download(source: Source, folder: Path, *, parts: Sequence[str], offline: bool) -> list[Case]:
    """Download a source into a folder, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from dualtask_lite.cases.get import get

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(source.name, total=None)

        def progress(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return get(source, folder, parts=parts, offline=offline, progress=progress)


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="A known source, a folder, or one NIfTI file.")],
    as_json: AsJson = False,
) -> None:
    """Check every case before training: header, voxels, label, grid; list the files that are no cases, and why."""
    import numpy as np

    from dualtask_lite.cases.case import examine
    from dualtask_lite.cases.findings import Finding, check_source
    from dualtask_lite.cases.inventory import describe_skipped
    from dualtask_lite.cases.nifti import digest_of_voxels
    from dualtask_lite.cases.sources import find_inputs
    from dualtask_lite.engine.progress import progress_bar

    inventory = find_inputs([source])
    cases = inventory.cases
    by_case: dict[str, list[Finding]] = {}
    contents: dict[str, str] = {}
    labels: dict[str, list[int]] = {}
    with progress_bar() as bar:
        for case in bar.track(cases, description="checking"):
            try:
                scan, by_case[case.id] = examine(case)
                if scan:
                    contents[case.id] = digest_of_voxels(scan.volume)
                if scan and scan.label is not None:
                    labels[case.id] = np.unique(scan.label).tolist()
            except Exception as error:  # one bad case does not stop the others
                by_case[case.id] = [Finding("error", f"{case.image}: cannot be read", reason_of(error))]
    bad = {name for name, findings in by_case.items() if any(finding.level == "error" for finding in findings)}
    rows = [
        {"case": name, "level": finding.level, "finding": finding.what, "remedy": finding.remedy}
        for name, findings in [*by_case.items(), ("all", list(check_source(contents, labels)))]
        for finding in findings
    ]
    if as_json:
        labelled = sum(case.label is not None for case in cases)
        print_json({"cases": len(cases), "labelled": labelled, "findings": rows, "skipped": inventory.skipped_rows()})
    else:
        print_table(rows)
        for line in describe_skipped(inventory.skipped):
            print_line(f"skipped {line}")
        labelled = sum(case.label is not None for case in cases)
        in_all, found = counted(len(cases), "case"), counted(len(rows), "finding")
        out.print(f"{in_all}, {labelled} with a label, {len(bad)} with errors, {found}")
    if bad:
        raise DualTaskError(
            f"found errors in {len(bad)} of {counted(len(cases), 'case')}", "repair or remove them, see the list above"
        )
    if unusable := sum(one.may_be_ct for one in inventory.skipped):
        raise DualTaskError(f"skipped {counted(unusable, 'path')} where a CT may be", "see the list above")


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="phantom, or exam: a new hospital D for the exam.")] = "phantom",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=check_folder_name,
            help="Folder to create, with one sub-folder for each centre; default my-NAME.",
        ),
    ] = None,
    cases: Annotated[int | None, typer.Option(min=1, help="Cases of each centre; default 16, for the exam 32.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The exam needs a seed above 0.")] = 0,
    shift: Annotated[
        float | None, typer.Option(help="Exam: share by which each value of D may move; default 0.1.")
    ] = None,
    size: Annotated[tuple[int, int, int] | None, typer.Option(help="Voxels X Y Z.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the embedded three-centre data, or an exam with new cases, in Task07 layout.

    Keep the folder of the exam secret until the exam; learners hand in with exam.hand_in(..., cases=FOLDER).
    """
    from dualtask_lite.cases.exam import SHIFT, make_exam
    from dualtask_lite.cases.phantom import make_phantom
    from dualtask_lite.cases.sources import PHANTOM_CASES, as_source
    from dualtask_lite.engine.progress import progress_bar

    if name not in ("phantom", "exam"):
        raise DualTaskError(f"{name!r} cannot be generated", "make phantom or exam")
    if name == "phantom" and shift is not None:
        raise DualTaskError("--shift applies to the exam only", "leave it out, or make exam")
    folder = folder or Path(f"my-{name}")  # the name alone means the embedded data
    cases = cases or PHANTOM_CASES[name]
    if folder.exists() and any(folder.iterdir()):
        raise DualTaskError(f"{folder}: is not empty", "choose a new folder with --out")
    shift = SHIFT if shift is None else shift
    with progress_bar() as bar:
        task = bar.add_task(name, total=None, note="")

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        if name == "exam":
            made = make_exam(folder, seed=seed, shift=shift, cases=cases, size=size, progress=progress)
        else:
            made = make_phantom(folder, seed=seed, cases=cases, size=size, progress=progress)
    if as_json:
        print_json(
            {"folder": str(made), "cases_per_centre": cases, "seed": seed}
            | ({"shift": shift} if name == "exam" else {})
        )
    else:
        look = f"dualtask data check {shlex.quote(as_source(made))}"
        out.print(f"made {made}; try: {look}", markup=False, highlight=False)
