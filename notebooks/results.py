"""Writes the results of the reference table and of the exam into the README and the tables' pages, from their rows.

The page of a table shows the arms with enough training runs for a verdict, in one table and one figure; the log of the
reference table has all arms, and each training run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import stdev
from textwrap import fill
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from readme import write_part

from dualtask_lite.engine.judging.statistics import FEWEST_TRAININGS, compare, in_words
from dualtask_lite.engine.records import read_json, read_rows
from dualtask_lite.rows import Row, mean_of, number, pairs
from dualtask_lite.show.figures import results as figures
from dualtask_lite.show.picture import Picture
from dualtask_lite.words import interval_in_words, signed

RESULTS = Path(__file__).parents[1] / "data" / "results"
REFERENCE, EXAM, SAMPLES = RESULTS / "reference", RESULTS / "exam", RESULTS / "ablation_samples"
FIGURE = "differences.png"  # in the folder of a table
MADE_BY = "make results"
BASELINE = "segmentation"
NAMES = {  # arm -> its name in a table
    "segmentation": "segmentation only",
    "distance": "+ distance",
    "conversion": "+ distance and both conversions",
    "views": "segmentation only, with two views",
    "consistency": "+ conversions and consistency, with two views",
    "contrast": "+ conversions and contrast, with two views",
    "full": "all terms, with two views",
    "full-samples": "all terms, with two views of as many samples",
}
LONGER, LONGEST, AVERAGED = "+optimiser.steps=9600", "+optimiser.steps=19200", "+optimiser.average=300"
CHANGES = {  # changed settings of an arm -> their name in a table
    "": "",
    LONGER: ", four times as long",
    LONGEST: ", eight times as long",
    AVERAGED: ", moving average of the weights",
    "+network.width=16": ", network twice as wide",
    "+optimiser.lr=0.001": ", a quarter of the learning rate",
    "+optimiser.lr=0.012": ", three times the learning rate",
    "+optimiser.batch=2": ", half as many samples",
}
ARMS = {arm + change: name + words for change, words in CHANGES.items() for arm, name in NAMES.items()}
PAPER = "full"
RECIPE = "conversion"  # chosen on A, B and C: data/results/reference/LOG.md
SUBJECTS = {  # arm -> how the sentence on its difference begins
    RECIPE: "The distance and both conversions change the Dice by",
    RECIPE + LONGER: "After four times as many steps they change it by",
    BASELINE + LONGER: "Four times as many steps alone change segmentation only by",
    PAPER: "All terms, in as many steps and from half as many samples, change it by",
    "distance": "The distance without the conversions changes it by",
    "views": "Two views of each sample, from half as many samples, change it by",
    "consistency": "The conversions and the consistency of two views change it by",
    "contrast": "The conversions and the contrast, from two views, change it by",
    "full-samples": "All terms from as many samples change it by",
    PAPER + LONGER: "All terms after four times as many steps change it by",
    BASELINE + AVERAGED: "A moving average of the weights changes segmentation only by",
}
CENTRES, EXAM_CENTRE = "ABC", "D"
WIDTH = 140  # of the lines in the README
CLAIMED = 0.0951  # gain of the paper on patients of an unseen hospital (Dice of the tumour); the aim of the exam
PANCREAS_AIM = 0.84  # Dice of the pancreas in the exam


class Results:
    """What the rows of a table say of each arm.

    Args:
        folder: with ``cases.csv``, ``curves.csv`` and ``summary.json``.
    """

    def __init__(self, folder: Path = REFERENCE) -> None:
        rows = read_rows(folder / "cases.csv")
        self.summary = read_json(folder / "summary.json")
        self.tumours = [row for row in rows if row["target"] == "tumour"]
        self.pancreas = [row for row in rows if row["target"] == "pancreas"]
        self.curves = read_rows(folder / "curves.csv")
        self.arms = [arm for arm in ARMS if any(row["arm"] == arm for row in self.tumours)]
        self.comparisons = {record["arm"]: record for record in compare(self.tumours, BASELINE, "dice")}

    def training_runs(self, arm: str) -> int:
        """Number of training runs of an arm: held-out hospitals times seeds."""
        return len({(row["part"], row["seed"]) for row in self.tumours if row["arm"] == arm})

    def training_dice(self, arm: str) -> float:
        """Dice of training cases at the last step, mean over the training runs."""
        last = {(row["part"], row["seed"]): row["train_dice"] for row in self.curves if row["arm"] == arm}
        return float(np.mean([number(value) for value in last.values()]))

    def mean(self, arm: str, column: str = "dice", **only: str) -> float:
        """Mean of a column over the tumours of the held-out hospitals; NaN when there is none.

        Args:
            arm: of the table.
            column: to average.
            only: values of other columns, such as ``part="A"`` or ``seed="0"``.
        """
        wanted = {"arm": arm, **only}.items()
        return mean_of(row[column] for row in self.tumours if wanted <= row.items())

    def pancreas_dice(self, centre: str) -> float:
        """Dice of the shared pancreas stage on a held-out hospital."""
        return mean_of(r["dice"] for r in self.pancreas if (r["arm"], r["part"]) == (BASELINE, centre))


def written(value: float, digits: int = 3) -> str:
    """A number of a table, empty when there is none."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def in_order(values: Sequence[float]) -> str:
    """The values of a run after more and more steps; dots where one before the last is missing."""
    last = max((place for place, value in enumerate(values) if not math.isnan(value)), default=-1)
    return " to ".join(written(value) or "..." for value in values[: last + 1])


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table from rows that share their columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return "\n".join(" ".join(["|", *(part for cell in cells for part in (cell, "|") if part)]) for cells in lines)


