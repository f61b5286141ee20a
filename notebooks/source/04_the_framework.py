# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 The framework: train on two hospitals, test on the third
#
# A network with two heads and both conversions is trained on two hospitals, and then tested on a third that it never saw.
#
# **Objectives.** After this lesson you can
#
# - name the terms of the objective and say what each teaches;
# - train a dual-task model and read its curves;
# - test it on an unseen centre, and say what the average hides.
#
# **Prerequisites.** [Lesson 00](00_start_here.ipynb). A little PyTorch helps.
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
# ## The plan
#
# A model that looks for a small tumour in a whole abdomen finds many things that look like one. So two
# models work in a **[cascade](glossary.md#cascade)**: the first finds the pancreas on a coarse grid, the second looks for the
# tumour around what the first has found. The full system adds two finer stages.
#
# The first model comes with the kit: the **reference model** learned from two of the centres, A and B: its first stage 1,600 steps, its second 9,600.
# You train the second.
#
# There are three centres. Two train the model, the third is **[held out](glossary.md#held-out)**: it is used for nothing before
# the test, not even to choose when to stop. A share of the training cases is kept for **[validation](glossary.md#validation)**, to
# see during training whether the model learns.

# %%
from dualtask_lite.cases.splits import leave_one_centre_out
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging.plan import ARMS
from dualtask_lite.show.lesson import check, choice, new_folder, outcome, run_manifest
from dualtask_lite.show.lesson_cases import lesson_cases
from dualtask_lite.show.table import Table

source = data_dir or "phantom"
cases = lesson_cases(data_dir, hospitals=2, cases=2, tumours=2)
held_out = cases[-1].centre
common = {"seed": seed, "data.source": source, "data.held_out": held_out}
by_stage = {  # less than a minute of training, in small patches
    "tumour-coarse": {"optimiser.steps": 60, "optimiser.batch": 8, "sample.patch": [16, 16, 16]}
}
if data_dir:  # the ready-made model knows nothing but the embedded centres
    by_stage = {"pancreas-coarse": {"optimiser.steps": 100, **ARMS["segmentation"]}, **by_stage}
settings = {
    stage: Settings.of(profile, {"stage": stage, **common, **chosen, **overrides})
    for stage, chosen in by_stage.items()
}
stages = tuple(settings)

# %%
share = settings["tumour-coarse"].data.validation
split = leave_one_centre_out(cases, held_out, validation=share, seed=seed)
for part, chosen in vars(split).items():
    print(f"{part}: {len(chosen)} cases of {', '.join(sorted({case.centre for case in chosen}))}")

# %% [markdown]
# Everything that lessons 01 to 03 took apart, in one picture, on a training case. Each image is computed by the functions of
# these lessons; the label stands for what a perfect network would predict.

# %%
from dualtask_lite.show import figures

loaded = (case.load() for case in split.train)
figures.framework(next(scan for scan in loaded if scan.has_tumour))

# %% [markdown]
# ### Exercise 1
#
# How many cases are both in the part that trains and in the test? Count them with `split.train`,
# `split.test` and the `id` of each case.

# %% tags=["exercise", "blank"]
shared = ...

# %% tags=["exercise", "solution"]
shared = len({case.id for case in split.train} & {case.id for case in split.test})

# %% tags=["exercise", "wrong"]
shared = len({case.id for case in split.train} | {case.id for case in split.test})

# %% tags=["check"]
check("04.1", shared)

# %% [markdown]
# ## The objective, term by term
#
# The [loss](glossary.md#loss) of the paper [1] is a sum of terms. The network has two voxel heads: one says for each voxel how likely it is tumour (`seg`), the other how
# many mm it lies from the surface (`dist`). Each answer can be turned into the other, so each head is
# also judged in the other's terms: `conv_mask` turns the distance into a mask, `conv_distance` the mask
# into a distance. Further terms compare two imaging views (`out`), compare tumour with its surroundings
# (`feat`) and ask which slices hold tumour (`slice`). The tumour stage of the laptop profile trains the first four; the other
# three cost more time, and [lesson 05b](05b_what_the_terms_buy.ipynb) shows what a training with all of them gave. The model
# that finds the pancreas learned from masks alone.

