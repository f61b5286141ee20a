"""``dualtask train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualtask_lite.cli.shared import AsJson, Assignments, Stages, app, insist_on_folder, out, print_json
from dualtask_lite.errors import DualTaskError

if TYPE_CHECKING:
    from dualtask_lite.engine.config import Settings


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Settings as YAML; see a run's config.yaml.")] = None,
    profile: Annotated[str | None, typer.Option(help="laptop, colab, gpu or paper.")] = None,
    stage: Stages = None,
    source: Annotated[str | None, typer.Option(help="Known source or folder (data.source).")] = None,
    held_out: Annotated[str | None, typer.Option(help="Centre that is never seen (data.held_out).")] = None,
    assignments: Assignments = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=insist_on_folder, help="Run folder; default runs/PROFILE-STAGE."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run folder, a finished one if its steps were raised.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one stage, or a cascade of them (--stage more than once).

    On N GPUs: torchrun --nproc-per-node=N -m dualtask_lite train ...; optimiser.batch is shared by all of them.
    """
    from dualtask_lite.engine.run import CONFIG, MANIFEST, read_json
    from dualtask_lite.engine.training.devices import rank
    from dualtask_lite.engine.training.train import checked_split
    from dualtask_lite.engine.training.train import train as train_stage

    if resume:
        if config or profile or stage or assignments or folder or source or held_out:
            raise typer.BadParameter("a run goes on with its own settings: give --resume alone")
        plan = _planned(resume)
    else:
        shortcuts = {"profile": profile, "data.source": source, "data.held_out": held_out}
        given = {key: value for key, value in shortcuts.items() if value is not None}
        plan = _plan(config, stage or [], assignments or [], given, folder)
        for run_folder, _ in plan if rank() == 0 else ():  # the others would meet what process 0 writes
            if (run_folder / CONFIG).exists():
                raise DualTaskError(
                    f"{run_folder}: holds a run already", f"choose another --out, or --resume {run_folder}"
                )
    unfinished = [(run_folder, settings) for run_folder, settings in plan if not _is_finished(run_folder, settings)]
    # Every stage is checked before the first one trains, and none leaves a file before that.
    splits = [checked_split(settings, run_folder) for run_folder, settings in unfinished]

    def keep_plan() -> None:
        for run_folder, settings in unfinished:
            if not (run_folder / CONFIG).exists():
                settings.write(run_folder / CONFIG)

    for number, ((run_folder, settings), split) in enumerate(zip(unfinished, splits, strict=True), start=1):
        if len(unfinished) > 1 and rank() == 0:
            typer.echo(f"stage {number} of {len(unfinished)}: {settings.stage}", err=True)
        train_stage(settings, run_folder, split=split, resume=True, on_start=keep_plan)
    done = [{"run": str(run_folder), **read_json(run_folder / MANIFEST)} for run_folder, _ in plan]
    if rank() > 0:
        return
    if as_json:
        print_json(done)
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


def _plan(
    config: Path | None,
    stages: Sequence[str],
    assignments: list[str],
    given: dict[str, Any],
    folder: Path | None,
) -> list[tuple[Path, Settings]]:
    """The runs of one ``train`` command: one in ``folder`` itself, or one a stage in its sub-folders."""
    from dualtask_lite.cases.sources import absolute
    from dualtask_lite.engine.config import Settings, parse_assignments

    overrides = given | parse_assignments(assignments)
    every = []
    for chosen in stages or ("",):
        changes = overrides | ({"stage": chosen} if chosen else {})
        if config:
            every.append(Settings.read(config, changes))
        else:
            every.append(Settings.of(changes.pop("profile", "laptop"), changes))
    every = [settings.changed({"data.source": absolute(settings.data.source)}) for settings in every]
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


def _is_finished(folder: Path, settings: Settings) -> bool:
    """Whether a run has nothing left to do, which is told; it goes on when more steps are asked for than it had."""
    from dualtask_lite.engine.run import CONFIG, steps_of_model
    from dualtask_lite.engine.training.devices import rank

    steps, wanted = steps_of_model(folder), settings.optimiser.steps
    if steps is not None and rank() == 0:
        more = f"trains on to step {wanted}" if wanted > steps else f"raise optimiser.steps in its {CONFIG} to train on"
        typer.echo(f"note: {folder} is finished with {steps} steps; {more}", err=True)
    return steps is not None and wanted <= steps
