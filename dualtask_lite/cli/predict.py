"""``dualtask predict``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualtask_lite.cli.shared import AsJson, app, models_of, out, print_json, print_table
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import report_write_errors

if TYPE_CHECKING:
    from dualtask_lite.cases.case import Case
    from dualtask_lite.engine.run import Model


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Run folder, .safetensors file, or a folder of the runs of a cascade.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="NIfTI files or folders of them.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict on each input's own grid: NAME_seg.nii.gz, NAME_distance.nii.gz (mm), NAME.json and NAME.png.

    On N GPUs: torchrun --nproc-per-node=N -m dualtask_lite predict ...; they share the inputs.
    """
    from dualtask_lite.cases.sources import find_cases
    from dualtask_lite.engine.progress import progress_bar
    from dualtask_lite.engine.training.devices import gather, join_processes, rank, world_size

    join_processes()
    models = models_of(device, model)
    cases = [case for source in inputs for case in find_cases(source)]
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    mine: list[tuple[str, dict[str, Any] | str]] = []  # the report, or why there is none
    with progress_bar(rank() == 0) as bar:
        for case in bar.track(cases[rank() :: world_size()], description="predicting"):
            try:
                mine.append((case.id, _predict_one(models, case, folder)))
            except DualTaskError as error:
                mine.append((case.id, str(error)))
    told = dict(chain.from_iterable(gather(mine)))
    if rank() > 0:
        return
    reports = [report for case in cases if isinstance(report := told[case.id], dict)]
    failed = {name: why for name, why in told.items() if isinstance(why, str)}
    if as_json:
        print_json({"predicted": reports, "failed": failed})
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
            out.print(f"warning: {warning}", markup=False, highlight=False)
        for name, why in failed.items():
            out.print(f"skipped {name}: {why}", markup=False, highlight=False)
    if failed:
        raise DualTaskError(f"{len(failed)} of {len(cases)} inputs could not be predicted", "see the list above")


def _predict_one(models: list[Model], case: Case, folder: Path) -> dict[str, Any]:
    """Predict one case and write its four files."""
    from dualtask_lite.cases.findings import of_voxels
    from dualtask_lite.engine.predict import predict_scan
    from dualtask_lite.engine.run import provenance, write_json
    from dualtask_lite.show.figures import preview

    scan = case.load()
    prediction = predict_scan(models, scan)
    scan.save(prediction.mask, folder / f"{case.id}_seg.nii.gz")
    scan.save(prediction.distance_mm, folder / f"{case.id}_distance.nii.gz")
    report = {
        "case": case.id,
        "not_for_diagnosis": "made by Dual-Task Lite for teaching and research; not for diagnosis",
        "labels": {"1": "pancreas", "2": "tumour"},
        "warnings": [f"{found.what}; {found.remedy}" for found in of_voxels(scan.volume, case.id)],
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
