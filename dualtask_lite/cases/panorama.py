"""PANORAMA as published: images in four batches, labels and the table of cases in a separate repository.

The folder and up to two levels below it hold (the batches differ in their folders)::

    batch_3/100047_00002_0000.nii.gz              the image of study 2 of patient 100047
    panorama_labels/manual_labels/100047_00002.nii.gz       its label; a manual one is preferred
    panorama_labels/automatic_labels/100048_00001.nii.gz
    panorama_labels/clinical_information.xlsx     the origin of each case

The label files are not changed; their values are mapped to ours when they are read.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.paths import visible
from dualtask_lite.cases.registry import sources
from dualtask_lite.errors import DualTaskError

TABLE = "clinical_information.xlsx"
ORIGINS = {"MSD_dataset": "msd", "NIH_dataset": "nih"}  # column "level" of the table -> first source of the image
UNKNOWN = "unknown"
_STUDY, _LEVEL = "PANORAMA_study_id", "level"
_DEPTH = 2


def cases(folder: Path) -> list[Case]:
    """List the cases of a folder; none when it holds no labels of PANORAMA.

    Raises:
        DualTaskError: when the table of cases lacks a column or cannot be read.
    """
    found = list(_below(folder, _DEPTH))
    labels = {}
    for kind in ("automatic_labels", "manual_labels"):
        labels.update({path.name.removesuffix(".nii.gz"): path for path in found if path.parent.name == kind})
    if not labels:
        return []
    tables = [path for path in found if path.name == TABLE]
    images = {path.name.removesuffix("_0000.nii.gz"): path for path in found if path.name.endswith("_0000.nii.gz")}
    source = sources()["panorama"]
    origins = _origins(tables[0]) if tables else {}
    return [
        Case(
            id=study,
            centre=folder.name,
            image=image,
            label=labels.get(study),
            label_map=source.label_map,
            patient=study.partition("_")[0],
            origin=origins.get(study, UNKNOWN),
        )
        for study, image in sorted(images.items())
        if re.fullmatch(source.ids, study)
    ]


def _origins(table: Path) -> dict[str, str]:
    """Read the source of each case's image, by its study id."""
    import openpyxl  # needed for this source only
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(table, read_only=True, data_only=True)
        rows = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
        study, level = rows[0].index(_STUDY), rows[0].index(_LEVEL)
    except (InvalidFileException, BadZipFile, OSError, KeyError, ValueError, IndexError) as error:
        raise DualTaskError(
            f"{table}: is not a table with the columns {_STUDY} and {_LEVEL} ({error})",
            "fetch it again from github.com/DIAGNijmegen/panorama_labels",
        ) from error
    return {str(row[study]): ORIGINS.get(str(row[level]), "panorama") for row in rows[1:] if row[study]}


def _below(folder: Path, depth: int) -> list[Path]:
    """List the files below a folder, down to some depth, without hidden ones."""
    found = []
    for path in visible(folder):
        if path.is_dir():
            with suppress(PermissionError):  # a folder that does not belong to the data set
                found += _below(path, depth - 1) if depth else []
        else:
            found.append(path)
    return found
