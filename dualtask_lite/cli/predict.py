"""``dualtask predict``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualtask_lite.cli.shared import (
    MODEL_HELP,
    AsJson,
    app,
    insist_on_folder,
    models_of,
    print_json,
    print_table,
    reason_of,
    say,
)
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import report_write_errors

if TYPE_CHECKING:
    from dualtask_lite.cases.case import Case
    from dualtask_lite.engine.run import Model


@app.command()
def predict(
    model: Annotated[
        Path,
        typer.Argument(help=f"{MODEL_HELP}."),
    ],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="NIfTI files, and folders of them or of DICOM.")
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", callback=insist_on_folder, help="Folder of the results.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict on each input's own grid: NAME_seg.nii.gz, NAME_distance.nii.gz (mm), NAME.json and NAME.png.

    A folder is looked through with all below it, except results of an earlier prediction; what is skipped is listed.

    On N GPUs: torchrun --nproc-per-node=N -m dualtask_lite predict ...; they share the inputs.
    """
    from dualtask_lite.cases.inventory import in_lines
    from dualtask_lite.cases.sources import find_inputs
    from dualtask_lite.engine.progress import progress_bar
    from dualtask_lite.engine.training.devices import gather, join_processes, rank, world_size

    join_processes()
    models = models_of(device, model)
    found = find_inputs(inputs)
    cases = found.cases
    _insist_on_free_names(cases, folder)
    gather(None)  # every process has listed the inputs before the first writes beside them
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    mine: list[tuple[str, dict[str, Any] | str]] = []  # the report, or why there is none
    with progress_bar(rank() == 0) as bar:
        for case in bar.track(cases[rank() :: world_size()], description="predicting"):
            try:
                mine.append((case.id, _predict_one(models, case, folder)))
            except Exception as error:  # whatever one case sets off, the others go on
                mine.append((case.id, reason_of(error)))
    outcomes = dict(chain.from_iterable(gather(mine)))
    if rank() > 0:
        return
    reports = [report for case in cases if isinstance(report := outcomes[case.id], dict)]
    failed = {name: why for name, why in outcomes.items() if isinstance(why, str)}
    if as_json:
        print_json({"predicted": reports, "failed": failed, "skipped": found.skipped_rows()})
    else:
        print_table(
            [
                {
                    "case": r["case"],
                    **{f"{k} ml": v for k, v in r["volume_ml"].items()},
                    "seconds": r["seconds"],
                }
                for r in reports
            ]
        )
        for warning in chain.from_iterable(report["warnings"] for report in reports):
            say(f"warning: {warning}")
        for name, why in failed.items():
            say(f"failed {name}: {why}")
        for line in in_lines(found.skipped):
            say(f"skipped {line}")
    lost = len(failed) + sum(one.may_be_ct for one in found.skipped)
    if lost:
        raise DualTaskError(f"{lost} of {lost + len(reports)} inputs could not be predicted", "see the list above")


def _insist_on_free_names(cases: list[Case], folder: Path) -> None:
    """Refuse to write over any file that is not the result of an earlier prediction, say a reader's own mask."""
    from dualtask_lite.cases.results import is_result, result_files

    for case in cases:
        for path in result_files(folder, case.id).values():
            if path.exists() and not is_result(path):
                raise DualTaskError(
                    f"{path}: the result of case {case.id} would replace it, and it is no result of dualtask predict",
                    "choose another folder with -o",
                )


def _predict_one(models: list[Model], case: Case, folder: Path) -> dict[str, Any]:
    """Predict one case and write its four files."""
    from dualtask_lite.cases.findings import of_grid, of_voxels
    from dualtask_lite.cases.results import NOT_FOR_DIAGNOSIS, result_files
    from dualtask_lite.engine.predict import predict_scan
    from dualtask_lite.engine.run import provenance, write_json
    from dualtask_lite.show.figures import preview

    scan = case.load()
    prediction = predict_scan(models, scan)
    report = {
        "case": case.id,
        "not_for_diagnosis": NOT_FOR_DIAGNOSIS,
        "labels": {"1": "pancreas", "2": "tumour"},
        "warnings": [
            *(f"{one.what}; {one.remedy}" for one in of_grid(scan.source, case.id)),
            *(f"{one.what}; {one.remedy}" for one in of_voxels(scan.volume, case.id)),
            *(f"{case.id}: {one}" for one in prediction.warnings),
        ],
        "distance": f"mm to the {prediction.target}, negative inside, clipped at the band",
        "volume_ml": {stage["stage"]: stage["volume_ml"] for stage in prediction.report},
        "seconds": round(sum(stage["seconds"] for stage in prediction.report), 2),
        "stages": prediction.report,
        "models": [str(model.path) for model in models],
        **provenance(next(models[0].net.parameters()).device),
    }
    with _all_or_none(result_files(folder, case.id)) as files:
        write_json(files["report"], report)  # first, because it marks the others as results
        scan.save(prediction.mask, files["mask"])
        scan.save(prediction.distance_mm, files["distance"])
        preview(scan, prediction.mask, prediction.distance_mm).save(files["preview"])
    return report


@contextmanager
def _all_or_none(files: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Remove all files of a case when one cannot be written: a report without its mask would claim a result."""
    try:
        yield files
    except BaseException:
        for path in files.values():
            path.unlink(missing_ok=True)
        raise
