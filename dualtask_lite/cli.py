"""The command line: ``dualtask --help`` teaches.

Results go to standard output (``--json`` for machines), progress bars to standard error. Exit 0: done; 1: something
the user can put right, in one line; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from dualtask_lite.errors import DualTaskError

if TYPE_CHECKING:  # torch and MONAI take seconds to import: each command imports what it needs
    from dualtask_lite.cases.case import Case
    from dualtask_lite.engine.config import Settings
    from dualtask_lite.engine.run import Model

app = typer.Typer(
    help="Dual-task segmentation and distance regression of the pancreas and its tumours in CT: train on some "
    "hospitals, test on one never seen. For teaching and research, not for diagnosis.",
    epilog="Start with: dualtask doctor; dualtask train --held-out C --stage pancreas-coarse --stage tumour-coarse; "
    "dualtask evaluate runs/laptop-cascade",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Known sources, checks of a folder, and the embedded phantom.", no_args_is_help=True)
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Stages = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this at run time on Python 3.10
    typer.Option("--stage", help="pancreas-coarse, pancreas-fine, tumour-coarse or tumour-fine; repeat for a cascade."),
]
Assignments = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, say optimiser.steps=50; may be repeated."),
]
Profile = Annotated[str, typer.Option(help="laptop, colab, gpu or paper.")]
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200)  # a pipe gets whole lines


@app.callback()
def _options(debug: Debug = False) -> None:
    if debug:
        os.environ["DUALTASK_DEBUG"] = "1"


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine has, which profile fits, and whether the 3D viewers can draw."""
    from dualtask_lite.engine.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        _print_json(diagnosis.as_dict())
        return
    out.print(diagnosis.as_text(), markup=False, highlight=False)


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the known sources of cases."""
    from dualtask_lite.cases.sources import sources

    known = sources()
    if as_json:
        _print_json({name: vars(source) for name, source in known.items()})
        return
    rows = [{"source": name, "what": s.title, "cases": s.cases, "licence": s.licence} for name, s in known.items()]
    _print_table(rows)


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="A known source, a folder, or one NIfTI file.")],
    as_json: AsJson = False,
) -> None:
    """Check every case before training: header, voxels, label, grid."""
    from dualtask_lite.cases.case import check
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine.progress import progress_bar

    cases = find_cases(source)
    rows, bad = [], set()
    with progress_bar() as bar:
        for case in bar.track(cases, description="checking"):
            for finding in check(case):
                rows.append(
                    {
                        "case": case.id,
                        "level": finding.level,
                        "finding": finding.what,
                        "remedy": finding.remedy,
                    }
                )
                if finding.level == "error":
                    bad.add(case.id)
    if as_json:
        _print_json({"cases": len(cases), "labelled": sum(c.label is not None for c in cases), "findings": rows})
    else:
        _print_table(rows)
        labelled = sum(case.label is not None for case in cases)
        out.print(f"{len(cases)} cases, {labelled} with a label, {len(bad)} with errors, {len(rows)} findings")
    if bad:
        raise DualTaskError(f"{len(bad)} of {len(cases)} cases have errors", "mend or remove them, as told above")


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="phantom")] = "phantom",
    folder: Annotated[Path, typer.Option("--out", help="Folder to make; one sub-folder a centre.")] = Path("phantom"),
    cases: Annotated[int, typer.Option(min=1, help="Cases a centre.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[Optional[tuple[int, int, int]], typer.Option(help="Voxels X Y Z.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Make the embedded three-centre data in Task07 layout."""
    from dualtask_lite.cases.phantom import make_phantom
    from dualtask_lite.engine.progress import progress_bar

    if name != "phantom":
        raise DualTaskError(
            f"{name!r} cannot be made", "the phantom is the only source that is made: data make phantom"
        )
    if folder.exists() and any(folder.iterdir()):
        raise DualTaskError(f"{folder}: is not empty", "choose a new folder with --out")
    with progress_bar() as bar:
        task = bar.add_task("phantom", total=None, note="")
        made = make_phantom(
            folder,
            cases=cases,
            seed=seed,
            size=size,
            progress=lambda n, of: bar.update(task, completed=n, total=of),
        )
    if as_json:
        _print_json({"folder": str(made), "cases_per_centre": cases, "seed": seed})
    else:
        out.print(f"made {made}; try: dualtask data check {made}", markup=False, highlight=False)


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Settings as YAML; see a run's config.yaml.")] = None,
    profile: Annotated[Optional[str], typer.Option(help="laptop, colab, gpu or paper.")] = None,  # noqa: UP045
    stage: Stages = None,
    source: Annotated[Optional[str], typer.Option(help="Known source or folder (data.source).")] = None,  # noqa: UP045
    held_out: Annotated[str | None, typer.Option(help="Centre that is never seen (data.held_out).")] = None,
    assignments: Assignments = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/PROFILE-STAGE.")] = None,
    resume: Annotated[Optional[Path], typer.Option(help="Go on with this run folder.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Train one stage, or a cascade of them (--stage more than once)."""
    from dualtask_lite.engine.run import CONFIG, MANIFEST, MODEL
    from dualtask_lite.engine.train import train as train_stage

    if resume:
        if config or profile or stage or assignments or folder or source or held_out:
            raise typer.BadParameter("a run goes on with its own settings: give --resume alone")
        plan = _planned(resume)
    else:
        shortcuts = {"profile": profile, "data.source": source, "data.held_out": held_out}
        given = {key: value for key, value in shortcuts.items() if value is not None}
        plan = _plan(config, stage or [], assignments or [], given, folder)
        for run_folder, _ in plan:
            if (run_folder / CONFIG).exists():
                raise DualTaskError(
                    f"{run_folder}: holds a run already", f"choose another --out, or --resume {run_folder}"
                )
        for run_folder, settings in plan:
            run_folder.mkdir(parents=True, exist_ok=True)
            settings.write(run_folder / CONFIG)
    done = []
    for run_folder, settings in plan:
        if not (run_folder / MODEL).exists():
            train_stage(settings, run_folder, resume=True)
        done.append({"run": str(run_folder), **json.loads((run_folder / MANIFEST).read_text(encoding="utf-8"))})
    if as_json:
        _print_json(done)
        return
    for one in done:
        dice = ", ".join(f"{part} Dice {value:.2f}" for part, value in one["dice"].items() if value is not None)
        told = f"{one['run']}: {one['steps']} steps in {one['seconds']} s on {one['device']}; {dice}"
        out.print(told, markup=False, highlight=False)
    where = plan[0][0] if len(plan) == 1 else plan[0][0].parent
    if plan[0][1].data.held_out:
        out.print(f"next: dualtask evaluate {where}", markup=False, highlight=False)
    else:
        out.print(f"next: dualtask predict {where} CT.nii.gz -o out", markup=False, highlight=False)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Run folder, .safetensors file, or a folder of the runs of a cascade.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="NIfTI files or folders of them.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict on each input's own grid: NAME_seg.nii.gz, NAME_distance.nii.gz (mm), NAME.json and NAME.png."""
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine.progress import progress_bar

    models = _models(model, device)
    cases = [case for source in inputs for case in find_cases(source)]
    folder.mkdir(parents=True, exist_ok=True)
    reports, failed = [], {}
    with progress_bar() as bar:
        for case in bar.track(cases, description="predicting"):
            try:
                reports.append(_predict_one(models, case, folder))
            except DualTaskError as error:
                failed[case.id] = str(error)
    if as_json:
        _print_json({"predicted": reports, "failed": failed})
    else:
        _print_table(
            [
                {
                    "case": r["case"],
                    **{f"{k} ml": v for k, v in r["volume_ml"].items()},
                    "seconds": r["seconds"],
                }
                for r in reports
            ]
        )
        for name, why in failed.items():
            out.print(f"skipped {name}: {why}", markup=False, highlight=False)
    if failed:
        raise DualTaskError(f"{len(failed)} of {len(cases)} inputs could not be predicted", "see the list above")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Run folder, .safetensors file, or a folder of the runs of a cascade.")],
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Known source or folder with labels; default: what the model was trained on."),
    ] = None,
    centre: Annotated[
        str | None, typer.Option(help="Only this centre; default: the one that the model held out.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Where cases.csv and summary.json go.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a model, from the whole volume, on cases that it never saw; a case it saw is refused."""
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine import evaluate as engine

    models = _models(model, device)
    if engine.targets(models) == ["tumour"]:
        typer.echo(
            "note: no pancreas stage says where to look, so the tumour is looked for in the whole volume", err=True
        )
    result = engine.evaluate(
        models, engine.unseen_cases(models, find_cases(source or models[0].settings.data.source), centre)
    )
    where = folder or (model if model.is_dir() else model.parent) / "evaluation"
    engine.write_evaluation(result, where)
    if as_json:
        _print_json(engine.plain({"summary": result.summary, "failed": result.failed, "out": str(where)}))
    else:
        shown = ("dice", "nsd_2mm", "hd95_mm", "assd_mm")
        _print_table(
            [
                {"target": target, "centre": name, "cases": of["n_cases"]}
                | {m: f"{of[m]['mean']:.3f}" if of[m]["n"] else "undefined" for m in shown}
                for target, centres in result.summary.items()
                for name, of in centres.items()
            ]
        )
        out.print(f"wrote {where / 'cases.csv'} and summary.json", markup=False, highlight=False)
    if result.failed:
        raise DualTaskError(f"not evaluated: {result.failed}", "mend these cases, see dualtask data check")


@app.command()
def ablate(
    profile: Profile = "laptop",
    source: Annotated[str, typer.Option(help="Known source or folder with several centres.")] = "phantom",
    stage: Stages = None,
    arm: Annotated[list[str] | None, typer.Option(help="Arm of the table; default all. May be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, counted from 0.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time.")] = 1,
    assignments: Assignments = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the table; a run that was cut goes on.")
    ] = Path("runs/ablation"),
    as_json: AsJson = False,
) -> None:
    """Leave-one-centre-out table: each arm trained within a centre and on the others, several seeds."""
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine import ablate as engine
    from dualtask_lite.engine.config import Settings, parse_assignments

    overrides = parse_assignments(assignments or [])
    Settings.of(profile, overrides)  # a slip is told before anything is trained
    if unknown := [name for name in arm or [] if name not in engine.ARMS]:
        raise DualTaskError(f"there is no arm {unknown[0]!r}", f"choose from: {', '.join(engine.ARMS)}")
    summary = engine.ablate(
        profile,
        overrides,
        find_cases(source),
        folder,
        stages=stage or ["pancreas-coarse", "tumour-coarse"],
        arms=arm or list(engine.ARMS),
        seeds=range(seeds),
        jobs=jobs,
        command=shlex.join(["dualtask", *sys.argv[1:]]),
    )
    if as_json:
        _print_json(engine.plain(summary))
        return
    _print_table(
        [
            {"target": target, "arm": name, "metric": metric}
            | {
                p: f"{v['mean']:.3f}" + (f" ± {v['sd_over_seeds']:.3f}" if v["sd_over_seeds"] else "")
                for p, v in values.items()
            }
            for target, arms in summary.items()
            for name, metrics in arms.items()
            for metric, values in metrics.items()
        ]
    )
    out.print(f"wrote {folder / 'cases.csv'} and summary.json", markup=False, highlight=False)


def _plan(
    config: Path | None,
    stages: Sequence[str],
    assignments: list[str],
    given: dict[str, Any],
    folder: Path | None,
) -> list[tuple[Path, Settings]]:
    """The runs of one ``train`` command: one in ``folder`` itself, or one a stage in its sub-folders."""
    from dualtask_lite.engine.config import Settings, parse_assignments

    overrides = given | parse_assignments(assignments)
    every = []
    for chosen in stages or ("",):
        changes = overrides | ({"stage": chosen} if chosen else {})
        if config:
            every.append(Settings.read(config, changes))
        else:
            every.append(Settings.of(changes.pop("profile", "laptop"), changes))
    if len(every) == 1:
        return [(folder or Path("runs") / f"{every[0].profile}-{every[0].stage}", every[0])]
    where = folder or Path("runs") / f"{every[0].profile}-cascade"
    return [(where / settings.stage, settings) for settings in every]


def _planned(folder: Path) -> list[tuple[Path, Settings]]:
    """The runs that were planned in a folder, to go on with."""
    from dualtask_lite.engine.config import Settings
    from dualtask_lite.engine.run import CONFIG

    configs = [folder / CONFIG] if (folder / CONFIG).exists() else sorted(folder.glob(f"*/{CONFIG}"))
    if not configs:
        raise DualTaskError(f"{folder}: holds no run", "name the folder that dualtask train made")
    return [(config.parent, Settings.read(config)) for config in configs]


def _models(path: Path, device: str) -> list[Model]:
    from dualtask_lite.engine.run import load_models
    from dualtask_lite.engine.train import pick_device

    return load_models(path, pick_device(device))


def _predict_one(models: list[Model], case: Case, folder: Path) -> dict[str, Any]:
    """Predict one case and write its four files."""
    from dualtask_lite.engine.predict import predict_scan
    from dualtask_lite.engine.run import provenance, write_json
    from dualtask_lite.show.plots import preview

    scan = case.load()
    prediction = predict_scan(models, scan)
    scan.save(prediction.mask, folder / f"{case.id}_seg.nii.gz")
    scan.save(prediction.distance_mm, folder / f"{case.id}_distance.nii.gz")
    report = {
        "case": case.id,
        "not_for_diagnosis": "made by Dual-Task Lite for teaching and research; not for diagnosis",
        "labels": {"1": "pancreas", "2": "tumour"},
        "distance": f"mm to the {prediction.target}, negative inside, clipped at the band",
        "volume_ml": {stage["stage"]: stage["volume_ml"] for stage in prediction.report},
        "seconds": round(sum(stage["seconds"] for stage in prediction.report), 2),
        "stages": prediction.report,
        "models": [str(model.path) for model in models],
        **provenance(next(models[0].net.parameters()).device),
    }
    write_json(folder / f"{case.id}.json", report)
    preview(scan, prediction.mask, prediction.distance_mm).save(folder / f"{case.id}.png")
    return report


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, default=str))


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table, soft_wrap=False)


def main() -> None:
    """Entry point: one line for what the user can put right, a traceback only with ``--debug``."""
    try:
        app()
    except DualTaskError as error:
        if os.environ.get("DUALTASK_DEBUG"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, as typer passes it on
            typer.echo("interrupted; a training goes on with --resume", err=True)
        raise
