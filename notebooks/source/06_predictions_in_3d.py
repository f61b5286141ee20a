# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Predictions in 3D: where is it wrong, and does it know?
#
# A score says how wrong a model is. A surgeon asks where, and by how many mm. You follow one case through the
# cascade, look at good and bad predictions in 3D, and ask whether the model could have warned you.
#
# **Objectives.** After this lesson you can
#
# - follow a prediction through the stages of a cascade, and say which stage lost it;
# - measure the error of a surface in mm, and find it in 3D;
# - judge a warning that needs no label: does it rise with the error?
#
# **Prerequisites.** [Lesson 04](04_the_framework.ipynb).
#
# **Time and memory.** {measured} 40 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases; empty: the embedded three-centre data
overrides: dict = {}  # other values for settings, such as {"optimiser.steps": 50}

# %% [markdown]
# ## A cascade for one hospital that it never saw
#
# Two stages learn from two centres: the first finds the pancreas on a coarse grid, the second draws it on a finer one,
# within the box that the first has found. The third centre is [held out](glossary.md#held-out).
#
# Why the organ and not the tumour? After so few minutes a model misses most tumours
# ([lesson 04](04_the_framework.ipynb)), and where everything is wrong one cannot learn to tell good from bad. A
# tumour counts as part of the pancreas here. For a tumour the steps are the same.

# %%
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import load_model
from dualtask_lite.engine.training.train import split_for, train
from dualtask_lite.show.lesson import check, choice, new_folder, outcome, run_manifest
from dualtask_lite.show.table import Table

source = data_dir or "phantom"
held_out = sorted({case.centre for case in find_cases(source)})[-1]
common = {"seed": seed, "data.source": source, "data.held_out": held_out}
steps = {"pancreas-coarse": 130, "pancreas-fine": 150}
folder = new_folder("06")
models = []
for stage, count in steps.items():
    chosen = {"stage": stage, "optimiser.steps": count, **common, **overrides}
    settings = Settings.of(profile, chosen)
    split = split_for(settings)
    models.append(load_model(train(settings, folder / stage, split=split)))
print(f"{len(split.train)} cases trained, {len(split.test)} of centre {held_out} test")

# %% [markdown]
# ## Every case of the held-out centre
#
# Each is predicted from its whole volume, and kept. The rows are sorted by the [Dice](glossary.md#dice) of the
# pancreas, so that one good, one middling and one failed case can be picked without looking for nice ones.

# %%
from dualtask_lite.engine.judging.evaluation import score
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.progress import progress_bar

scans = {case.id: case.load() for case in split.test}
with progress_bar() as bar:
    names = bar.track(list(scans), description="predicting")
    predictions = {name: predict_scan(models, scans[name]) for name in names}
rows = [row for name in scans for row in score(scans[name], predictions[name], ["pancreas"])]
judged = sorted(rows, key=lambda row: -row["dice"])
columns = ("case", "dice", "hd95_mm", "nsd_2mm", "volume_ml_truth", "volume_ml_prediction")
Table(judged, f"Pancreas in centre {held_out}, the best first", columns=columns)

# %% [markdown]
# [HD95](glossary.md#hd95) has a dash where nothing was found: there is no surface to measure. **[NSD](glossary.md#nsd)** is the
# share of both surfaces that lies within 2 mm of the other one.

