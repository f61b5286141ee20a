# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 The exam: a fourth hospital
#
# You have read what a paper claims and what came of it. Now it is your turn: change what you like, choose on the hospitals
# that you know, and hand in. The test is a hospital that nobody in this course has chosen anything on. You have seen in lesson 05b how three arms did there;
# a fresh exam of your instructor (`dualtask data make exam`) does not tell even that.
#
# **Objectives.** After this lesson you can
#
# - choose settings within a budget without looking at the test;
# - read a paired difference from a baseline, with its interval and its worst case;
# - say what the best score of many attempts is worth.
#
# **Prerequisites.** [Lesson 04](04_the_framework.ipynb) and [lesson 05](05_cross_dataset_evaluation.ipynb).
#
# **Time and memory.** {measured} 60 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases to train on; empty: the embedded three-centre data
overrides: dict = {}  # other values for settings, such as {"optimiser.steps": 50}
team = "team"  # your name on the board
board = ""  # the folder that all teams share; empty: a folder of your own
exam_cases = "exam"  # the exam's hospital; or a folder, as your instructor says
baseline = "reference"  # the models to beat: a name of dualtask models, or a run folder

# %% [markdown]
# ## The rules
#
# - **Budget.** Three minutes of training for the run that you hand in, on two cores or on your own GPU; trials do not count. The board (a
#   leaderboard) shows how long that run took.
# - **What you may change.** Every setting of the tumour stage. The stage that finds the pancreas is the baseline's, for
#   all teams, so that nobody wins by a better box.
# - **Choose on A to C.** C trains neither the baseline nor your attempt. Here it serves to choose, so it is no test: see there what a change does.
# - **Hand in when you are done.** D is [held out](glossary.md#held-out) for the test. Each hand-in (submission) is counted.
#
# ## The baseline
#
# The reference model with both conversions. It learned from three times as many patients of two hospitals, for an hour,
# and you have three minutes: the exam asks how far you get, and what your difference is worth.

# %%
from dualtask_lite.cases.splits import leave_one_centre_out
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.records import read_json
from dualtask_lite.engine.run import load_models
from dualtask_lite.engine.training.train import train
from dualtask_lite.show.lesson import check, choice, new_folder, outcome, run_manifest, show_source
from dualtask_lite.show.lesson_cases import lesson_cases
from dualtask_lite.show.table import Table

folder = new_folder("08")
source = data_dir or "phantom"
cases = lesson_cases(data_dir, hospitals=2, cases=2, tumours=2)
held_out = cases[-1].centre
common = {"seed": seed, "data.source": source, "data.held_out": held_out}

# %%
reference = load_models(baseline)
Table(
    [
        {
            "stage": model.settings.stage,
            "steps": model.settings.optimiser.steps,
            "trained on": ", ".join(sorted({case.centre for case in model.training_cases})),
            "cases": len(model.training_cases),
        }
        for model in reference
    ],
    "The baseline",
)

# %% [markdown]
# ## Your attempt
#
# Change `changes`, and nothing else. It begins with the two conversions of [lesson 02](02_task_conversion.ipynb). Other
# things to try: `optimiser.steps`, `optimiser.lr`, `augment.gamma`, `views.count`, `objective.tau`.

# %%
changes = {
    "objective.weights": {"seg": 1.0, "dist": 1.0, "conv_mask": 1.0, "conv_distance": 1.0},
    "optimiser.steps": 56,  # few, to be quick; your budget holds more
    "optimiser.batch": 8,
    "sample.patch": [16, 16, 16],  # voxels; small ones make for quick steps
}
attempt = Settings.of(profile, {"stage": "tumour-coarse", **common, **changes, **overrides})
split = leave_one_centre_out(cases, held_out, validation=attempt.data.validation, seed=seed)
run = train(attempt, folder / "attempt" / "tumour-coarse", split=split)

# %% [markdown]
# ### Exercise 1
#
# How many steps would fill the **budget** of 180 seconds? `manifest` says how long your attempt took (`seconds`) and how
# many steps it made (`steps`). Reading the cases takes a part of that time, too; leave it in. Write the answer as an expression of
# these two, because another run takes another time.

# %%
manifest = read_json(run / "manifest.json")
print(f"{manifest['steps']} steps in {manifest['seconds']:.0f} s")

# %% tags=["exercise", "blank"]
steps_in_budget = ...

# %% tags=["exercise", "solution"]
steps_in_budget = int(180 * manifest["steps"] / manifest["seconds"])

# %% tags=["exercise", "wrong"]
steps_in_budget = int(3 * manifest["steps"] / manifest["seconds"])

# %% tags=["check"]
check("08.1", steps_in_budget)

# %% [markdown]
# ## Choose without the test
#
# The attempt and the baseline on the hospital that both held out, with the same stage before them. Try other settings until
# you are content. What you choose here is chosen **for** this hospital: expect less of the next one.

# %% tags=["choice"]
choice(
    "08.A",
    f"Which share of the baseline's mean tumour Dice on {held_out} will the attempt reach?",
    "less than a third",
    "a third to two thirds",
    "more than two thirds",
)

# %%
import numpy as np

from dualtask_lite.engine.judging.evaluation import evaluate_cascades

known = split.test[:4]  # to be quick
pancreas = [model for model in reference if model.settings.stage == "pancreas-coarse"]
tried = {"baseline": reference, "attempt": pancreas + load_models(folder / "attempt")}
mean_dice = {}
for name, result in zip(tried, evaluate_cascades([*tried.values()], known), strict=True):
    mean_dice[name] = float(
        np.nanmean([row["dice"] for row in result.rows if row["target"] == "tumour"])
    )