def compared(results: Results, arm: str, head: str) -> dict[str, str]:
    """The last cells of an arm's row: its difference from segmentation only, below ``head``, and the interval."""
    found: Row | dict[str, Any] = results.comparisons.get(arm, {})
    ends = interval_in_words(found["hierarchical"], "too few training runs") if found else ""
    return {head: signed(found["difference"]) if found else "", "95 %, training runs and cases": ends}


def arm_row(results: Results, arm: str) -> dict[str, str]:
    """Row of the reference table."""
    return {
        "arm": ARMS[arm],
        "training runs": str(results.training_runs(arm)),
        "own hospitals": written(results.training_dice(arm)),
        **{centre: written(results.mean(arm, part=centre)) for centre in CENTRES},
        **compared(results, arm, "difference"),
    }


def longer_lines(results: Results) -> str:
    """The training runs that were repeated with more steps: Dice after fewer and after more, and what they gained."""
    arms = [arm for arm in results.arms if arm + LONGER in results.arms]
    runs = sorted({(row["part"], row["seed"]) for row in results.tumours if row["arm"] == BASELINE + LONGER})
    dice = {
        arm: {(part, seed): results.mean(arm, part=part, seed=seed) for part, seed in runs}
        for arm in (arm + length for arm in arms for length in ("", LONGER, LONGEST))
    }
    gains = {arm: [dice[arm + LONGER][run] - dice[arm][run] for run in runs] for arm in arms}
    rows = [
        {"held out, seed": ", ".join(run)}
        | {arm: in_order([dice[arm + length][run] for length in ("", LONGER, LONGEST)]) for arm in arms}
        for run in runs
    ]
    gained = "; ".join(
        f"{arm} {interval_in_words([np.nanmin(of_arm), np.nanmax(of_arm)])}" for arm, of_arm in gains.items()
    )
    early, late = (
        [dice[RECIPE + length][run] - dice[BASELINE + length][run] for run in runs] for length in ("", LONGER)
    )
    same_runs = [row for row in results.tumours if (row["part"], row["seed"]) in runs]
    (found,) = (one for one in compare(same_runs, BASELINE, "dice") if one["arm"] == RECIPE)
    later = signed(results.comparisons[RECIPE + LONGER]["difference"])
    about = (
        f"What a run gained from more steps: {gained}. In these {len(runs)} runs the conversions changed the Dice by "
        f"{signed(found['difference'])} after 2,400 steps ({interval_in_words([min(early), max(early)])} in one run, "
        f"standard deviation {stdev(early):.3f}), and by {later} after 9,600 "
        f"({interval_in_words([min(late), max(late)])}, {stdev(late):.3f})."
    )
    title = (
        "Dice of each training run that was repeated with four times as many steps, after 2,400 and after 9,600 steps "
        "(a third number: after 19,200; ...: not run):"
    )
    return "\n\n".join([title, markdown(rows), fill(about, WIDTH)])


