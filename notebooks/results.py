"""Writes the result of the reference table into the README and the table's page, from its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from readme import write_part

from dualtask_lite.engine.judging.statistics import compare, in_words
from dualtask_lite.engine.run import read_json, read_rows
from dualtask_lite.rows import Row, mean_of, number, pairs

FOLDER = Path(__file__).parents[1] / "data" / "results" / "reference"
MADE_BY = "make results"
BASELINE = "segmentation"
NAMES = {  # arm -> its name in a table
    "segmentation": "segmentation only",
    "conversion": "+ distance and both conversions",
    "full": "all terms, with two views",
}
LONGER = "+optimiser.steps=9600"
ARMS = NAMES | {arm + LONGER: f"{name}, four times as long" for arm, name in NAMES.items()}
CENTRES = "ABC"
FEWEST = 3  # trainings whose spread is worth a statement
WIDTH = 140  # of the lines in the README
CLAIMED = 0.0951  # gain of the paper on patients of an unseen hospital (Dice of the tumour)


class Results:
    """What the rows of a table say of each arm.

    Args:
        folder: with ``cases.csv``, ``curves.csv`` and ``summary.json``.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        rows = read_rows(folder / "cases.csv")
        self.summary = read_json(folder / "summary.json")
        self.tumours = [row for row in rows if row["target"] == "tumour"]
        self.pancreas = [row for row in rows if row["target"] == "pancreas"]
        self.curves = read_rows(folder / "curves.csv")
        self.arms = [arm for arm in ARMS if any(row["arm"] == arm for row in self.tumours)]
        self.comparisons = {record["arm"]: record for record in compare(self.tumours, BASELINE, "dice")}

    def trainings(self, arm: str) -> int:
        """Number of trainings of an arm: held-out hospitals times seeds."""
        return len({(row["part"], row["seed"]) for row in self.tumours if row["arm"] == arm})

    def training_dice(self, arm: str) -> float:
        """Dice of training cases at the last step, mean over the trainings."""
        last = {(row["part"], row["seed"]): row["train_dice"] for row in self.curves if row["arm"] == arm}
        return float(np.mean([number(value) for value in last.values()]))

    def mean(self, arm: str, column: str = "dice", centres: str = CENTRES) -> float:
        """Mean of a column over the tumours of the held-out hospitals; NaN when there is none."""
        return mean_of(row[column] for row in self.tumours if row["arm"] == arm and row["part"] in centres)

    def pancreas_dice(self, centre: str) -> float:
        """Dice of the shared pancreas stage on a held-out hospital."""
        return mean_of(r["dice"] for r in self.pancreas if (r["arm"], r["part"]) == (BASELINE, centre))


def written(value: float, digits: int = 3) -> str:
    """A number of a table, empty when there is none."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def interval(ends: Sequence[float]) -> str:
    """An interval of a table, empty when it cannot be had."""
    return "" if math.isnan(ends[0]) else f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table from rows that share their columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return "\n".join(" ".join(["|", *(part for cell in cells for part in (cell, "|") if part)]) for cells in lines)


def arm_row(results: Results, arm: str) -> dict[str, str]:
    """Row of the README's table."""
    found: Row | dict[str, Any] = results.comparisons.get(arm, {})
    return {
        "arm": ARMS[arm],
        "trainings": str(results.trainings(arm)),
        "own hospitals": written(results.training_dice(arm)),
        **{centre: written(results.mean(arm, centres=centre)) for centre in CENTRES},
        "difference": f"{found['difference']:+.3f}" if found else "",
        "95 %, trainings and cases": interval(found["hierarchical"]) or "one training" if found else "",
    }


def without_the_largest(results: Results, arm: str) -> str:
    """What is left of a mean difference without the training that differs most."""
    differences: dict[tuple[str, str], list[float]] = {}
    for pair in pairs(results.tumours, arm, BASELINE, "dice"):
        differences.setdefault(pair.training, []).append(pair.difference)
    part, seed = max(differences, key=lambda training: abs(mean_of(differences[training])))
    kept = [row for row in results.tumours if (row["part"], row["seed"]) != (part, seed)]
    (found,) = (one for one in compare(kept, BASELINE, "dice") if one["arm"] == arm)
    return (
        f"Without the training that differs most (hospital {part}, seed {seed}) it would be {found['difference']:+.3f}."
    )


def sentence(results: Results, arm: str, subject: str) -> str:
    """What a comparison shows, in words."""
    return f"{subject} {in_words(results.comparisons[arm])}."


def readme_lines(results: Results) -> str:
    """Table and sentences of the README."""
    tumours = len({row["case"] for row in results.tumours if math.isfinite(number(row["dice"]))})
    about = (
        f"Dice of {tumours} tumours of made-up hospitals, each held out while the others trained (profile "
        f"`reference`, {results.summary['date'][:10]}). *Own hospitals*: ten training cases. *Difference*: from "
        "segmentation only in as many steps, or its short training."
    )
    sentences = [
        f"The paper reports {CLAIMED:+.3f} on patients.",
        sentence(results, "conversion", "Here the distance and both conversions change the Dice by"),
    ]
    found = results.comparisons["conversion"]
    if found["trainings"] >= FEWEST:
        sentences.append(without_the_largest(results, "conversion"))
        needed = found["trainings_needed"]
        sentences.append(f"With the spread between these trainings, {needed} would show a difference of 0.05.")
    sentences.append(sentence(results, "full", "All terms in as many steps change it by"))
    alone = "Four times as many steps alone change segmentation only by"
    sentences.append(sentence(results, BASELINE + LONGER, alone))
    return "\n".join(
        [
            fill(about, WIDTH),
            "",
            markdown([arm_row(results, a) for a in results.arms]),
            "",
            fill(" ".join(sentences), WIDTH),
        ]
    )


def page_lines(results: Results) -> str:
    """Command, tables and what they say, for the page of the table."""
    rows = []
    for arm in results.arms:
        found = results.comparisons.get(arm)
        rows.append(
            {
                "arm": arm,
                "minus segmentation, by hospital": ", ".join(f"{c} {d:+.3f}" for c, d in found["by_centre"].items())
                if found
                else "",
                "95 %, cases alone": interval(found["interval"]) if found else "",
                "found": written(results.mean(arm, "detected"), 2),
                "by the mean of both heads": written(results.mean(arm, "dice_mean_head")),
                "in the label's own box": written(results.mean(arm, "dice_own_box")),
            }
        )
    stage = {centre: written(results.pancreas_dice(centre)) for centre in CENTRES}
    return "\n".join(
        [
            readme_lines(results),
            "",
            markdown(rows),
            "",
            f"Pancreas, shared stage: {', '.join(f'{value} on {centre}' for centre, value in stage.items() if value)}.",
            "",
            f"Command of the latest cells: `{results.summary['command']}` ({results.summary['device']}, torch "
            f"{results.summary['versions']['torch']}); `cells.csv` has the seconds, processor and date of each cell.",
            *results.summary["mixed"],
        ]
    )


def write(readme: Path, page: Path = FOLDER / "README.md") -> None:
    """Write the result into the README and into the page of the table."""
    results = Results()
    write_part(readme, "result", readme_lines(results), MADE_BY)
    write_part(page, "result", page_lines(results), MADE_BY)
