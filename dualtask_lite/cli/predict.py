"""``dualtask predict``."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualtask_lite.cli.shared import (
    MODEL_HELP,
    AsJson,
    app,
    check_folder_name,
    models_of,
    print_json,
    print_line,
    print_table,
)
from dualtask_lite.errors import DualTaskError, reason_of
from dualtask_lite.files import check_writable

if TYPE_CHECKING:
    from dualtask_lite.cases.case import Case, Scan
    from dualtask_lite.engine.predict import Prediction
    from dualtask_lite.engine.run import Model


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(help=f"{MODEL_HELP}."),
    ],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="NIfTI files, and folders of them or of DICOM.")
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", callback=check_folder_name, help="Folder of the results.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict each input on its own grid: NAME_seg.nii.gz, NAME_distance.nii.gz (mm), NAME.json and NAME.png.

    A folder is searched with its sub-folders; results of an earlier prediction are ignored, skipped files are listed.
    A new prediction of the same image replaces the earlier one; the results of another image, and a mask or distance
    that was changed after its prediction, are left as they are.

    On N GPUs: torchrun --nproc-per-node=N -m dualtask_lite predict ...; they share the inputs.
    """
    from dualtask_lite.cases.inventory import describe_skipped
    from dualtask_lite.cases.sources import find_inputs
    from dualtask_lite.engine.saving import refuse_to_replace
    from dualtask_lite.engine.training.devices import gather, join_processes, rank

    join_processes()
    models = models_of(device, model)
    inventory = find_inputs(inputs)
    cases = inventory.cases
    refuse_to_replace(cases, folder)
    check_writable(folder)
    gather(None)  # wait until every process has listed the inputs, because results are written beside them
    results = _predict_all(models, cases, folder)
    if rank() > 0:
        return
    reports = [report for case in cases if isinstance(report := results[case.id], dict)]
    failed = {name: reason for name, reason in results.items() if isinstance(reason, str)}
    if as_json:
        print_json({"predicted": reports, "failed": failed, "skipped": inventory.skipped_rows()})
    else:
        _print_reports(reports)
        for name, reason in failed.items():
            print_line(f"failed {name}: {reason}")
        for line in describe_skipped(inventory.skipped):
            print_line(f"skipped {line}")
    missing = len(failed) + sum(one.may_be_ct for one in inventory.skipped)
    if missing:
        raise DualTaskError(
            f"{missing} of {missing + len(reports)} inputs could not be predicted", "see the list above"
        )


def _predict_all(models: list[Model], cases: list[Case], folder: Path) -> dict[str, dict[str, Any] | str]:
    """Predict the cases, shared by all processes; returns the report of each, or why its prediction failed."""
    from dualtask_lite.engine.predict import predict_scan
    from dualtask_lite.engine.progress import progress_bar
    from dualtask_lite.engine.run import provenance
    from dualtask_lite.engine.saving import predict_into
    from dualtask_lite.engine.training.devices import gather, rank, world_size
    from dualtask_lite.show.figures import preview

    def draw(scan: Scan, prediction: Prediction, path: Path) -> None:
        preview(scan, prediction.mask, prediction.distance_mm).save(path)

    device = next(models[0].net.parameters()).device
    about = {"models": [str(model.path) for model in models], **provenance(device)}
    results: list[tuple[str, dict[str, Any] | str]] = []
    with progress_bar(rank() == 0) as bar:
        for case in bar.track(cases[rank() :: world_size()], description="predicting"):
            try:
                report = predict_into(folder, case, partial(predict_scan, models), about=about, draw=draw)
                results.append((case.id, report))
            except Exception as error:  # one bad case does not stop the others
                results.append((case.id, reason_of(error)))
    return dict(chain.from_iterable(gather(results)))


def _print_reports(reports: list[dict[str, Any]]) -> None:
    """Print volumes and time of each case, and all warnings."""
    print_table(
        [
            {
                "case": report["case"],
                **{f"{stage} ml": ml for stage, ml in report["volume_ml"].items()},
                "seconds": report["seconds"],
            }
            for report in reports
        ]
    )
    for warning in chain.from_iterable(report["warnings"] for report in reports):
        print_line(f"warning: {warning}")
