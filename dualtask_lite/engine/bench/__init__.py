"""Speed of each part on this machine: generating samples, a training step, predicting a case.

Each measurement stops after enough repeats or after a time limit, so all of them take minutes on a card. Each result is
written when it is finished; an interrupted benchmark continues with the missing ones. Wall time is the time that a user
waits; CPU time, summed over all threads, depends less on other programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualtask_lite import machine
from dualtask_lite.engine.bench.samples import pipeline
from dualtask_lite.engine.bench.start import first_step
from dualtask_lite.engine.bench.step import data_wait, default_layout_step, eager_step, layers, tuned_step
from dualtask_lite.engine.bench.whole_case import compare_reference_with_monai, compare_with_monai, predict
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.records import read_json, write_json
from dualtask_lite.engine.run import provenance
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.errors import DualTaskError

PARTS: dict[str, dict[str, Callable[[Settings], dict[str, Any]]]] = {
    "pipeline": {"pipeline": pipeline},
    "step": {
        "step, fp32 eager": eager_step,
        "step, tuned": tuned_step,
        "step, tuned, plain layout": default_layout_step,
        "waiting for data": data_wait,
        "layers": layers,
    },
    "predict": {
        "predict": predict,
        "windows beside MONAI": compare_with_monai,
        "reference model beside MONAI": compare_reference_with_monai,
    },
    "start": {"start": first_step},
}
ALL = ("pipeline", "step", "predict")  # not "start": it needs many cases, which must be generated first


def bench(
    parts: Sequence[str],
    profile: str,
    overrides: Mapping[str, Any],
    path: Path,
    *,
    command: str = "",
    only: str | None = None,
) -> dict[str, Any]:
    """Measure what is not yet in the file, and write each result when it is finished.

    Args:
        parts: of ``PARTS``.
        profile: of the settings.
        overrides: settings by dotted name. The stage is tumour-fine, which has every term; for a prediction it is
            pancreas-coarse, which processes the whole volume.
        path: JSON file; an existing file is completed if its settings, device and versions are the same.
        command: the command line, recorded in the file.
        only: name of the only measurement to do.

    Returns:
        Content of the file: ``settings``, machine, and ``results`` with one entry for each measurement.

    Raises:
        DualTaskError: when the file holds measurements of other settings or another machine.
    """
    settings = Settings.of(profile, {"stage": "tumour-fine", **overrides})
    origin = provenance(pick_device(settings.machine.device))
    must_match = {
        "settings": settings.model_dump(mode="json"),
        "device": origin["device"],
        "versions": origin["versions"],
    }
    record: dict[str, Any] = {"command": command, **origin, **must_match}
    record |= {"load_average": machine.load_average(), "results": {}}
    if path.exists():
        record = read_json(path)
        if any(record.get(key) != value for key, value in must_match.items()):
            raise DualTaskError(f"{path}: holds measurements of other settings or another machine", "choose another -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, measure in PARTS[part].items():
            if name not in record["results"] and only in (None, name):
                record["results"][name] = measure(settings)
                write_json(path, record)
    return record


def rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """All single values of the results as a table."""
    return [
        {"measure": name, "what": key.replace("_", " "), "value": f"{value:.4g}" if _is_number(value) else str(value)}
        for name, values in record["results"].items()
        for key, value in values.items()
        if not isinstance(value, (dict, list))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
