"""``dualtask evaluate`` and ``dualtask ablate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from dualtask_lite.cases.paths import printable
from dualtask_lite.cli.shared import (
    MODEL_HELP,
    AsJson,
    Assignments,
    Profile,
    Stages,
    app,
    check_folder_name,
    models_of,
    out,
    print_json,
    print_table,
)
from dualtask_lite.errors import DualTaskError
from dualtask_lite.words import counted, interval_in_words, signed

SHOWN = ("dice", "nsd_2mm", "hd95_mm", "assd_mm")  # metrics in the table of an evaluation


@app.command()
def evaluate(
    model: Annotated[
        list[str],
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
        typer.Option("--out", "-o", callback=check_folder_name, help="Folder of cases.csv and summary.json."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on the whole volumes of new cases; cases that were used in training are refused.

    Ctrl-C keeps the finished cases, and lists the others as failed; the same command begins again.
    """
    from dualtask_lite.cases.sources import absolute, find_cases
    from dualtask_lite.engine.judging import evaluation as engine
    from dualtask_lite.engine.judging.evaluation_folder import (
        check_evaluation_folder,
        write_evaluation,
        write_interrupted,
    )
    from dualtask_lite.engine.records import plain
    from dualtask_lite.files import check_writable
    from dualtask_lite.resources import run_folder

    models = models_of(device, *model)
    if engine.targets(models) == ["tumour"]:
        typer.echo("note: without a pancreas stage the tumour is searched in the whole volume", err=True)
    from_where = absolute(models[0].settings.data.source if source is None else source)
    cases = engine.unseen_cases(models, find_cases(from_where), centre, source=source)
    run = run_folder(model[0])
    where = folder or (run if run.is_dir() else run.parent) / "evaluation"
    check_evaluation_folder(where, cases, from_where, models)
    check_writable(where)
    try:
        result = engine.evaluate(models, cases)
    except engine.InterruptedEvaluation as interrupt:
        (part,) = interrupt.evaluations
        kept = write_interrupted(part, where, from_where, models)
        without = sum(reason == engine.INTERRUPTED for reason in part.failed.values())
        what = f"without {counted(without, 'unfinished case')}" if kept else "the whole evaluation that it already held"
        typer.echo(f"kept in {where}: {what}; repeat the command to evaluate all cases", err=True)
        raise
    try:
        write_evaluation(result, where, from_where, models)
    finally:  # a full disk does not take the table away, nor a closed terminal the files
        if as_json:
            found = {"summary": result.summary, "failed": result.failed, "warnings": result.warnings}
            print_json(plain(found | {"out": str(where)}))
        else:
            print_table(
                [
                    {"target": target, "centre": name, "cases": statistics["n_cases"]}
                    | {f"{metric} (n)": _mean(statistics[metric]) for metric in SHOWN}
                    for target, centres in result.summary.items()
                    for name, statistics in centres.items()
                ]
            )
    if not as_json:
        out.print(f"wrote {where / 'cases.csv'} and summary.json", markup=False, highlight=False)
    for warning in chain.from_iterable(result.warnings.values()):
        typer.echo(f"warning: {printable(warning)}", err=True)
    if result.failed:
        for name, reason in result.failed.items():
            typer.echo(f"failed {name}: {reason}", err=True)
        raise DualTaskError(
            f"could not evaluate {len(result.failed)} of {counted(len(cases), 'case')}; see the list above",
            "repair these cases, see dualtask data check",
        )


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
            help="Arm of the table, optionally with settings: full+objective.tau=6. Default all; may be repeated."
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
    jobs: Annotated[int, typer.Option(min=1, help="Number of cells that run at the same time.")] = 1,
    assignments: Assignments = None,
    folder: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            callback=check_folder_name,
            help="Folder of the table; an interrupted run continues.",
        ),
    ] = Path("runs/ablation"),
    as_json: AsJson = False,
) -> None:
    """Measure the effect of each term: train and test every arm on the same data and steps, with several seeds.

    The arms differ in the last stage; the earlier stages are the same for all. For the cases of one folder, such as
    Task07: --protocol cross-validation --stage pancreas-coarse --stage tumour-coarse. Without a pancreas stage the
    tumour is searched in the whole volume, because no test uses the true box. --set changes all cells alike; what
    differs between cells is set by --seeds, --part and --arm NAME+KEY=VALUE.
    """
    from dualtask_lite.engine.config import Settings, parse_assignments
    from dualtask_lite.engine.judging.ablation import ablate
    from dualtask_lite.engine.judging.plan import ARMS, refuse_settings_of_a_cell
    from dualtask_lite.engine.records import plain
    from dualtask_lite.engine.training.selection import selected_cases

    overrides = parse_assignments(assignments or [])
    refuse_settings_of_a_cell(overrides)  # before the settings, whose own error would lead astray
    settings = Settings.of(profile, overrides)
    settings = settings if source is None else settings.changed({"data.source": source})
    summary = ablate(
        profile,
        overrides,
        selected_cases(settings),
        folder,
        stages=stage or ["pancreas-coarse", "tumour-coarse"],
        arms=arm or list(ARMS),
        seeds=range(seeds),
        protocols=protocol or ["in-domain", "unseen"],
        parts=part,
        folds=folds,
        jobs=jobs,
        command=shlex.join(["dualtask", *sys.argv[1:]]),
    )
    if as_json:
        print_json(plain(summary))
        return
    _print_results(summary["results"])
    _print_comparisons(summary["comparisons"])
    out.print(f"wrote {folder / 'cases.csv'} and summary.json", markup=False, highlight=False)


def _print_results(results: Mapping[str, Any]) -> None:
    """Print mean and standard deviation over seeds for each target, arm and metric."""
    print_table(
        [
            {"target": target, "arm": arm, "metric": metric}
            | {
                protocol: f"{value['mean']:.3f}"
                + (f" ± {value['sd_over_seeds']:.3f}" if value["sd_over_seeds"] is not None else "")
                for protocol, value in protocols.items()
            }
            for target, arms in results.items()
            for arm, metrics in arms.items()
            for metric, protocols in metrics.items()
        ]
    )


def _print_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Print the difference of each arm from the baseline, with both intervals, and the notes about them."""
    print_table(
        [
            {key: record[key] for key in ("target", "protocol", "metric", "arm", "cases")}
            | {
                "minus": record["baseline"],
                "difference": signed(record["difference"]),
                "95 %, training runs and cases": interval_in_words(record["hierarchical"]),
                "95 %, cases alone": interval_in_words(record["interval"]),
                "p (Holm)": f"{record['p_holm']:.3g}",
                "conclusion": record["conclusion"],
            }
            for record in comparisons
        ]
    )
    for note in dict.fromkeys(record["note"] for record in comparisons if record["note"]):
        out.print(f"note: {note}", markup=False, highlight=False)


def _mean(statistics: Mapping[str, float]) -> str:
    return f"{statistics['mean']:.3f} ({statistics['n']})" if statistics["n"] else "undefined (0)"
