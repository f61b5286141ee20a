# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 Start here: a claim, and three hospitals to test it on
#
# What the paper claims, what the task is, what the data look like, and whether this machine can run the lessons.
#
# **Objectives.** After this lesson you can
#
# - say what a model has to find in an abdominal CT, and why that is hard;
# - name three ways in which the CT of one hospital differs from that of another;
# - read voxel sizes, volumes in ml and attenuation in HU from a case.
#
# **Prerequisites.** Some Python. No medical knowledge.
#
# **Time and memory.** {measured} 20 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases; empty: the embedded three-centre data

# %% [markdown]
# ## The claim
#
# A paper [3] says: take a network that marks pancreatic tumours in CT, let it also predict a distance, let the two
# answers teach each other, show it each image with two appearances, and it will mark tumours of other hospitals better. A mark
# is scored by **[Dice](glossary.md#dice)**: twice the overlap of the marked and the true tumour, divided by the sum of their
# volumes; 1 is perfect, and 0.01 is called a *point*. The abstract says that segmentation *across lesions* improves by 9.51 %, but
# neither compared with what, nor in which score. This course reads the claim as **9.5 points more Dice (0.095) with the method than without it, on tumours of
# a hospital that was not in the training**. The authors could not share two of their three data sets, so nobody can repeat
# their table.
#
# This course is the investigation. Lessons 01 to 03 rebuild the parts of the method and look for the traps in each.
# Lesson 04 puts them together, lesson 05 asks how a claim is tested, lesson 05b tests this one, lesson 06 looks at where
# the method is wrong, and in the last lesson you try to do better on a hospital on which nothing was chosen. Each lesson
# ends with what is known by then.

# %% [markdown]
# ## The task
#
# Pancreatic cancer is mostly found late: in the United States the five-year relative survival is 13 % [1]. The best chance is an operation, and whether that is possible depends on how
# far the tumour reaches and on which vessels it touches. So a radiologist measures it in CT and reports
# its size in three directions and its contact with each vessel [2]. Many tumours are small and some outgrow the organ, the
# border is faint, and the grey value is often close to that of the organ around it.
#
# A model that **[segments](glossary.md#segmentation)** says for every [voxel](glossary.md#voxel) (a small box of the volume) whether it belongs to the
# tumour. A model that does well on the hospital that it learned from may do worse on the next one.
# The method of the paper was made for that: besides the [mask](glossary.md#mask), the network predicts for
# every voxel its **[signed distance](glossary.md#signed-distance)** to the tumour's surface in mm, and the two answers teach each
# other.

# %% [markdown]
# ## The method in one picture
#
# A *patch* is a block that is cut out of the CT, a *view* the same patch with another appearance. Both views go through one
# network. Its *encoder* turns them, coarser and coarser, into *features* (numbers that describe the tissue), down to the
# *bottleneck*, where the grid is coarsest; the *decoder* goes back to the grid of the patch. Its last layers, the two *heads*,
# give a mask and a distance. Each output is converted into the other, both views must give the same outputs, and features of
# the tumour's core are kept apart from those around it. Lessons 01 to 03 explain one part each,
# [lesson 04](04_the_framework.ipynb) puts them together.

# %% tags=["summary"]
from dualtask_lite.show import figures
from dualtask_lite.show.lesson_cases import lesson_cases

cases = lesson_cases(data_dir, hospitals=2, tumours=1)
loaded = (case.load() for case in cases)
figures.framework(next(scan for scan in loaded if scan.has_tumour))

# %% [markdown]
# ## The data
#
# A **[case](glossary.md#case)** is one [CT](glossary.md#computed-tomography) and its label, in the layout of a public set [4]: 0 background, 1 pancreas, 2 tumour. The embedded cases are
# synthetic, made from a [seed](glossary.md#seed), so that they can be shared. They come from three made-up hospitals
# ([centres](glossary.md#centre)). `data/centres.yaml` has every number that sets a centre apart, with its published
# source where there is one.
#
# ## Three centres side by side
#
# One case of each centre with a tumour. Upper row: **axial** planes, seen from the feet, so that the
# patient's right is on your left (radiologists always do it this way). Lower row: **coronal** planes,
# seen from the front. The letters say right, left, anterior (front), posterior (back), superior (head)
# and inferior (feet).

