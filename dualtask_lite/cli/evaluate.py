"""``dualtask evaluate`` and ``dualtask ablate``."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import (
    MODEL_HELP,
    AsJson,
    Assignments,
    Profile,
    Stages,
    app,
    insist_on_folder,
    models_of,
    out,
    print_json,
    print_table,
)
from dualtask_lite.errors import DualTaskError


@app.command()
def evaluate(
    model: Annotated[
        list[Path],
        typer.Argument(help=f"{MODEL_HELP}; several are one cascade."),
    ],
    source: Annotated[
        str | None,
        typer.Option(help="Known source or folder with labels; default: what the model was trained on."),
    ] = None,
    centre: Annotated[
        str | None,
        typer.Option(help="Only this centre; default: the held-out one of the training source."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=insist_on_folder, help="Where cases.csv and summary.json go."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a model, from the whole volume, on new cases; one whose image was used in training is refused."""
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine.judging import evaluation as engine
    from dualtask_lite.resources import run_folder

    models = models_of(device, *model)
    if engine.targets(models) == ["tumour"]:
        typer.echo(
            "note: no pancreas stage says where to look, so the tumour is looked for in the whole volume", err=True
        )
    cases = find_cases(source or models[0].settings.data.source)
    result = engine.evaluate(models, engine.unseen_cases(models, cases, centre, source=source))
    run = run_folder(model[0])
    where = folder or (run if run.is_dir() else run.parent) / "evaluation"
    engine.write_evaluation(result, where)
    if as_json:
        print_json(engine.plain({"summary": result.summary, "failed": result.failed, "out": str(where)}))
    else:
        shown = ("dice", "nsd_2mm", "hd95_mm", "assd_mm")
        print_table(
            [
                {"target": target, "centre": name, "cases": of["n_cases"]}
                | {f"{m} (n)": f"{of[m]['mean']:.3f} ({of[m]['n']})" if of[m]["n"] else "undefined (0)" for m in shown}
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
    source: Annotated[
        str | None,
        typer.Option(help="Known source or folder, of several centres or for cross-validation; default the profile's."),
    ] = None,
    stage: Stages = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Arm of the table, perhaps with settings: full+objective.tau=6. Default all; may be repeated."
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="in-domain, unseen, leave-one-centre-out or cross-validation; default the first two; may be repeated."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Test only this centre, or this fold of cross-validation. Default all; may be repeated."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of cross-validation.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, counted from 0.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time.")] = 1,
    assignments: Assignments = None,
    folder: Annotated[
        Path,
        typer.Option("--out", "-o", callback=insist_on_folder, help="Folder of the table; a run that was cut goes on."),
    ] = Path("runs/ablation"),
    as_json: AsJson = False,
) -> None:
    """What each term buys: every arm trained and tested with the same data and steps, several seeds.

    The arms are about the last stage; the stages before it are the same for all. On the cases of one folder, say of
    Task07: --protocol cross-validation --stage pancreas-coarse --stage tumour-coarse. Without a pancreas stage the
    tumour is looked for in the whole volume, because no true box is used in a test.
    """
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine.config import Settings, parse_assignments
    from dualtask_lite.engine.judging import ablation as engine

    overrides = parse_assignments(assignments or [])
    source = source or Settings.of(profile, overrides).data.source
    summary = engine.ablate(
        profile,
        overrides,
        [case for case in find_cases(source) if case.label is not None],
        folder,
        stages=stage or ["pancreas-coarse", "tumour-coarse"],
        arms=arm or list(engine.ARMS),
        seeds=range(seeds),
        protocols=protocol or ["in-domain", "unseen"],
        parts=part,
        folds=folds,
        jobs=jobs,
        command=shlex.join(["dualtask", *sys.argv[1:]]),
    )
    if as_json:
        print_json(engine.plain(summary))
        return
    print_table(
        [
            {"target": target, "arm": name, "metric": metric}
            | {
                p: f"{v['mean']:.3f}" + (f" ± {v['sd_over_seeds']:.3f}" if v["seeds"] > 1 else "")
                for p, v in values.items()
            }
            for target, arms in summary["results"].items()
            for name, metrics in arms.items()
            for metric, values in metrics.items()
        ]
    )
    print_table(
        [
            {key: one[key] for key in ("target", "protocol", "metric", "arm", "cases")}
            | {
                "minus segmentation": f"{one['difference']:+.3f}",
                "95 %, trainings and cases": _ends(one["hierarchical"]),
                "95 %, cases alone": _ends(one["interval"]),
                "p (Holm)": f"{one['p_holm']:.3g}",
                "conclusion": one["conclusion"],
            }
            for one in summary["comparisons"]
        ]
    )
    for note in dict.fromkeys(one["note"] for one in summary["comparisons"] if one["note"]):
        out.print(f"note: {note}", markup=False, highlight=False)
    out.print(f"wrote {folder / 'cases.csv'} and summary.json", markup=False, highlight=False)


def _ends(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low:+.3f} to {high:+.3f}" if math.isfinite(low) else "undefined"