Table([{"models": name, "tumour Dice": mean} for name, mean in mean_dice.items()], held_out)

# %% tags=["outcome"]
outcome("08.A")

# %% [markdown]
# ## Hand in
#
# `hand_in` predicts every case of D with your models and with the baseline's, and compares them **case by case**. The
# interval says what other patients of D would give with the same two models. It does not know that another training run,
# from another seed, would give something else.

# %% tags=["choice"]
choice(
    "08.B",
    f"How will the difference from the baseline on D compare with the one on {held_out}?",
    "better for the attempt, by more than 0.05",
    "about the same",
    "worse for the attempt, by more than 0.05",
)

# %%
from dualtask_lite.engine.judging import exam

result = exam.hand_in(
    folder / "attempt",
    team,
    board=board or folder / "board",
    baseline=baseline,
    cases=exam_cases,
)
result

# %% tags=["outcome"]
outcome("08.B")

# %% [markdown]
# An average hides the worst case. Here it is: the largest of the tumours that were missed, or the one with the lowest Dice. The
# baseline's Dice on the same case says more: where it is high, the case is not hard, and your training was short or went wrong.

# %%
from dualtask_lite.show.volume.volume3d import volume3d

volume3d(result.worst, result.prediction.mask, result.prediction.distance_mm)

# %%
Table(result.results[:5], "The five worst cases")

# %% [markdown]
# ### Exercise 2
#
# How many tumours of D did your models **miss** altogether? `result.results` has one dictionary a tumour, with its
# `dice`. Patients without a tumour are not in it: in them nothing can be missed.

# %% tags=["exercise", "blank"]
missed = ...

# %% tags=["exercise", "solution"]
missed = sum(row["dice"] == 0 for row in result.results)

# %% tags=["exercise", "wrong"]
missed = result.row["cases"] + result.row["without_target"] - result.row["found"]

# %% tags=["check"]
check("08.2", missed)

# %% [markdown]
# ## What is the best of many worth?
#
# A class hands in again and again, and the best score of each team stands on the board [2]. Suppose that no team is better
# than the baseline, and that each measured difference has a normally distributed error, because D has few patients. The best of
# *n* such differences is above 0 by luck alone, and the more so the larger *n* is:

# %%
show_source(exam.expected_best)

# %%
from dualtask_lite.show.figures import diagrams

often = list(range(1, 31))
diagrams.lines(
    often,
    {"luck alone": [result.row["error"] * exam.expected_best(n) for n in often]},
    "What luck gives to the best hand-in.",
    across=f"hand-ins, each with a standard error of {result.row['error']:.3f}",
    up="expected best difference in Dice",
)

# %% [markdown]
# ### Exercise 3
#
# The difference of a single hand-in has a standard error of 0.02. What **difference** does luck alone give to the best of ten?
# `exam.expected_best(n)` is for a standard error of 1.

# %% tags=["exercise", "blank"]
best_of_ten = ...

# %% tags=["exercise", "solution"]
best_of_ten = 0.02 * exam.expected_best(10)

# %% tags=["exercise", "wrong"]
best_of_ten = 10 * 0.02

# %% tags=["check"]
check("08.3", best_of_ten)

# %% [markdown]
# That is why the board counts the hand-ins, and `luck` is what chance gives on average to the best of so many of one team. A difference below it is no
# progress, and one above it no proof, as chance exceeds its own mean about half of the time. And the leader is the best of **all**
# hand-ins of the class. In a terminal, `dualtask board FOLDER -o board.html` draws it for the projector.

# %%
hand_ins = exam.read_board(board or folder / "board")
columns = ("team", "dice", "difference", "low", "high", "trained_seconds", "hand_ins", "luck")
Table(exam.standings(hand_ins), "The board", columns=columns, digits=3)

# %% [markdown]
# ## What is known now
#
# The verdict of lesson 05b: arms that learned from the patients of A, B and C, tested on those of D after 2,400 steps. The baseline of this
# lesson had 9,600 steps, on two hospitals, so its Dice on D is no part of this comparison.

# %%
from dualtask_lite.engine.judging.statistics import compare, in_words
from dualtask_lite.engine.records import read_rows
from dualtask_lite.resources import data_file

rows = read_rows(data_file("results/exam/cases.csv"))
tumours = [row for row in rows if row["target"] == "tumour"]
for one in compare(tumours, "segmentation", "dice"):
    print(f"- {one['arm']}: {in_words(one)}.")

# %% [markdown]
# The claim of the paper [1], as this course reads it, was 9.5 points more Dice with its method than without it, on tumours of a
# hospital that was not in the training. You rebuilt its parts, saw what each computes, read how some of them were measured, and tried it yourself.
# Whatever your row on the board says: keep the interval, the number of attempts, and the worst case beside the score. That is
# what you may now ask of every such claim.

# %% [markdown]
# ## Summary
#
# - Choose on the hospitals that you have; the test is for the end, and each look at it costs some of its worth.
# - Compare case by case on the same patients, and give the interval and the worst case.
# - The best of many attempts is above the truth: count the attempts.

# %% [markdown]
# ## References
#
# 1. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer Segmentation in CT Scans*,
#    2025, [arxiv.org/abs/2505.01644](https://arxiv.org/abs/2505.01644).
# 2. Blum and Hardt, *The Ladder: a reliable leaderboard for machine learning competitions*, 2015,
#    [arxiv.org/abs/1502.04585](https://arxiv.org/abs/1502.04585).

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    steps=manifest["steps"],
    chosen_on=mean_dice,
    cases=result.row["cases"],
    difference=result.row["difference"],
    interval=[result.row["low"], result.row["high"]],
    hand_ins=len(hand_ins),
)