# %%
Table(
    [{"stage": stage, **chosen.objective.weights} for stage, chosen in settings.items()],
    f"Weights of the objective in the {profile} profile",
)

# %% [markdown]
# ## The network
#
# One encoder and one decoder; what differs is the last layer. So whatever one head learns passes through features that the
# other one uses, too. Each box is a block of layers with its number of channels and its grid: the *stem* reads the CT,
# three blocks of the *encoder* halve the grid, *context* widens what the coarsest block sees, *fuse* halves its channels, and the
# blocks of the *decoder* double the grid again. *Skips* add the encoder's features of the same size.

# %%
from dualtask_lite.engine.records import read_rows
from dualtask_lite.engine.run import build_network

figures.network_diagram(
    build_network(settings["tumour-coarse"]), settings["tumour-coarse"].sample.patch
)

# %% [markdown]
# ## A training in a hundred lines
#
# The package trains with settings, augmentation, [checkpoints](glossary.md#checkpoint) and several devices. Without all that, one training run fits on
# two pages: `dualtask_lite/minimal.py` loads, samples, steps, predicts one case and prints its Dice. Its losses are
# those of the full code (a test compares them). These are its samples and its steps:

# %%
from dualtask_lite import minimal
from dualtask_lite.show.lesson import show_source

show_source(minimal.sample)

# %%
show_source(minimal.train)

# %% [markdown]
# In a terminal, `python -m dualtask_lite.minimal` runs all of it in about a minute.

# %% [markdown]
# ## Training
#
# Each run has its own folder: settings, a row of numbers for each step, the weights, and a manifest. In a live notebook the
# curves move while the network learns, and the button (or interrupting the kernel) stops it early. In a terminal the
# same run is `dualtask train`.

# %% tags=["choice"]
choice(
    "04.A",
    "Will the terms of the objective fall during the training?",
    "all of them",
    "the mask's term does, of the others at least one does not",
    "the mask's term does not",
)

# %%
from IPython.display import clear_output

from dualtask_lite.engine.inference import predict_region
from dualtask_lite.engine.training.train import train
from dualtask_lite.show.controls import training_monitor

folder = new_folder("04")
for stage in stages[:-1]:
    train(settings[stage], folder / stage, split=split)
