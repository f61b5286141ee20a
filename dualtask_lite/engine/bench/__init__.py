"""How fast each part is on this machine: making samples, a training step, predicting a case.

Each measure repeats until it has enough or its seconds are spent, so that all of them together take minutes on a
card. It is written when it is done and not measured again: what was cut goes on. Wall time is what a user waits for;
CPU time, of all threads, is what a busy machine spoils less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualtask_lite.engine.bench.samples import pipeline
from dualtask_lite.engine.bench.start import first_step
from dualtask_lite.engine.bench.step import data_wait, eager_step, layers, plain_layout_step, tuned_step
from dualtask_lite.engine.bench.whole_case import beside_monai, predict, reference_beside_monai
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import provenance, write_json
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.errors import DualTaskError

PARTS: dict[str, dict[str, Callable[[Settings], dict[str, Any]]]] = {
    "pipeline": {"pipeline": pipeline},
    "step": {
        "step, fp32 eager": eager_step,
        "step, tuned": tuned_step,
        "step, tuned, plain layout": plain_layout_step,
        "waiting for data": data_wait,
        "layers": layers,
    },
    "predict": {
        "predict": predict,
        "windows beside MONAI": beside_monai,
        "reference model beside MONAI": reference_beside_monai,
    },
    "start": {"start": first_step},
}
ALL = ("pipeline", "step", "predict")  # a start is measured on many cases, which must be made first


def bench(
    parts: Sequence[str],
    profile: str,
    overrides: Mapping[str, Any],
    path: Path,
    *,
    command: str = "",
    only: str | None = None,
) -> dict[str, Any]:
    """Measure what is not yet in the file, and write it as it goes.

    Args:
        parts: of ``PARTS``.
        profile: of the settings.
        overrides: settings by dotted name; the stage is tumour-fine, which has every term, and pancreas-coarse, which
            sees the whole volume, to predict.
        path: JSON file; one of the same settings, device and versions is gone on with.
        command: what was typed; kept in the file.
        only: measure nothing else of these parts.

    Returns:
        What the file holds: ``settings``, where it was measured, and ``results``, one entry for each measure.

    Raises:
        DualTaskError: when the file holds measurements of something else.
    """
    settings = Settings.of(profile, {"stage": "tumour-fine", **overrides})
    here = provenance(pick_device(settings.machine.device))
    same = {"settings": settings.model_dump(mode="json"), **{key: here[key] for key in ("device", "versions")}}
    record: dict[str, Any] = {"command": command, **here, **same, "load_average": os.getloadavg()[0], "results": {}}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if any(record.get(key) != value for key, value in same.items()):
            raise DualTaskError(f"{path}: holds measurements of other settings or another machine", "choose another -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, measure in PARTS[part].items():
            if name not in record["results"] and only in (None, name):
                record["results"][name] = measure(settings)
                write_json(path, record)
    return record


def rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The single numbers of a measurement as a table."""
    return [
        {"measure": name, "what": key.replace("_", " "), "value": f"{value:.4g}" if _is_number(value) else str(value)}
        for name, values in record["results"].items()
        for key, value in values.items()
        if not isinstance(value, (dict, list))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