# %% tags=["summary"]
from dualtask_lite.show.lesson import check, choice, outcome, run_manifest
from dualtask_lite.show.table import Table

centres = sorted({case.centre for case in cases})
examples = []
for name in centres:
    loaded = (case.load() for case in cases if case.centre == name)
    examples.append(next(scan for scan in loaded if scan.has_tumour))
figures.centres_side_by_side(examples)

# %% [markdown]
# The same organ looks brighter or darker, sharper or noisier, and the slices are thicker or thinner: that is the
# scanner, the timing of the contrast agent, and each hospital's protocol. But the hospitals also treat **other
# patients**: one sees more cysts than the next, one sees larger tumours. Scanner and disease change together, so a
# score that is lower in a new hospital may be lower for either reason. Keep the question; lesson 06 comes back to it.

# %% [markdown]
# ### Exercise 1
#
# Slice thickness is the [spacing](glossary.md#spacing) along the third axis, `scan.spacing[2]`, in mm. Which centre has the
# thickest slices? Answer with its name, a string.

# %% tags=["exercise", "blank"]
thickest = ...

# %% tags=["exercise", "solution"]
thickest = max(examples, key=lambda scan: scan.spacing[2]).centre

# %% tags=["exercise", "wrong"]
thickest = min(examples, key=lambda scan: scan.spacing[2]).centre

# %% tags=["check"]
check("00.1", thickest)

# %% [markdown]
# ## One case, in three planes and in mm
#
# The **sagittal** plane looks from the side. The second row is what a distance head learns to predict: blue
# voxels lie inside the tumour (negative), red ones outside, and white is its surface. A mask only says
# in or out. The distance also says *how far*.

# %% tags=["choice"]
choice(
    "00.A",
    "How many voxels of this CT belong to the tumour?",
    "more than 3 of 100",
    "between 3 of 1000 and 3 of 100",
    "fewer than 3 of 1000",
)

# %%
from dualtask_lite.method.distance import signed_distance

scan = examples[0]
distance = signed_distance(scan.label == 2, scan.spacing)
figures.orthogonal(scan, distance=distance)

# %% tags=["outcome"]
outcome("00.A")

# %% [markdown]
# ### Exercise 2
#
# How large is the tumour of `scan`, in ml? One ml is 1000 mm³, and a voxel's volume is the product of
# its three spacings.

# %% tags=["exercise", "blank"]
tumour_ml = ...

# %% tags=["exercise", "solution"]
import math

tumour_ml = (scan.label == 2).sum() * math.prod(scan.spacing) / 1000

# %% tags=["exercise", "wrong"]
tumour_ml = (scan.label == 2).sum() / 1000

# %% tags=["check"]
check("00.2", tumour_ml)

# %% [markdown]
# ## The same case, slice by slice
#
# Move the slider with the mouse or the arrow keys, or turn the wheel over the picture. The boxes switch
# the outlines on and off.

# %%
from dualtask_lite import show

show.slices(scan, distance=distance)

# %% [markdown]
# ## The same case in 3D
#
# Turn it with the mouse, zoom with the wheel. The boxes switch the structures on and off. Where no 3D
# view can be shown, as in a notebook that was saved and opened again without running it, you see three planes instead.

# %%
show.volume3d(scan)

# %% [markdown]
# ## Attenuation by organ and centre
#
# CT measures attenuation in **[Hounsfield units](glossary.md#hounsfield-unit)** (HU): air is -1000, water 0, soft tissue with contrast
# agent about 50 to 150. Here are the voxels of a few cases, a row for each centre. Look at how much tumour and pancreas
# overlap within a centre, and how the same organ moves from centre to centre.

# %%
some = []
for example in examples:  # with three more cases of its centre
    others = [c for c in cases if c.centre == example.centre and c.id != example.id]
    some += [example, *(case.load() for case in others[:3])]
figures.histogram(some)

# %% [markdown]
# Suppose that a centre calls every voxel of the organ *tumour* that is darker than a **threshold**, and
# puts it halfway between the mean HU of its own tumours and of its own pancreas. How well does that do at
# home, and how well elsewhere? The score is the *balanced accuracy*: the mean of the share of the tumour's voxels that are called right, and of the
# pancreas's; a coin reaches 50 %.

