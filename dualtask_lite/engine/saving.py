"""Predict a case into a folder: its files, and what they must not replace."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.findings import check_grid, check_voxels
from dualtask_lite.cases.nifti import digest_of_voxels
from dualtask_lite.cases.results import NOT_FOR_DIAGNOSIS, changed_volumes, is_result, result_files, volume_digests
from dualtask_lite.engine.predict import Prediction
from dualtask_lite.engine.records import write_json
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import read_record, whole_file


def predict_into(
    folder: Path,
    case: Case,
    predict: Callable[[Scan], Prediction],
    *,
    about: Mapping[str, Any] | None = None,
    draw: Callable[[Scan, Prediction, Path], None] | None = None,
) -> dict[str, Any]:
    """Predict one case and write its mask, its distance and its report; all are complete, or none is written.

    Args:
        folder: of the files, see ``cases.results``.
        case: to predict.
        predict: from its scan.
        about: what else the report says, such as the models.
        draw: writes a picture of the prediction to a path.

    Returns:
        The report.

    Raises:
        DualTaskError: when the case cannot be read, a file cannot be written, or one would be replaced that is not the
            unchanged result of an earlier prediction of the same image.
    """
    scan = case.load()
    digest = digest_of_voxels(scan.volume)
    earlier = result_files(folder, case.id)
    _refuse_another_image(earlier["report"], digest)
    prediction = predict(scan)
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
        **(about or {}),
    }
    refuse_to_replace([case], folder)  # again: a mask may be corrected while the cases before are predicted
    written = {kind: path for kind, path in earlier.items() if draw or kind != "preview"}
    with ExitStack() as all_written:  # an earlier prediction of the case stays until all files are complete
        # Renamed in the reverse order, so the report comes first: it marks the others as results.
        files = {kind: all_written.enter_context(whole_file(path)) for kind, path in reversed(written.items())}
        scan.save(prediction.mask, files["mask"])
        scan.save(prediction.distance_mm, files["distance"])
        if draw:
            draw(scan, prediction, files["preview"])
        # Of the files: by these the next prediction knows that nobody changed them, see changed_volumes.
        report |= {"sha256": volume_digests(files), "replaced_sha256": volume_digests(earlier)}
        write_json(files["report"], report)
    return report


def refuse_to_replace(cases: Sequence[Case], folder: Path) -> None:
    """Refuse to replace what is not the result of an earlier prediction, such as a manual or a corrected mask.

    Raises:
        DualTaskError: for the first such file of the cases.
    """
    for case in cases:
        files = result_files(folder, case.id)
        for path in files.values():
            if os.path.exists(path) and not is_result(path):  # of too long a name pathlib does not answer
                raise DualTaskError(
                    f"{path}: is not a result of dualtask predict, and that of case {case.id} would replace it",
                    "choose another folder",
                )
        for path in changed_volumes(files):
            raise DualTaskError(
                f"{path}: was changed after its prediction, and a new one of case {case.id} would replace it",
                "move it, or choose another folder",
            )


def _refuse_another_image(report: Path, digest: str) -> None:
    """Refuse to replace the results of another image, since the CTs of many patients have one name, such as ct.

    Voxels are compared, not paths: another patient may have come to the same path, and the same image to another one.
    """
    if read_record(report).get("digest", digest) != digest:
        raise DualTaskError(
            f"{report}: is the result of another image",
            "choose another folder, or give the folder above both images to predict them together",
        )
