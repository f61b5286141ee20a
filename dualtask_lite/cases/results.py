"""The files that a prediction writes, and how to distinguish them from the CTs of a folder."""

from __future__ import annotations

import re
from pathlib import Path

NOT_FOR_DIAGNOSIS = "made by Dual-Task Lite for teaching and research; not for diagnosis"  # in each report
_ENDINGS = {"report": ".json", "mask": "_seg.nii.gz", "distance": "_distance.nii.gz", "preview": ".png"}
_HEAD = 4096  # bytes of a report that are read; the mark is in its second line


def result_files(folder: Path, case: str) -> dict[str, Path]:
    """Paths of the report, mask, distance and preview of a case."""
    return {kind: folder / f"{case}{ending}" for kind, ending in _ENDINGS.items()}


def is_result(path: Path) -> bool:
    """Whether a prediction wrote a file: a report of the same name, which is written first, has the mark."""
    ending = re.search(rf"({'|'.join(map(re.escape, _ENDINGS.values()))})$", path.name)
    report = path.with_name(path.name[: ending.start()] + _ENDINGS["report"]) if ending else None
    if report is None or not report.is_file():
        return False
    with report.open("rb") as file:
        return f'"not_for_diagnosis": "{NOT_FOR_DIAGNOSIS}'.encode() in file.read(_HEAD)
