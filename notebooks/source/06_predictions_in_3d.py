# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Predictions in 3D: where is the tumour wrong, and did the model warn?
#
# A score says how wrong a model is. A surgeon asks where, and by how many mm. You look at tumours that a model found and
# missed, in mm and in 3D, ask whether it could have warned you, and take apart two things that differ between hospitals:
# the scanner and the patients.
#
# **Objectives.** After this lesson you can
#
# - follow a prediction through the stages of a cascade, and say which stage lost the tumour;
# - measure the error of a surface in mm, and find it in 3D;
# - judge a warning that needs no label: does it rise with the error?
# - set up a test that tells a shift of the scanner from a shift of the disease, and say how far four patients carry it.
#
# **Prerequisites.** [Lesson 04](04_the_framework.ipynb).
#
# **Time and memory.** {measured} 45 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases; empty: the embedded three-centre data
overrides: dict = {}  # other settings of the prediction, such as {"prediction.overlap": 0.5}

# %% [markdown]
# ## A model that had an hour
#
# After a training of a minute nearly every mask is wrong, and then one cannot learn to tell good from bad. So
# this lesson looks at the **reference model**, which comes with the kit: a [cascade](glossary.md#cascade) of a pancreas
# stage and a tumour stage, trained for thousands of steps on hospitals A and B. It never saw hospital C.

# %%
from dataclasses import replace

import numpy as np

from dualtask_lite.engine.predict import in_cascade_order
from dualtask_lite.engine.run import load_models
from dualtask_lite.show.lesson import check, choice, new_folder, outcome, run_manifest
from dualtask_lite.show.lesson_cases import lesson_cases
from dualtask_lite.show.table import Table

folder = new_folder("06")
models = [
    replace(model, settings=model.settings.changed(overrides))
    for model in in_cascade_order(load_models("reference"))
]
used = {case.digest for model in models for case in model.training_cases}
cases = lesson_cases(data_dir, tumours=1, learned=used)

# %% [markdown]
# ## Every tumour of the new hospital
#
# Each case is predicted from its whole volume, and kept. The rows are the patients with a tumour, sorted by the
# [Dice](glossary.md#dice) of the tumour, so that a good, a median and a failed case can be picked by rank and not by taste.

# %%
from dualtask_lite.engine.judging.evaluation import score
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.progress import progress_bar

scans = {case.id: case.load() for case in cases}
with progress_bar() as bar:
    names = bar.track(list(scans), description="predicting")
    predictions = {name: predict_scan(models, scans[name]) for name in names}
rows = [row for name in scans for row in score(scans[name], predictions[name], ["tumour"])]
judged = sorted(
    (row for row in rows if scans[row["case"]].has_tumour), key=lambda row: -row["dice"]
)
columns = ("case", "dice", "hd95_mm", "nsd_2mm", "volume_ml_truth", "volume_ml_prediction")
Table(judged, "Tumours of the hospital that was not seen, the best first", columns=columns)

# %% [markdown]
# [HD95](glossary.md#hd95) would have a dash where nothing was marked: there is no surface to measure. **[NSD](glossary.md#nsd)** is the
# share of both surfaces that lies within 2 mm of the other one [2]; a voxel of hospital C is larger, so here it counts the points that match exactly.

# %% tags=["choice"]
choice(
    "06.A",
    "And in the patients without a tumour: does the model mark one?",
    "in none of them",
    "in some of them",
    "in all of them",
)

# %%
healthy = [row for row in rows if not scans[row["case"]].has_tumour]
for row in healthy:
    print(f"{row['case']}, without a tumour: {row['volume_ml_prediction']:.1f} ml marked as tumour")

# %% tags=["outcome"]
outcome("06.A")