# %% tags=["choice"]
choice(
    "00.B",
    "How many points does a hospital lose at most with another's threshold?",
    "fewer than 2 points",
    "2 to 20 points",
    "more than 20 points",
)

# %%
import numpy as np


def hu(centre, value):
    """HU of all voxels with one label in the cases of one centre."""
    return np.concatenate([s.volume[s.label == value] for s in some if s.centre == centre])


middle = {name: float(hu(name, 1).mean() + hu(name, 2).mean()) / 2 for name in centres}
right = {  # home, elsewhere -> share called right (%)
    (home, at): 50 * ((hu(at, 2) < threshold).mean() + (hu(at, 1) >= threshold).mean())
    for home, threshold in middle.items()
    for at in centres
}
Table(
    [
        {"threshold of": home, "HU": threshold}
        | {f"right in {at} (%)": right[home, at] for at in centres}
        for home, threshold in middle.items()
    ],
    "One threshold for tumour against pancreas, at home and elsewhere",
    digits=0,
)

# %% tags=["outcome"]
outcome("00.B")

# %% [markdown]
# Read the table down a column, as each hospital has its own difficulty: another hospital's threshold is at best about as good as the
# hospital's own (on the diagonal), and can lose much. Where tumour and pancreas have nearly the same grey values, even its own
# threshold helps little. That [shift](glossary.md#domain-shift) between centres is the subject of the course.

# %% [markdown]
# ### Exercise 3
#
# By how many HU is the tumour of `scan` darker than its pancreas, on average (mean of the pancreas minus
# mean of the tumour)? `scan.volume` holds the HU.

# %% tags=["exercise", "blank"]
contrast = ...

# %% tags=["exercise", "solution"]
contrast = scan.volume[scan.label == 1].mean() - scan.volume[scan.label == 2].mean()

# %% tags=["exercise", "wrong"]
contrast = scan.volume[scan.label >= 1].mean() - scan.volume[scan.label == 2].mean()

# %% tags=["check"]
check("00.3", contrast)

# %% [markdown]
# ## Does this machine work?
#
# `dualtask doctor` looks at the versions, the device, the memory and the disk, and says which profile
# fits.

# %%
from dualtask_lite.engine.doctor import diagnose

print(diagnose().as_text())

# %% [markdown]
# ## What is known now
#
# - The claim, as this course reads it: 9.5 points more Dice with the method than without it, on tumours of a hospital that was
#   not in the training. Nothing is tested yet.
# - The obstacle is real: in a hospital, a threshold from elsewhere can mark clearly fewer voxels right than its own.
# - Two suspects for it, scanner and disease, which this lesson cannot tell apart.
#
# ## Summary
#
# - The task: find a lesion, often small and faint, in a small organ, as a mask and as a distance in mm.
# - Centres differ in spacing, noise and contrast; a model must hold where it did not learn.
# - All lengths are in mm and all volumes in ml, because voxels are not the same size everywhere.
#
# Next: [lesson 01](01_distance_regression.ipynb) measures distances, and teaches a network to predict them.

# %% [markdown]
# ## References
#
# 1. Siegel and others, *Cancer statistics, 2025*, CA: A Cancer Journal for Clinicians 75, 2025,
#    [doi:10.3322/caac.21871](https://doi.org/10.3322/caac.21871).
# 2. Al-Hawary and others, *Pancreatic ductal adenocarcinoma radiology reporting template: consensus
#    statement of the Society of Abdominal Radiology and the American Pancreatic Association*, Radiology 270,
#    2014, [doi:10.1148/radiol.13131184](https://doi.org/10.1148/radiol.13131184): what a report must say.
# 3. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer
#    Segmentation in CT Scans*, 2025, [arXiv:2505.01644](https://arxiv.org/abs/2505.01644).
# 4. Antonelli and others, *The Medical Segmentation Decathlon*, Nature Communications 13, 2022,
#    [doi:10.1038/s41467-022-30695-9](https://doi.org/10.1038/s41467-022-30695-9): the layout of the
#    labels.

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed},
    cases=len(cases),
    centres=centres,
    right_at_home=round(float(np.mean([right[name, name] for name in centres]))),
    right_elsewhere=round(float(np.mean([share for (a, b), share in right.items() if a != b]))),
)