# %%
places = {"good": 0, "middling": len(judged) // 2, "failed": len(judged) - 1}
picked = {which: judged[place]["case"] for which, place in places.items()}
Table([{"which": which, "case": name} for which, name in picked.items()], "Picked by rank")

# %% [markdown]
# ## Stage by stage
#
# The report of a prediction says what each stage of the [cascade](glossary.md#cascade) did: the region it was
# given, the box in voxels, how often it went round on the box of its own last answer, how well its last two answers
# agreed (Dice), and what it found.

# %%
Table(predictions[picked["middling"]].report, f"What each stage did with {picked['middling']}")

# %% [markdown]
# This is what the first stage says of it:

# %%
from dualtask_lite.show import figures

first_stage = predict_scan(models[:1], scans[picked["middling"]])
figures.orthogonal(scans[picked["middling"]], prediction=first_stage.mask)

# %% [markdown]
# And this is what came out at the end, with the regressed distance to the surface of the pancreas below:

# %%
figures.orthogonal(
    scans[picked["middling"]],
    prediction=predictions[picked["middling"]].mask,
    distance=predictions[picked["middling"]].distance_mm,
)

# %% tags=["choice"]
choice(
    "06.A",
    "Which answer has the higher Dice for this case?",
    "the last one: it saw a finer grid",
    "the first one: it saw more of the surroundings",
    "neither, they differ by less than 0.01",
)

# %%
answers = {"pancreas-coarse": first_stage, "pancreas-fine": predictions[picked["middling"]]}
Table(
    [
        {"after": stage, "dice": score(scans[picked["middling"]], found, ["pancreas"])[0]["dice"]}
        for stage, found in answers.items()
    ],
    f"Dice of {picked['middling']}, stage by stage",
)

# %% tags=["outcome"]
outcome("06.A")

# %% [markdown]
# Compare the two. A later stage sees more detail and less of the surroundings, so it is not
# better by itself: after a training this short the first answer may be the better one. That is worth measuring before
# a stage is added.
#
# If the first stage misses a part of the organ by more than the margin of the box, the second one never looks there,
# however good it is.

# %% [markdown]
# ### Exercise 1
#
# For each case of the test, how much of the pancreas (`label > 0`) lies **inside the box that the last stage looked at**?
# The box is `report[-1]`, from `box_start` up to (not including) `box_stop`. In how many cases was a part of it
# **outside**, and so lost before the last stage began?

# %% tags=["exercise", "blank"]
lost_before = ...

# %% tags=["exercise", "solution"]
lost_before = 0
for row in judged:
    last = predictions[row["case"]].report[-1]
    (x0, y0, z0), (x1, y1, z1) = last["box_start"], last["box_stop"]
    organ = scans[row["case"]].label > 0
    lost_before += organ[x0:x1, y0:y1, z0:z1].sum() < organ.sum()

# %% tags=["exercise", "wrong"]
lost_before = 0
for row in judged:
    last = predictions[row["case"]].report[-1]
    (x0, y0, z0), (x1, y1, z1) = last["box_start"], last["box_stop"]
    organ = scans[row["case"]].label > 0
    lost_before += organ.sum() - organ[x0:x1, y0:y1, z0:z1].sum()

# %% tags=["check"]
check("06.1", lost_before)

# %% [markdown]
# What if the last stage were given the box around the **true** pancreas? Many papers test like that. It is a leak: at
# the next hospital nobody knows the true box.

# %%
from dualtask_lite.engine.judging.leaks import box_leak
from dualtask_lite.show.figures import trust

by_box = box_leak(models, split.test)
trust.leaks([by_box.row])

# %% [markdown]
# ## The error of a surface, in mm
#
# Every voxel on the surface of the prediction lies some mm from the true surface. This is the error that a
# radiotherapist cares for: a rim of 2 mm is one thing, a lump that lies 15 mm away in another organ is quite another.

# %%
from dualtask_lite.engine.judging.disagreement import disagreement, surface_error_mm

opinions = {
    which: disagreement(models, scans[name], predictions[name], seed=seed)
    for which, name in picked.items()
}
errors = {
    which: surface_error_mm(predictions[name].mask > 0, scans[name].label > 0, scans[name].spacing)
    for which, name in picked.items()
}

# %% [markdown]
# The good case. On the left the predicted surface, coloured by how far it lies from the true one (blue line; a tumour in it
# orange); on the right where, and by how much, the two heads differ:

# %%
name = picked["good"]
trust.where_wrong(
    scans[name], predictions[name].mask, 1, error=errors["good"], doubt=opinions["good"].heads_mm
)

# %% [markdown]
# And the failed one:

# %%
name = picked["failed"]
trust.where_wrong(
    scans[name],
    predictions[name].mask,
    1,
    error=errors["failed"],
    doubt=opinions["failed"].heads_mm,
)

# %% [markdown]
# Does the failed case look better than you thought? The colours tell how far the *prediction* is from the truth, and
# not what it lacks: a small prediction may lie near the true surface everywhere and miss most of the organ. So look at
# the blue and orange lines that have no colour beside them, too. HD95 and NSD, in the table above, measure both ways.
#
# ## In 3D
#
# Turn the view on the left with the mouse, and switch on the boxes: true labels, prediction, and where it says
# too much or too little. It is the middling case. In a page without a kernel, open one of the files below instead (in
# JupyterLab: right-click it in the list on the left, *Open in New Browser Tab*). It holds everything it shows, needs no
# network, and also turns by the arrow keys.

# %%
from dualtask_lite import show

name = picked["middling"]
show.volume3d(scans[name], predictions[name].mask, predictions[name].distance_mm)

# %%
for which, name in picked.items():
    print(which, show.page(scans[name], predictions[name].mask, folder / f"{which}.html"))

# %% [markdown]
# ### Exercise 2
#
# Take a prediction whose error you know: the true pancreas of the good case, moved by one voxel. `error` holds mm on its
# surface, and NaN everywhere else. What **share of that surface** lies within 2 mm of the true one?

# %%
import numpy as np

truth = scans[picked["good"]].label > 0
error = surface_error_mm(np.roll(truth, 1, axis=0), truth, scans[picked["good"]].spacing)

# %% tags=["exercise", "blank"]
share_within_2mm = ...

# %% tags=["exercise", "solution"]
on_surface = error[np.isfinite(error)]
share_within_2mm = (on_surface <= 2).mean()

# %% tags=["exercise", "wrong"]
share_within_2mm = (error <= 2).mean()

# %% tags=["check"]
check("06.2", share_within_2mm)

# %% [markdown]
# ## Could it have warned you?
#
# At a new hospital there are no labels. But this network answers twice, once with each head, and it can be asked
# again with another [imaging view](glossary.md#imaging-view) of the same CT. Where the answers **disagree**, at
# least one of them is wrong. How does each warning go with the true error (1 - Dice)? *Spearman* compares the two orders
# of the cases. *aurc* is the mean error of the cases that the model keeps when the loudest are handed to a human, over
# all shares kept: less is better.

# %% tags=["choice"]
choice(
    "06.B",
    "How well will the best warning follow the error? (Spearman: 1 same order, 0 unrelated)",
    "above 0.7",
    "between 0.3 and 0.7",
    "at most 0.3",
)

# %%
from dualtask_lite.engine.judging.disagreement import WARNINGS, judge, summarise_warnings

second_opinions = [
    judge(
        scans[name],
        predictions[name],
        disagreement(models, scans[name], predictions[name], seed=seed),
    )
    for name in scans
]
assessment = summarise_warnings(second_opinions)
Table(
    [{"warning": WARNINGS[name], **found} for name, found in assessment.summary.items()],
    "Does it rise with the error? (spearman: 1 always, 0 not at all; gain: 1 perfect, 0 useless)",
)

# %% tags=["outcome"]
outcome("06.B")

# %%
best = max(
    assessment.summary, key=lambda name: np.nan_to_num(assessment.summary[name]["gain"], nan=-9)
)
trust.warning_against_error(
    second_opinions, best, WARNINGS[best], assessment.summary[best]["spearman"]
)

# %% [markdown]
# Near 0 the loud cases are no worse than the quiet ones, and the warning is worth nothing. Do not be surprised if none is
# worth much here: after a short training both heads are wrong in the same places.
#
# The warning that did best was picked **after** seeing the errors: with so few cases one of six is bound to look
# good. A hospital would have to choose it beforehand, on validation cases.
#
# What would it buy? Hand the cases with the loudest warnings to a human, and look at the error of those that are kept:

# %%
from dualtask_lite.engine.judging.disagreement import risk_coverage

risk = [row["risk"] for row in second_opinions]
curves = {
    WARNINGS[name]: risk_coverage(risk, [row[name] for row in second_opinions]).risk
    for name in (best, "unsure")
}
trust.risk_coverage(curves, risk_coverage(risk, risk).risk)

# %% [markdown]
# ### Exercise 3
#
# A radiologist has time for **a quarter** of the cases: those with the highest `"unsure"` warning. What is the
# mean risk of the cases that are **left to the model**? `second_opinions` holds a row a case with `risk` and
# `unsure`. (The number of cases to hand over is `len(second_opinions) // 4`.)

# %% tags=["exercise", "blank"]
risk_left = ...

# %% tags=["exercise", "solution"]
by_warning = sorted(second_opinions, key=lambda row: row["unsure"])
left = by_warning[: len(by_warning) - len(by_warning) // 4]
risk_left = sum(row["risk"] for row in left) / len(left)

# %% tags=["exercise", "wrong"]
by_warning = sorted(second_opinions, key=lambda row: row["unsure"])
left = by_warning[len(by_warning) // 4 :]
risk_left = sum(row["risk"] for row in left) / len(left)

# %% tags=["check"]
check("06.3", risk_left)

# %% [markdown]
# ## Summary
#
# - A cascade can only lose: what the first stage misses, no later stage finds.
# - Errors in mm say what overlap does not: a surface that is 2 mm off everywhere, or right but for one lump that is
#   another organ.
# - Two heads and several views are second opinions that cost nothing. They share most of the network, so they can be
#   wrong together: a miss on which all agree gives no warning.
#
# Next: [lesson 07](07_real_data_real_gpus.ipynb) takes the same steps to real CT and to a GPU.

# %% [markdown]
# ## References
#
# 1. Nikolov and others, *Clinically applicable segmentation of head and neck anatomy for radiotherapy*, Journal of
#    Medical Internet Research 23, 2021, [doi:10.2196/26151](https://doi.org/10.2196/26151): the surface Dice (NSD).
# 2. Geifman and El-Yaniv, *Selective classification for deep neural networks*, 2017,
#    [arXiv:1705.08500](https://arxiv.org/abs/1705.08500): risk and coverage.

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    held_out=held_out,
    cases=len(scans),
    pancreas_dice=round(float(np.mean([row["dice"] for row in judged])), 3),
    dice={which: round(judged[place]["dice"], 2) for which, place in places.items()},
    best_warning=best,
    aurc={name: round(found["aurc"], 3) for name, found in assessment.summary.items()},
    aurc_useless=round(assessment.useless, 3),
    box_leak=[round(by_box.reported, 3), round(by_box.honest, 3)],
)
