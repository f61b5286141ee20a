"""The small reference models of the kit; their training takes hours on a CPU.

``data/models`` holds each stage once: weights (large tensors in half precision), settings, manifest, learning curve,
and every 25th row of its metrics. ``resources.run_folder`` creates a run folder for the cascade of a name, so that
every command accepts a reference model like any other run.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases.masks import dice
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.config import STAGES
from dualtask_lite.engine.data.dataset import training_box
from dualtask_lite.engine.judging.curves import CURVE
from dualtask_lite.engine.judging.evaluation import summary_of
from dualtask_lite.engine.judging.plan import BASELINE
from dualtask_lite.engine.predict import predict_box
from dualtask_lite.engine.records import read_json, read_rows, write_json, write_rows
from dualtask_lite.engine.run import CONFIG, MANIFEST, METRICS, MODEL, Model, load_model, save_model
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.network import DualTaskNet
from dualtask_lite.resources import CASCADES, data_file

HELD_OUT = "C"
LEAST_AGREEMENT = 0.999  # Dice
LARGE = 8000  # values of a tensor; the smaller ones hold 5 % of the values, and rounding them changes masks
_EVERY = 25  # steps between two exported rows of the metrics


def model_rows() -> list[dict[str, Any]]:
    """One row for each reference model: name, arm of its tumour stage, training, and Dice on the held-out hospital."""
    rows = []
    for name, stages in CASCADES.items():
        manifests = [read_json(data_file(f"models/{stage}") / MANIFEST) for stage in stages]
        scores = manifests[-1]["scores"][HELD_OUT]
        rows.append(
            {
                "name": name,
                "tumour stage": manifests[-1]["arm"].partition("+")[0],
                "trained on": "A, B",
                "steps": manifests[-1]["steps"],
                "minutes": round(sum(manifest["seconds"] for manifest in manifests) / 60, 1),
                f"pancreas Dice on {HELD_OUT}": round(scores["pancreas"], 3),
                f"tumour Dice on {HELD_OUT}": round(scores["tumour"], 3),
            }
        )
    return rows


def export_models(table: Path, folder: Path, arms: dict[str, str]) -> None:
    """Write ``data/models`` from the runs of a table.

    Args:
        table: folder of ``dualtask ablate --profile reference``, with its runs.
        folder: output folder for the models.
        arms: name of a tumour stage in ``CASCADES`` -> arm of the table.
    """
    cell = f"leave-one-centre-out-{HELD_OUT}-0"
    rows = [row for row in read_rows(table / "cases.csv") if (row["part"], row["seed"]) == (HELD_OUT, "0")]
    shared = "pancreas-coarse"  # stage of all arms, so each has its score
    runs = {shared: (BASELINE, table / "common" / cell / shared)}
    runs |= {name: (arm, table / "cells" / arm / cell / "tumour-coarse") for name, arm in arms.items()}
    origin = {"command": read_json(table / "summary.json")["command"], "held_out": HELD_OUT}
    for name, (arm, run) in runs.items():
        model = load_model(run, "cpu")
        out = folder / name
        settings = model.settings.changed({"data.held_out": HELD_OUT})
        small = halved(model.net)
        check_same_masks(model, replace(model, net=copy.deepcopy(small).float(), settings=settings))
        save_model(out / MODEL, small, settings, model.training_cases)
        settings.write(out / CONFIG)
        write_rows(out / METRICS, [row for row in read_rows(run / METRICS) if int(row["step"]) % _EVERY == 0])
        write_rows(out / CURVE, read_rows(run / CURVE))
        scored = {"arm": next(iter(arms.values())), "target": "pancreas"} if name == shared else {"arm": arm}
        scores = summary_of([row for row in rows if scored.items() <= row.items()])
        mean_dice = {target: round(centres[HELD_OUT]["dice"]["mean"], 4) for target, centres in scores.items()}
        write_json(
            out / MANIFEST,
            {**read_json(run / MANIFEST), **origin, "arm": arm, "scores": {HELD_OUT: mean_dice}},
        )


def halved(net: DualTaskNet) -> DualTaskNet:
    """Copy a network with its large tensors in half precision."""
    copied = copy.deepcopy(net)
    for parameter in copied.parameters():
        if parameter.numel() > LARGE:
            parameter.data = parameter.data.half()
    return copied


def check_same_masks(model: Model, rounded: Model, cases: int = 8) -> None:
    """Check that weights in half precision give almost the same masks on the held-out hospital.

    Raises:
        DualTaskError: when the Dice between the masks, over the voxels of all cases, is below ``LEAST_AGREEMENT``.
    """
    masks = []
    for number in range(cases):
        scan = make_case(HELD_OUT, number).load()
        box = training_box(scan, STAGES[model.settings.stage])
        masks.append([predict_box(network, scan, box).probability.ravel() >= 0.5 for network in (model, rounded)])
    agreement = dice(*(np.concatenate(parts) for parts in zip(*masks, strict=True)))
    if agreement < LEAST_AGREEMENT:
        raise DualTaskError(
            f"{model.path}: the Dice between masks in half precision and in full precision is only {agreement:.5f}",
            "store this model in full precision",
        )


if __name__ == "__main__":
    export_models(
        Path("runs/reference"),  # of make models; the committed table has the same rows, but no weights
        Path("data/models"),
        {
            "tumour-segmentation": "segmentation+optimiser.steps=9600",
            "tumour-conversion": "conversion+optimiser.steps=9600",
            "tumour-full": "full+optimiser.steps=9600",
        },
    )
