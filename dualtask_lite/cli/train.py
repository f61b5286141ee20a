"""``dualtask train``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualtask_lite.cli.shared import AsJson, Assignments, Stages, app, check_folder_name, out, print_json
from dualtask_lite.errors import DualTaskError

if TYPE_CHECKING:
    from dualtask_lite.engine.config import Settings
    from dualtask_lite.engine.data.cache import Track


@app.command()
def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="Settings as YAML, like the config.yaml of a run; another --stage or --profile keeps what it changed."
        ),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="laptop, reference, colab, gpu or paper.")] = None,
    stage: Stages = None,
    source: Annotated[str | None, typer.Option(help="Known source or folder (data.source).")] = None,
    held_out: Annotated[str | None, typer.Option(help="Centre that is not used in training (data.held_out).")] = None,
    assignments: Assignments = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=check_folder_name,
            help="Run folder; default runs/PROFILE-STAGE, of several stages runs/PROFILE-cascade.",
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run; a finished one only with more steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train one stage, or a cascade of them (--stage more than once).

    On N GPUs: torchrun --nproc-per-node=N -m dualtask_lite train ...; optimiser.batch is shared by all of them.
    """
    from dualtask_lite.engine.progress import progress_bar
    from dualtask_lite.engine.records import read_json
    from dualtask_lite.engine.run import CONFIG, MANIFEST
    from dualtask_lite.engine.training.devices import rank
    from dualtask_lite.engine.training.selection import checked_split
    from dualtask_lite.engine.training.train import train as train_stage
    from dualtask_lite.files import check_writable
    from dualtask_lite.resources import as_model

    if resume:
        if config or profile or stage or assignments or folder or source or held_out:
            raise typer.BadParameter("a resumed run keeps its settings: use --resume without other options")
        plan = _read_plan(resume)
    else:
        options = {"profile": profile, "data.source": source, "data.held_out": held_out}
        chosen = {key: value for key, value in options.items() if value is not None}
        plan = _new_plan(config, stage or [], assignments or [], chosen, folder)
        _check_new_folders(plan)
    unfinished = [(run_folder, settings) for run_folder, settings in plan if not _is_finished(run_folder, settings)]
    # Check every stage before the first one is trained; nothing is written before that.
    for run_folder, _ in unfinished:
        check_writable(run_folder)
    splits = []
    with progress_bar(rank() == 0) as bar:
        track: Track = partial(bar.track, description="comparing images")
        for run_folder, settings in unfinished:
            splits.append(checked_split(settings, run_folder, track=track))
            track = iter  # the other stages have the same images

    def write_settings() -> None:
        for run_folder, settings in unfinished:
            if not (run_folder / CONFIG).exists():
                settings.write(run_folder / CONFIG)

    for number, ((run_folder, settings), split) in enumerate(zip(unfinished, splits, strict=True), start=1):
        if len(unfinished) > 1 and rank() == 0:
            typer.echo(f"stage {number} of {len(unfinished)}: {settings.stage}", err=True)
        train_stage(settings, run_folder, split=split, resume=resume is not None, on_start=write_settings)
    done = [{"run": str(run_folder), **read_json(run_folder / MANIFEST)} for run_folder, _ in plan]
    if rank() > 0:
        return
    if as_json:
        print_json(done)
        return
    _print_runs(done)
    where = plan[0][0] if len(plan) == 1 else plan[0][0].parent
    if plan[0][1].data.held_out:
        out.print(f"next: dualtask evaluate {shlex.quote(as_model(where))}", markup=False, highlight=False)
    else:
        out.print(
            f"next: dualtask predict {shlex.quote(as_model(where))} CT.nii.gz -o out", markup=False, highlight=False
        )


def _print_runs(manifests: Sequence[dict[str, Any]]) -> None:
    """Print steps, time, device and Dice of each finished run."""
    for run in manifests:
        dice = ", ".join(f"{part} Dice {value:.2f}" for part, value in run["dice"].items() if value is not None)
        line = f"{run['run']}: {run['steps']} steps in {run['seconds']} s on {run['device']}; {dice}"
        out.print(line, markup=False, highlight=False)


def _new_plan(
    config: Path | None,
    stages: Sequence[str],
    assignments: list[str],
    chosen: dict[str, Any],
    folder: Path | None,
) -> list[tuple[Path, Settings]]:
    """Plan the runs of a ``train`` command: one in ``folder`` itself, or one for each stage in its sub-folders."""
    from dualtask_lite.cases.sources import absolute
    from dualtask_lite.engine.config import Settings, parse_assignments

    overrides = chosen | parse_assignments(assignments)
    cascade = []
    for stage in stages or ("",):
        changes = overrides | ({"stage": stage} if stage else {})
        if config:
            cascade.append(Settings.read(config, changes))
        else:
            cascade.append(Settings.of(changes.pop("profile", "laptop"), changes))
    cascade = [settings.changed({"data.source": absolute(settings.data.source)}) for settings in cascade]
    if len(cascade) == 1:
        return [(folder or Path("runs") / f"{cascade[0].profile}-{cascade[0].stage}", cascade[0])]
    where = folder or Path("runs") / f"{cascade[0].profile}-cascade"
    return [(where / settings.stage, settings) for settings in cascade]


def _check_new_folders(plan: Sequence[tuple[Path, Settings]]) -> None:
    """Refuse folders that hold a run; only process 0 checks, because it also writes the first files."""
    from dualtask_lite.engine.run import CONFIG
    from dualtask_lite.engine.training.devices import rank

    for folder, _ in plan if rank() == 0 else ():
        if (folder / CONFIG).exists():
            raise DualTaskError(
                f"{folder}: holds a run already", f"choose another --out, or --resume {shlex.quote(str(folder))}"
            )


def _read_plan(folder: Path) -> list[tuple[Path, Settings]]:
    """Read the planned runs of a folder."""
    from dualtask_lite.engine.config import Settings
    from dualtask_lite.engine.run import CONFIG

    configs = [folder / CONFIG] if (folder / CONFIG).exists() else sorted(folder.glob(f"*/{CONFIG}"))
    if not configs:
        raise DualTaskError(f"{folder}: holds no run", "give a folder made by dualtask train")
    return [(config.parent, Settings.read(config)) for config in configs]


def _is_finished(folder: Path, settings: Settings) -> bool:
    """Whether a run has all its steps, which is reported; with more steps in its settings it continues."""
    from dualtask_lite.engine.run import CONFIG, steps_of_model
    from dualtask_lite.engine.training.devices import rank
    from dualtask_lite.engine.training.train import check_resumable

    steps, wanted = steps_of_model(folder), settings.optimiser.steps
    if steps is not None and wanted > steps:
        check_resumable(folder, settings)  # of every stage, before the first one is trained
    if steps is not None and rank() == 0:
        more = f"continues to step {wanted}" if wanted > steps else f"raise optimiser.steps in its {CONFIG} to continue"
        typer.echo(f"note: {folder} is finished with {steps} steps; {more}", err=True)
    return steps is not None and wanted <= steps