def without_the_largest(results: Results, arm: str) -> str:
    """What is left of a mean difference without the training run that differs most."""
    differences: dict[tuple[str, str], list[float]] = {}
    for pair in pairs(results.tumours, arm, BASELINE, "dice"):
        differences.setdefault(pair.training, []).append(pair.difference)
    part, seed = max(differences, key=lambda training: abs(mean_of(differences[training])))
    kept = [row for row in results.tumours if (row["part"], row["seed"]) != (part, seed)]
    (found,) = (one for one in compare(kept, BASELINE, "dice") if one["arm"] == arm)
    left = signed(found["difference"])
    return f"Without the run that differs most (hospital {part}, seed {seed}) it would be {left}."


def sentence(results: Results, arm: str, subject: str) -> str:
    """What a comparison shows, in words."""
    return f"{subject} {in_words(results.comparisons[arm])}."


def has_verdict(results: Results, arm: str) -> bool:
    """Whether an arm has enough training runs for a conclusion."""
    return results.training_runs(arm) >= FEWEST_TRAININGS


def reference_lines(results: Results, arms: Sequence[str]) -> str:
    """Table of the hospitals that were held out in turn."""
    tumours = len({row["case"] for row in results.tumours if math.isfinite(number(row["dice"]))})
    about = (
        f"Dice of {tumours} tumours of made-up hospitals, each held out while the others trained (profile "
        f"`reference`, {results.summary['date'][:10]}). *Own hospitals*: ten training cases, in the box around the "
        "true pancreas. *Difference*: from segmentation only with the same settings; of segmentation only itself, from "
        "the same run without the change."
    )
    return "\n\n".join([fill(about, WIDTH), markdown([arm_row(results, arm) for arm in arms])])


def page_lines(results: Results) -> str:
    """Table of the arms that have a verdict, and what it says, for the page of the reference table."""
    arms = [arm for arm in results.arms if has_verdict(results, arm)]
    needed, needed_later = (results.comparisons[RECIPE + length]["trainings_needed"] for length in ("", LONGER))
    found = {arm: sentence(results, arm, subject) for arm, subject in SUBJECTS.items() if arm in arms}
    found[RECIPE] += f" {without_the_largest(results, RECIPE)}"
    found[RECIPE + LONGER] += (
        f" By the spread between the runs, it takes {needed} pairs to show a difference of 0.05, or {needed_later} of "
        "four times as many steps."
    )
    claim = f"The claim, as this kit reads it, is {signed(CLAIMED)} on patients."
    return "\n\n".join(
        [
            reference_lines(results, arms),
            fill(" ".join([claim, *found.values()]), WIDTH),
            fill(f"Command of the latest training runs: {command(results)}", WIDTH, break_on_hyphens=False),
        ]
    )


def exam_row(exam: Results, arm: str) -> dict[str, str]:
    """Row of the exam's table."""
    return {
        "arm": ARMS[arm],
        "training runs": str(exam.training_runs(arm)),
        "Dice": written(exam.mean(arm)),
        "NSD at 2 mm (4 mm voxels)": written(exam.mean(arm, "nsd_2mm")),
        "HD95 in mm": written(exam.mean(arm, "hd95_mm"), 1),
        "detected": written(exam.mean(arm, "detected"), 2),
        **compared(exam, arm, "difference in Dice"),
    }


def exam_lines(exam: Results, reference: Results) -> str:
    """Table and sentences of the README."""
    tumours = len({row["case"] for row in exam.tumours if math.isfinite(number(row["dice"]))})
    pancreas = exam.pancreas_dice(EXAM_CENTRE)
    about = (
        f"The exam: {tumours} tumours of a made-up hospital that no choice has used, after the last step (profile "
        f"`reference`, {exam.summary['date'][:10]}). The pancreas, which all "
        f"arms share, has a Dice of {pancreas:.3f} ({'above' if pancreas >= PANCREAS_AIM else 'below'} the aim of "
        f"{PANCREAS_AIM})."
    )
    found = exam.comparisons[RECIPE]
    reached = found["difference"] >= CLAIMED and found["conclusion"] == "better"
    sentences = [
        f"The claim, as read here, is {signed(CLAIMED)} on patients. It was the aim, with an interval above zero: "
        f"{'reached' if reached else 'missed'}.",
        sentence(exam, RECIPE, "The distance and both conversions change the Dice by"),
        sentence(reference, RECIPE, "On A, B and C, each held out in turn, it was"),
        sentence(reference, RECIPE + LONGER, "After four times as many steps it was"),
        *(
            ["This interval excludes the aim."]
            if reference.comparisons[RECIPE + LONGER]["hierarchical"][1] < CLAIMED
            else []
        ),
        sentence(exam, PAPER, "All terms of the paper, from half as many samples, change it by"),
    ]
    table = markdown([exam_row(exam, arm) for arm in exam.arms])
    return "\n".join([fill(about, WIDTH), "", table, "", fill(" ".join(sentences), WIDTH)])


