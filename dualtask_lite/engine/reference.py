"""The small reference models that come with the kit: trained once for hours, used in seconds.

``data/models`` holds each stage once: weights in half precision, settings, manifest, learning curve, and every 25th row
of its metrics. ``resources.run_folder`` makes a run folder of the cascade behind a name, so that each command treats it
as any other run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualtask_lite.engine.judging.curves import CURVE
from dualtask_lite.engine.judging.evaluation import summary_of
from dualtask_lite.engine.run import (
    CONFIG,
    MANIFEST,
    METRICS,
    MODEL,
    load_model,
    read_json,
    read_rows,
    save_model,
    write_json,
    write_rows,
)
from dualtask_lite.resources import CASCADES, data_file

HELD_OUT = "C"
_EVERY = 25  # steps between two rows of the metrics that are kept


def described() -> list[dict[str, Any]]:
    """One row a reference model: its name, terms, training, Dice on the hospital that it never saw."""
    rows = []
    for name, stages in CASCADES.items():
        manifests = [read_json(data_file(f"models/{stage}") / MANIFEST) for stage in stages]
        scores = manifests[-1]["scores"][HELD_OUT]
        rows.append(
            {
                "name": name,
                "tumour stage": manifests[-1]["arm"],
                "trained on": "A, B",
                "steps": manifests[-1]["steps"],
                "minutes": round(sum(manifest["seconds"] for manifest in manifests) / 60, 1),
                f"pancreas Dice on {HELD_OUT}": scores["pancreas"],
                f"tumour Dice on {HELD_OUT}": scores["tumour"],
            }
        )
    return rows


def keep(table: Path, folder: Path, arms: dict[str, str]) -> None:
    """Make ``data/models`` from the runs of a table.

    Args:
        table: folder of a table of ``dualtask ablate --profile reference`` with its runs.
        folder: where the models go.
        arms: name of a tumour stage in ``CASCADES`` -> arm of the table.
    """
    cell = f"leave-one-centre-out-{HELD_OUT}-0"
    rows = [row for row in read_rows(table / "cases.csv") if (row["part"], row["seed"]) == (HELD_OUT, "0")]
    runs = {"pancreas-coarse": ("segmentation", table / "common" / cell / "pancreas-coarse")}
    runs |= {name: (arm, table / "cells" / arm / cell / "tumour-coarse") for name, arm in arms.items()}
    for name, (arm, run) in runs.items():
        model = load_model(run)
        out = folder / name
        settings = model.settings.changed({"data.held_out": HELD_OUT})
        save_model(out / MODEL, model.net.half(), settings, model.training_cases)
        settings.write(out / CONFIG)
        write_rows(out / METRICS, [row for row in read_rows(run / METRICS) if int(row["step"]) % _EVERY == 0])
        write_rows(out / CURVE, read_rows(run / CURVE))
        scores = summary_of([row for row in rows if row["arm"] == arm])
        found = {target: round(of[HELD_OUT]["dice"]["mean"], 4) for target, of in scores.items()}
        write_json(
            out / MANIFEST,
            {**read_json(run / MANIFEST), "arm": arm, "held_out": HELD_OUT, "scores": {HELD_OUT: found}},
        )


if __name__ == "__main__":
    keep(
        Path("data/results/reference"),
        Path("data/models"),
        {
            "tumour-segmentation": "segmentation",
            "tumour-conversion": "conversion",
            "tumour-full": "full",
        },
    )
