"""``dualtask predict``."""

from __future__ import annotations

from contextlib import ExitStack
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
from dualtask_lite.files import check_writable, read_record, whole_file

if TYPE_CHECKING:
    from dualtask_lite.cases.case import Case
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
    from dualtask_lite.engine.training.devices import gather, join_processes, rank

    join_processes()
    models = models_of(device, model)
    inventory = find_inputs(inputs)
    cases = inventory.cases
    _check_overwritten_files(cases, folder)
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
    from dualtask_lite.engine.progress import progress_bar
    from dualtask_lite.engine.training.devices import gather, rank, world_size

    results: list[tuple[str, dict[str, Any] | str]] = []
    with progress_bar(rank() == 0) as bar:
        for case in bar.track(cases[rank() :: world_size()], description="predicting"):
            try:
                results.append((case.id, _predict_one(models, case, folder)))
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


def _check_overwritten_files(cases: list[Case], folder: Path) -> None:
    """Refuse to overwrite what is not the result of an earlier prediction, such as a manual or a corrected mask."""
    from dualtask_lite.cases.results import changed_volumes, is_result, result_files

    for case in cases:
        files = result_files(folder, case.id)
        for path in files.values():
            if path.exists() and not is_result(path):
                raise DualTaskError(
                    f"{path}: is not a result of dualtask predict, and that of case {case.id} would replace it",
                    "choose another folder with -o",
                )
        for path in changed_volumes(files):
            raise DualTaskError(
                f"{path}: was changed after its prediction, and a new one of case {case.id} would replace it",
                "move it, or choose another folder with -o",
            )


def _check_same_image(report: Path, digest: str) -> None:
    """Refuse to overwrite the results of another image, since the CTs of many patients have one name, such as ct.

    Voxels are compared, not paths: another patient may have come to the same path, and the same image to another one.
    """
    if read_record(report).get("digest", digest) != digest:
        raise DualTaskError(
            f"{report}: is the result of another image",
            "choose another folder with -o, or give the folder above both images to predict them together",
        )


def _predict_one(models: list[Model], case: Case, folder: Path) -> dict[str, Any]:
    """Predict one case and write its four files."""
    from dualtask_lite.cases.findings import check_grid, check_voxels
    from dualtask_lite.cases.nifti import digest_of_voxels
    from dualtask_lite.cases.results import NOT_FOR_DIAGNOSIS, result_files, volume_digests
    from dualtask_lite.engine.predict import predict_scan
    from dualtask_lite.engine.run import provenance, write_json
    from dualtask_lite.show.figures import preview

    scan = case.load()
    digest = digest_of_voxels(scan.volume)
    earlier = result_files(folder, case.id)
    _check_same_image(earlier["report"], digest)
    prediction = predict_scan(models, scan)
    report = {
        "case": case.id,
        "not_for_diagnosis": NOT_FOR_DIAGNOSIS,
        "digest": digest,  # SHA-256 of its voxels, as Case.digest
        "labels": {"1": "pancreas", "2": "tumour"},
        "warnings": [
            *(f"{one.what}; {one.remedy}" for one in check_grid(scan.source, case.id)),
            *(f"{one.what}; {one.remedy}" for one in check_voxels(scan.volume, case.id)),
            *(f"{case.id}: {one}" for one in prediction.warnings),
        ],
        "distance": f"mm to the {prediction.target}, negative inside, clipped at the band",
        "volume_ml": {stage["stage"]: stage["volume_ml"] for stage in prediction.report},
        "seconds": round(sum(stage["seconds"] for stage in prediction.report), 2),
        "stages": prediction.report,
        "models": [str(model.path) for model in models],
        **provenance(next(models[0].net.parameters()).device),
    }
    _check_overwritten_files([case], folder)  # again: a mask may be corrected while the cases before are predicted
    with ExitStack() as all_written:  # an earlier prediction of the case stays until all four files are complete
        # Renamed in the reverse order, so the report comes first: it marks the others as results.
        files = {kind: all_written.enter_context(whole_file(path)) for kind, path in reversed(earlier.items())}
        scan.save(prediction.mask, files["mask"])
        scan.save(prediction.distance_mm, files["distance"])
        preview(scan, prediction.mask, prediction.distance_mm).save(files["preview"])
        # Of the files: by these the next prediction knows that nobody changed them, see changed_volumes.
        report |= {"sha256": volume_digests(files), "replaced_sha256": volume_digests(earlier)}
        write_json(files["report"], report)
    return report