monitor = training_monitor(predict_region)
every = max(1, settings["tumour-coarse"].optimiser.steps // 6)
watched = settings["tumour-coarse"].changed({"machine.gradients_every": every})
train(
    watched,
    folder / "tumour-coarse",
    split=split,
    callback=monitor.callback,
    on_validation=monitor.on_validation,
)
clear_output(wait=True)  # the moving picture makes room for the last one
monitor

# %% [markdown]
# Thin lines are single steps, which see only a few patches each; thick lines are running means. The weights of the
# conversion terms grow from almost 0 to 1 over the first third of the steps (they are *ramped*), because at the start neither
# head has anything to teach the other.
#
# A term can be small and still rule the training, or large and do nothing. What moves the weights is its
# [gradient](glossary.md#gradient). Here is each term's share of it: in the layers that both heads use, and in the last
# layer of each head. A head learns from its own term and from the conversion that starts at it:

# %%
curves = {stage: read_rows(folder / stage / "metrics.csv") for stage in stages}
figures.gradients(curves["tumour-coarse"])

# %% [markdown]
# Does each term learn? Its mean over the first and over the last tenth of the steps:

# %%
rows = curves["tumour-coarse"]
tenth = max(1, len(rows) // 10)


def mean(part, term):
    """Mean of a term over some steps."""
    return sum(float(row[term]) for row in part) / len(part)


Table(
    [
        {
            "term": term,
            "first tenth": mean(rows[:tenth], term),
            "last tenth": mean(rows[-tenth:], term),
        }
        for term in settings["tumour-coarse"].objective.weights
        if settings["tumour-coarse"].objective.on(term)
    ],
    "Does this loss learn?",
)

# %% tags=["outcome"]
outcome("04.A")

# %% [markdown]
# ## The test
#
# Every case of the held-out centre is predicted from its whole volume and compared with its label; nobody
# tells the models where the pancreas is.
# **[Dice](glossary.md#dice)** is twice the overlap divided by the sum of both volumes: 1 is perfect, 0 is no overlap.
# **[HD95](glossary.md#hd95)** is the distance in mm within which 95 of 100 points of one surface lie from the other surface, the larger of both directions [2]. A dash means that there is
# no number: a patient without a tumour has none to overlap with, and whatever is predicted there is a false alarm.

# %% tags=["choice"]
choice(
    "04.B",
    "What mean Dice do you expect at the hospital that was held out?",
    "above 0.5 for pancreas and tumour",
    "above 0.5 for the pancreas only",
    "not even above 0.5 for the pancreas",
)

# %%
import numpy as np

from dualtask_lite.engine.judging.evaluation import evaluate_cascades, score
from dualtask_lite.engine.judging.evaluation_folder import write_evaluation
from dualtask_lite.engine.predict import in_cascade_order
from dualtask_lite.engine.run import load_model, load_models

reference = in_cascade_order(load_models("reference"))
own = [load_model(folder / stage) for stage in stages]
models = own if data_dir else [reference[0], *own]
cascades = {"this lesson": models} if data_dir else {"this lesson": models, "reference": reference}
away = dict(zip(cascades, evaluate_cascades([*cascades.values()], split.test), strict=True))
evaluation = away["this lesson"]
write_evaluation(evaluation, folder / "evaluation")
pancreas = [row for row in evaluation.rows if row["target"] == "pancreas"]
tumour = [row for row in evaluation.rows if row["target"] == "tumour"]
columns = ("case", "dice", "hd95_mm", "volume_ml_truth", "volume_ml_prediction")
Table(tumour, f"Tumours of centre {held_out}, never seen in training", columns=columns)

# %%
figures.scores(evaluation.rows, by="target")

# %% tags=["outcome"]
outcome("04.B")

# %% [markdown]
# ## At home and away, after a minute and after an hour
#
# Is that the new hospital, or is the model just not trained enough? Two comparisons answer it. **At home** means patients
# of the training hospitals that no model has learned from; **away** means the held-out hospital. First the pancreas, whose
# stage was trained for long:

# %%
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.predict import predict_scan

new_patients = [make_case(centre, 100 + n) for centre in "AB" for n in range(2)]
scans = [case.load() for case in (split.validation if data_dir else new_patients)]
groups = {}
for name, chosen in cascades.items():
    found = [score(scan, predict_scan(chosen, scan), ["pancreas", "tumour"]) for scan in scans]
    groups[f"{name}, at home"] = [row for of_one in found for row in of_one]
    groups[f"{name}, away"] = away[name].rows
compared = [{"model": name, **row} for name, rows in groups.items() for row in rows]
# The pancreas stage is the same in both models, so one of them suffices.
where = {"this lesson, at home": "at home", "this lesson, away": "away"}
pancreas_rows = [r for r in compared if r["target"] == "pancreas" and r["model"] in where]
figures.scores([{**r, "hospital": where[r["model"]]} for r in pancreas_rows], by="hospital")

# %% [markdown]
# Then the tumour. Beside the model of this lesson, which had less than a minute, stands the reference model's second stage, which had
# most of an hour, behind the same first stage.

# %% tags=["choice"]
choice(
    "04.C",
    f"For the model {[*cascades][-1]!r}: where is the mean Dice of the tumour higher?",
    "at home",
    "away",
    "about the same: less than 0.05 apart",
)

# %%
figures.scores([row for row in compared if row["target"] == "tumour"], by="model")

# %% [markdown]
# And what goes wrong: a tumour of which nothing was marked is *missed*, anything marked in a patient without a tumour is a
# *false alarm*. Who marks much detects many tumours by chance, so the marked volume stands beside:

# %%
from dualtask_lite.show import tables

tables.failures([row for row in compared if row["target"] == "tumour"], by="model")

# %% tags=["outcome"]
outcome("04.C")

# %% [markdown]
# Compare first down the columns, then across the models: a difference between home and away is what a new hospital costs,
# and a model that is as poor at home as away has not learned enough to show it. With so few patients, and with other
# tumours in C, the tumour may even score higher away. So the claim needs a fair test with many training runs: lesson 05b reads
# one, after [lesson 05](05_cross_dataset_evaluation.ipynb) has explained how it is done.

# %% [markdown]
# ### Exercise 2
#
# An average hides its failures. What is the **median** Dice over `pancreas`, the list with the rows of
# that target (the table above shows those of the tumour)? Leave out the cases whose Dice is not a number (`math.isnan`).

# %% tags=["exercise", "blank"]
median_dice = ...

# %% tags=["exercise", "solution"]
import math
import statistics

median_dice = statistics.median(row["dice"] for row in pancreas if not math.isnan(row["dice"]))

# %% tags=["exercise", "wrong"]
import statistics

median_dice = statistics.median(row["hd95_mm"] for row in pancreas)

# %% tags=["check"]
check("04.2", median_dice)

# %% [markdown]
# ## One prediction
#
# The median case, by Dice, of the tumours that were detected. Pancreas and tumour are both outlined in magenta where they are
# predicted. Below: the distance that the second head regressed, in mm.

# %%
judged = sorted((row for row in tumour if row["dice"] > 0), key=lambda row: row["dice"])
name = judged[len(judged) // 2]["case"] if judged else split.test[0].id
scan = next(case for case in split.test if case.id == name).load()
prediction = predict_scan(models, scan)
figures.orthogonal(scan, prediction=prediction.mask, distance=prediction.distance_mm)

# %% [markdown]
# Here it is slice by slice, and as a page in 3D that opens in any browser, also without a network. In JupyterLab, find
# the file in the list on the left, right-click it and choose *Open in New Browser Tab*.

# %%
from dualtask_lite import show

print(show.page(scan, prediction.mask, folder / f"{scan.id}_3d.html"))
show.slices(scan, prediction=prediction.mask, distance=prediction.distance_mm)

# %% [markdown]
# The prediction is kept as files that any viewer opens, on the grid of the input.

# %%
for what, volume in (("seg", prediction.mask), ("distance", prediction.distance_mm)):
    print(scan.save(volume, folder / f"{scan.id}_{what}.nii.gz"))
picture = figures.preview(scan, prediction.mask, prediction.distance_mm)
print(picture.save(folder / f"{scan.id}.png"))

# %% [markdown]
# ### Exercise 3
#
# How deep, in mm, does the distance head say that its deepest voxel lies? The
# distance is `prediction.distance_mm`, negative inside; give a positive number.

# %% tags=["exercise", "blank"]
deepest = ...

# %% tags=["exercise", "solution"]
deepest = -prediction.distance_mm.min()

# %% tags=["exercise", "wrong"]
deepest = prediction.distance_mm.min()

# %% tags=["check"]
check("04.3", deepest)

# %% [markdown]
# ## What is known now
#
# - Mask, distance and both conversions train together. The views, the contrast and the slices were not part of this run.
# - What a new hospital costs is the difference of two means of the same model, at home and away. For the tumour, a minute of training cannot show it. The claim is untested.
#
# ## Summary
#
# - Two heads, one network: a mask, and a distance in mm; each is also judged in the other's terms.
# - The test centre stayed unseen. Its Dice describes this hospital; another one may differ.
# - A model that is poor at home cannot show what a new hospital costs: train long enough before you compare methods.
# - One run with one seed proves little: [lesson 05](05_cross_dataset_evaluation.ipynb) compares variants of the method over centres and seeds.

# %% [markdown]
# ## References
#
# 1. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer
#    Segmentation in CT Scans*, 2025, [arXiv:2505.01644](https://arxiv.org/abs/2505.01644).
# 2. Maier-Hein and others, *Metrics reloaded*, Nature Methods 21, 2024,
#    [doi:10.1038/s41592-023-02151-z](https://doi.org/10.1038/s41592-023-02151-z): which number says
#    what.

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    held_out=held_out,
    steps={stage: len(rows) for stage, rows in curves.items()},
    training_seconds=round(sum(float(rows[-1]["seconds"]) for rows in curves.values())),
    pancreas_dice=round(float(np.nanmean([row["dice"] for row in pancreas])), 3),
    tumour_dice=round(float(np.nanmean([row["dice"] for row in tumour])), 3),
    cases=len(split.test),
)