# %%
places = {"good": 0, "median": len(judged) // 2, "failed": len(judged) - 1}
picked = {which: judged[place]["case"] for which, place in places.items()}
print("picked by rank:", picked)

# %% [markdown]
# ## Stage by stage
#
# The report of a prediction says what each stage of the cascade did: the region that it was given, as a box in voxels, and
# the volume that it marked there.

# %%
Table(
    predictions[picked["median"]].report,
    f"What each stage did with {picked['median']}",
    columns=("stage", "looked_in", "box_start", "box_stop", "volume_ml"),
)

# %% [markdown]
# The first stage marks the pancreas. The second one looks around it and marks the tumour, with the regressed distance to
# its surface below:

# %%
from dualtask_lite.show import figures

figures.orthogonal(
    scans[picked["median"]],
    prediction=predictions[picked["median"]].mask,
    distance=predictions[picked["median"]].distance_mm,
)

# %% [markdown]
# The network of the framework [1] answers twice, and each of its two heads gives a mask. A third one comes from the mean of their probabilities.

# %% tags=["choice"]
choice(
    "06.B",
    "Which of the two heads has the higher mean Dice over these tumours?",
    "the segmentation head",
    "the distance head",
    "they differ by less than 0.02",
)

# %%
from dualtask_lite.cases.masks import dice

by_head = {
    head: sum(
        dice(predictions[row["case"]].targets["tumour"].masks[head], scans[row["case"]].label == 2)
        for row in judged
    )
    / len(judged)
    for head in predictions[picked["median"]].targets["tumour"].masks
}
Table(
    [{"head": head, "mean dice": mean} for head, mean in by_head.items()],
    "One network, three masks",
)

# %% tags=["outcome"]
outcome("06.B")

# %% [markdown]
# The same network has three scores, by the way it is read. So [lesson 05b](05b_what_the_terms_buy.ipynb) reads all training runs
# in **one** way, so that a difference between two of them comes from the training runs.
#
# If the first stage misses a part of the organ by more than the margin of the box, the second one never looks there,
# however good it is.

# %% [markdown]
# ### Exercise 1
#
# For each tumour, how much of it (`label == 2`) lies **inside the box that the last stage looked at**?
# The box is `report[-1]`, from `box_start` up to (not including) `box_stop`. Of how many tumours was a part
# **outside**, and so lost before the last stage began?

# %% tags=["exercise", "blank"]
lost_before = ...

# %% tags=["exercise", "solution"]
lost_before = 0
for row in judged:
    last = predictions[row["case"]].report[-1]
    (x0, y0, z0), (x1, y1, z1) = last["box_start"], last["box_stop"]
    tumour = scans[row["case"]].label == 2
    lost_before += tumour[x0:x1, y0:y1, z0:z1].sum() < tumour.sum()

# %% tags=["exercise", "wrong"]
lost_before = 0
for row in judged:
    last = predictions[row["case"]].report[-1]
    (x0, y0, z0), (x1, y1, z1) = last["box_start"], last["box_stop"]
    tumour = scans[row["case"]].label == 2
    lost_before += tumour.sum() - tumour[x0:x1, y0:y1, z0:z1].sum()

# %% tags=["check"]
check("06.1", lost_before)

# %% [markdown]
# What if the last stage were given the box around the **true** pancreas? That is a leak: at
# the next hospital nobody knows the true box.

# %% tags=["choice"]
choice(
    "06.C",
    "How does the true box change the mean Dice of these tumours?",
    "it rises by more than 0.02",
    "it changes by at most 0.02",
    "it falls by more than 0.02",
)

# %%
from dualtask_lite.engine.judging.leaks import box_leak
from dualtask_lite.show.figures import trust

by_box = box_leak(models, [case for case in cases if scans[case.id].has_tumour], predictions)
trust.leaks([by_box.row])

# %% tags=["outcome"]
outcome("06.C")

# %% [markdown]
# ## The error of a surface, in mm
#
# Every voxel on the surface of the prediction lies some mm from the true surface. This is the error that a
# radiotherapist cares for: a rim of 2 mm is one thing, a lump that lies 15 mm away in another organ is quite another.

# %%
from dualtask_lite.engine.judging.disagreement import disagreement, surface_error_mm

opinions = {
    name: disagreement(models, scans[name], predictions[name], views=2, seed=seed)
    for name in scans
    if scans[name].has_tumour
}
errors = {
    which: surface_error_mm(
        predictions[name].targets["tumour"].mask, scans[name].label == 2, scans[name].spacing
    )
    for which, name in picked.items()
}

# %% [markdown]
# The good case. On the left the predicted surface, coloured by how far it lies from the true one; on the right where, and by
# how much, the two heads differ. Lines: blue the true pancreas, orange the true tumour, magenta and dashed the prediction.

# %%
name = picked["good"]
trust.where_wrong(
    scans[name], predictions[name].mask, 2, error=errors["good"], doubt=opinions[name].heads_mm
)

# %% [markdown]
# And the failed one. What kind of failure it is, the numbers say first:

# %%
name = picked["failed"]
marked, true = (int((labels == 2).sum()) for labels in (predictions[name].mask, scans[name].label))
met = int(((predictions[name].mask == 2) & (scans[name].label == 2)).sum())
if not marked:
    print(f"{name}: nothing was marked as tumour, so there is no surface to colour.")
elif not met:
    print(f"{name}: what was marked ({marked} voxels) lies beside the tumour ({true} voxels).")
else:
    print(f"{name}: {met} of the tumour's {true} voxels were marked, and {marked - met} others.")
levels = np.flatnonzero((scans[name].label == 2).any(axis=(0, 1))) + 1
print(f"The tumour lies on the axial slices {levels[0]} to {levels[-1]}.")
trust.where_wrong(
    scans[name],
    predictions[name].mask,
    2,
    error=errors["failed"],
    doubt=opinions[name].heads_mm,
)

# %% [markdown]
# The colours tell how far the *prediction* is from the truth, and not what it lacks: a small prediction may lie near the
# true surface everywhere and miss most of the tumour. So look also for orange outline without colour beside it, and at the
# other slices of the tumour: this one was chosen for the prediction. HD95 and NSD, in the table above, measure both ways.
#
# ## In 3D
#
# Turn the view on the left with the mouse, and switch on the boxes: true labels, prediction, and where it says
# too much or too little. It is the median case (of an even number, the lower of the two in the middle). Where you see three planes instead, open one of the files below (in
# JupyterLab: right-click it in the list on the left, *Open in New Browser Tab*). It holds everything it shows, needs no
# network, and also turns by the arrow keys.

# %%
from dualtask_lite import show

name = picked["median"]
show.volume3d(scans[name], predictions[name].mask, predictions[name].distance_mm)

# %%
for which, name in picked.items():
    print(which, show.page(scans[name], predictions[name].mask, folder / f"{which}.html"))

# %% [markdown]
# ### Exercise 2
#
# Take a prediction whose error you know: the true tumour of the good case, moved by one voxel to the side. `error` holds mm on its
# surface, and NaN everywhere else. What **share of that surface** lies within 2 mm of the true one?

# %%
truth = scans[picked["good"]].label == 2
error = surface_error_mm(np.roll(truth, 1, axis=0), truth, scans[picked["good"]].spacing)
print(f"moved by {scans[picked['good']].spacing[0]:.1f} mm")

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
# At a new hospital there are no labels. But this network has two heads, and it can be asked
# again with another [imaging view](glossary.md#imaging-view) of the same CT (which it never saw in training, so it may also change its answer
# because the view is strange to it). Where the answers **disagree**, at
# least one of them is wrong. Each such disagreement is an **uncertainty estimate**, one number for a case; we call it a *warning*. Is it higher where the *risk*,
# the true error 1 - Dice, is higher? Take four cases with the risks 0.2, 0.4, 0.6 and 0.8, and a warning that swaps the middle
# two: from the lowest to the highest warning, the risks are 0.2, 0.6, 0.4, 0.8.
#
# *Spearman* compares the two orders: 1 the same, 0 unrelated; here 0.8. Then hand the cases with the highest warnings to a
# human, and take the mean risk of the cases that are left to the model:
#
# | handed over | none | 1 | 2 | 3 | mean of the row: area under the risk-coverage curve (*aurc*) |
# | --- | --- | --- | --- | --- | --- |
# | by this warning | 0.5 | 0.4 | 0.4 | 0.2 | 0.375 |
# | by a perfect one | 0.5 | 0.4 | 0.3 | 0.2 | 0.35 |
# | at random | 0.5 | 0.5 | 0.5 | 0.5 | 0.5 |
#
# *gain* says how far the warning comes from random (0) to perfect (1): (0.5 - 0.375) / (0.5 - 0.35), which is 0.83.

# %% tags=["choice"]
choice(
    "06.D",
    "How well will the best warning follow the error? (Spearman: 1 same order, 0 unrelated)",
    "above 0.7",
    "between 0.3 and 0.7",
    "at most 0.3",
)

# %%
from dualtask_lite.engine.judging.disagreement import WARNINGS, judge, summarise_warnings

second_opinions = [
    judge(scans[name], predictions[name], opinion) for name, opinion in opinions.items()
]
assessment = summarise_warnings(second_opinions)
Table(
    [{"warning": WARNINGS[name], **found} for name, found in assessment.summary.items()],
    "Does it rise with the risk? (aurc: less is better; gain: 1 perfect, 0 as at random)",
)

# %% tags=["outcome"]
outcome("06.D")

# %%
best = max(
    assessment.summary, key=lambda name: np.nan_to_num(assessment.summary[name]["gain"], nan=-9)
)
trust.warning_against_error(
    second_opinions, best, WARNINGS[best], assessment.summary[best]["spearman"]
)

# %% [markdown]
# A Spearman near 0 would mean that cases with a high warning are no worse than the others. Dots at the top left are quiet
# failures: a large error, and a low warning. Both heads share most of the network, so they can be wrong in the same places, and
# their disagreement does not show it.
#
# The warning that did best was picked **after** seeing the errors: with so few cases one of several is bound to look
# good. A hospital would have to choose it beforehand, on validation cases.
# And two views for each case, to be quick, are few: ask for more (`views=4`), and the two warnings of the views change.
#
# What would it buy? Hand the cases with the highest warnings to a human, and look at the error of those that are kept: this is
# **selective prediction** [3]. Beside
# the best warning stands a simple one, `unsure`: the last row of the table. It needs one prediction only, and is high where many
# voxels have a probability near one half.

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
# mean risk of the cases that are **left to the model**? `second_opinions` holds a row for each case, with its `"risk"`
# (1 - Dice) and its `"unsure"`. (The number of cases to hand over is `len(second_opinions) // 4`.)

# %% tags=["exercise", "blank"]
risk_left = ...

# %% tags=["exercise", "solution"]
by_warning = sorted(second_opinions, key=lambda row: row["unsure"])
left = by_warning[: len(by_warning) - len(by_warning) // 4]
risk_left = sum(row["risk"] for row in left) / len(left)

# %% tags=["exercise", "wrong"]
by_warning = sorted(second_opinions, key=lambda row: row["unsure"])
left = by_warning[: len(by_warning) - len(by_warning) // 4]
risk_left = sum(1 - row["risk"] for row in left) / len(left)  # the Dice, not the risk

# %% tags=["check"]
check("06.3", risk_left)

# %% [markdown]
# ## Scanner or disease?
#
# [Lesson 00](00_start_here.ipynb) named two reasons why a new hospital differs: its scanner and its patients. Look at the
# tumours themselves: how large they are, what kind they are, and how well they were marked. *Solid* tumours are firm tissue,
# a little darker than the pancreas; *cystic* ones are filled with fluid and much darker; *iso* (isoattenuating) ones are nearly as bright as
# the pancreas around them, 7 to 9 HU darker on average.

# %%
from dualtask_lite.cases.phantom import lesion

kinds = {} if data_dir else {row["case"]: lesion("C", int(row["case"][2:])).kind for row in judged}
figures.dice_by_volume([{**row, "kind": kinds.get(row["case"], "unknown")} for row in judged])

# %% [markdown]
# Hospital C differs in both: it has another scanner, and it treats more cysts and larger tumours. Only with made-up patients (a *[phantom](glossary.md#phantom)*) can
# one take the two apart: **the same patients, scanned by another hospital**. Below, patients of A and of C are each scanned
# in A and in C, with new patients that no model saw, and the reference model predicts all four groups.

# %% tags=["choice"]
choice(
    "06.E",
    "From patients of A scanned in A: which change alters the mean Dice more?",
    "the scanner: other timing of the contrast agent, thicker slices, smoother images",
    "the patients: other kinds and sizes of tumours",
    "neither changes it by more than 0.05",
)

# %% tags=["summary"]
from dualtask_lite.engine.judging.swap import evaluate_swapped

swapped = evaluate_swapped(models, ("A", "C"), patients=4, seed=seed)
figures.patients_by_scanner(swapped)

# %% tags=["outcome"]
outcome("06.E")

# %% [markdown]
# Read the figure along its lines: the same patients with another scanner, or the same scanner with other patients. The answer starts from
# patients of A scanned in A; from another group the changes may differ. Each mean
# is of four patients or fewer: one tumour found more raises it by up to a third. So no effect is **shown** here, neither of the
# scanner nor of the patients, and with other patients the other one may be larger. Before you believe a difference, ask for
# more (`patients=16`), and for an interval as in [lesson 05](05_cross_dataset_evaluation.ipynb).

# %% [markdown]
# ## What is known now
#
# - The reference model segments some tumours of a new hospital well and others poorly: you have seen which.
# - Two hospitals differ in scanner and patients, and a table of means cannot tell which of them changed a score. A new hospital
#   need not be harder for the tumour, if its tumours are easier to find. The views of the method imitate another scanner
#   only: they cannot prepare for other patients.
#
# ## Summary
#
# - A cascade removes false positives elsewhere, but what its first stage cuts off, no later stage recovers.
# - Errors in mm say what overlap does not: a surface that is 2 mm off everywhere, or right but for one lump elsewhere.
# - Two heads and several views are second opinions that need no label. They share most of the network, so they can be
#   wrong together: a miss on which all agree gives no warning.
#
# Next: [lesson 07](07_real_data_real_gpus.ipynb) takes the same steps to real CT and to a GPU.

# %% [markdown]
# ## References
#
# 1. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer
#    Segmentation in CT Scans*, 2025, [arXiv:2505.01644](https://arxiv.org/abs/2505.01644).
# 2. Nikolov and others, *Clinically applicable segmentation of head and neck anatomy for radiotherapy*, Journal of
#    Medical Internet Research 23, 2021, [doi:10.2196/26151](https://doi.org/10.2196/26151): the surface Dice (NSD).
# 3. Geifman and El-Yaniv, *Selective classification for deep neural networks*, 2017,
#    [arXiv:1705.08500](https://arxiv.org/abs/1705.08500): risk and coverage.

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    cases=len(scans),
    tumour_dice=round(float(np.mean([row["dice"] for row in judged])), 3),
    dice={which: round(judged[place]["dice"], 2) for which, place in places.items()},
    false_alarms=sum(row["volume_ml_prediction"] > 0 for row in healthy),
    best_warning=best,
    aurc={name: round(found["aurc"], 3) for name, found in assessment.summary.items()},
    aurc_useless=round(assessment.useless, 3),
    box_leak=[round(by_box.reported, 3), round(by_box.honest, 3)],
)