def log_lines(results: Results) -> str:
    """All arms, hospital by hospital and run by run, for the log of the reference table."""
    rows = []
    for arm in results.arms:
        found = results.comparisons.get(arm)
        rows.append(
            {
                "arm": arm,
                "minus segmentation, by hospital": ", ".join(f"{c} {signed(d)}" for c, d in found["by_centre"].items())
                if found
                else "",
                "95 %, cases alone": interval_in_words(found["interval"], "") if found else "",
                "detected": written(results.mean(arm, "detected"), 2),
                "by the mean of both heads": written(results.mean(arm, "dice_mean_head")),
                "in the box around the true pancreas": written(results.mean(arm, "dice_own_box")),
            }
        )
    few = [sentence(results, arm, words) for arm, words in SUBJECTS.items() if not has_verdict(results, arm)]
    stage = {centre: written(results.pancreas_dice(centre)) for centre in CENTRES}
    return "\n\n".join(
        [
            reference_lines(results, results.arms),
            fill(" ".join(few), WIDTH),
            markdown(rows),
            longer_lines(results),
            f"Pancreas, shared stage: {', '.join(f'{value} on {centre}' for centre, value in stage.items() if value)}.",
            "\n".join([f"Command of the latest training runs: {command(results)}", *results.summary["mixed"]]),
        ]
    )


def exam_page_lines(exam: Results, reference: Results) -> str:
    """The result of the exam, and where its rows come from."""
    return "\n\n".join([exam_lines(exam, reference), fill(f"Command: {command(exam)}", WIDTH, break_on_hyphens=False)])


def command(results: Results) -> str:
    """The command that made the latest rows of a table, and its processor."""
    return (
        f"`{results.summary['command']}` ({results.summary['device']}, torch {results.summary['versions']['torch']}); "
        "dates and processors: `cells.csv`."
    )


def picture(folder: Path) -> Picture:
    """Draw the difference of each arm that has a verdict, from the rows of a table."""
    rows = read_rows(folder / "cases.csv")
    target = "tumour" if any(row["target"] == "tumour" for row in rows) else "pancreas"
    about = {"baseline": ARMS[BASELINE], "target": target, "protocol": "leave-one-centre-out", "metric": "dice"}
    found = compare([row for row in rows if row["target"] == target], BASELINE, "dice")
    found = sorted(found, key=lambda record: list(ARMS).index(record["arm"]))
    return figures.arms(
        [{**one, **about, "arm": ARMS[one["arm"]]} for one in found if one["trainings"] >= FEWEST_TRAININGS],
        claimed=CLAIMED if target == "tumour" else None,
    )


def save_small(drawn: Picture, path: Path) -> None:
    """Write a figure with fewer colours, as a third of its bytes; ``Description`` holds its alt text."""
    about = PngInfo()
    about.add_text("Description", drawn.alt)
    with Image.open(BytesIO(drawn.png)) as image:
        image.convert("RGB").quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            path, optimize=True, pnginfo=about
        )


def write(readme: Path) -> None:
    """Write the results into the README and into the pages of the tables, and draw their figures."""
    reference, exam = Results(REFERENCE), Results(EXAM)
    for page, lines in (
        (readme, exam_lines(exam, reference)),
        (REFERENCE / "README.md", page_lines(reference)),
        (REFERENCE / "LOG.md", log_lines(reference)),
        (EXAM / "README.md", exam_page_lines(exam, reference)),
    ):
        write_part(page, "result", lines, MADE_BY)
    for folder in (REFERENCE, EXAM, SAMPLES):
        drawn = picture(folder)
        save_small(drawn, folder / FIGURE)
        write_part(folder / "README.md", "figure", f"![{drawn.alt}]({FIGURE})", MADE_BY)
