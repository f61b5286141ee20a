# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 Real data, real GPUs: the same commands on patients' CT
#
# So far everything ran on made-up hospitals and a laptop. These are the steps for public CT, or for your own: check it,
# estimate what training costs, train, predict, and hand the result over. Where no CT is given, as on the pages that come with the
# kit, made-up hospitals stand in for it, and the same cells run.
#
# **Objectives.** After this lesson you can
#
# - bring CT into a layout that the kit reads, and find what is wrong with it before training;
# - estimate memory and hours of a training from its settings;
# - train on one or many GPUs, resume, predict a scan, and hand it over as NIfTI or as a MONAI bundle.
#
# **Prerequisites.** [Lesson 04](04_the_framework.ipynb), and a terminal.
#
# **Time and memory.** {measured} 30 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases, say Task07_Pancreas; empty: see below
overrides: dict = {}  # other values for settings, such as {"optimiser.steps": 50}

# %% [markdown]
# ## Where real CT comes from
#
# `dualtask data get NAME` fetches a known source, resumes when the line was cut, and uses nothing whose checksum is wrong.
# Without a network, fetch the files by hand and give the folder. Mind the licences: some forbid commercial use.

# %%
from dualtask_lite.cases.sources import find_cases, is_here, sources
from dualtask_lite.show.lesson import check, choice, new_folder, outcome, run_manifest
from dualtask_lite.show.lesson_cases import lesson_cases
from dualtask_lite.show.table import Table

columns = ("name", "cases", "size_gb", "licence", "hospitals")
Table([vars(source) for source in sources().values()], "Known sources", columns, digits=1)

# %% [markdown]
# PANORAMA **includes** cases of `msd` and `nih`. Train on it and test on those, and you test on patients that were
# seen. The kit leaves shared cases out when the sets are paired, and refuses a test case whose voxels were in the
# training, whatever its name.

# %% [markdown]
# ## A folder that the kit reads
#
# The layout of the Medical Segmentation Decathlon [4] (and of nnU-Net): `imagesTr/NAME.nii.gz` beside `labelsTr/NAME.nii.gz`;
# one such folder a hospital. A folder of [NIfTI](glossary.md#nifti) files or of [DICOM](glossary.md#dicom) series
# without labels can be predicted.
#
# This lesson runs on `data_dir` when it is set; else on real data in the folder that `DUALTASK_DATA` names: a source
# that was fetched there, or a folder in this layout. Else made-up hospitals stand in for the real ones.

# %%
from pathlib import Path

import numpy as np

from dualtask_lite.cases.phantom import make_phantom
from dualtask_lite.resources import cache_folder

work = new_folder("07")
fetched = [s.name for s in sources().values() if s.how == "fetched" and is_here(s)]
if data_dir or (cache_folder() / "imagesTr").is_dir():
    given = Path(data_dir or cache_folder())
else:
    given = ",".join(fetched) or make_phantom(work / "hospitals", cases=3, seed=seed)

# %%
every = lesson_cases(str(given))
centres = sorted({case.centre for case in every})
few_of = {name: [case for case in every if case.centre == name][:8] for name in centres}
cases = [case for of_centre in few_of.values() for case in of_centre]  # to be quick
Table(
    [
        {
            "hospital": case.centre,
            "case": case.id,
            "voxels": " x ".join(map(str, scan.shape)),
            "mm": " x ".join(f"{mm:.2g}" for mm in scan.spacing),
            "tumour (ml)": (scan.label == 2).sum() * np.prod(scan.spacing) / 1000,
        }
        for case in cases[:4]
        for scan in [case.load()]
    ],
    f"The first of {len(every)} labelled cases",
    digits=1,
)

# %% [markdown]
# The last case of the folder, which the table may not show, goes to the **reference model**. That model learned from two made-up hospitals, A and B, and has
# never met a patient.

# %% tags=["choice"]
choice(
    "07.A",
    "How well will it mark the pancreas of this case?",
    "Dice below 0.5",
    "Dice between 0.5 and 0.8",
    "Dice above 0.8",
)

# %%
from dualtask_lite.engine.judging.evaluation import score
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.run import load_models

looked_at = cases[-1].load()
marked = predict_scan(load_models("reference"), looked_at)
columns = ("target", "dice", "volume_ml_truth", "volume_ml_prediction")
rows = score(looked_at, marked, ["pancreas", "tumour"])
Table(rows, f"The reference model on case {looked_at.id} of {looked_at.centre}", columns=columns)

# %% tags=["outcome"]
outcome("07.A")

# %% [markdown]
# One case is one case. If it is made up, this number says nothing about patients; on real CT the model may fail, and
# a table like this one says how badly.

# %%
from dualtask_lite import show

show.slices(looked_at, prediction=marked.mask)

# %% [markdown]
# ## Look before you train
#
# What follows runs the command line, as a terminal would. In a terminal write `dualtask data check FOLDER`.

# %%
import json
import subprocess
import sys


def dualtask(*words):
    """Run a command of the kit; returns its exit code and what it printed."""
    command = [sys.executable, "-m", "dualtask_lite", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


# %% [markdown]
# Real folders are never clean. So three files of a small folder are spoiled here, as it happens: a download was cut, an
# export wrote metres for millimetres, and a label lies on another grid.

# %% tags=["choice"]
choice(
    "07.B",
    "How many of the three will the check report as unusable?",
    "one: the download that was cut",
    "two: what is in metres is a valid file",
    "all three",
)

# %%
import nibabel as nib

spoiled = make_phantom(work / "spoiled", cases=2, seed=seed + 1, size=(48, 48, 24))
first, second, third = find_cases(spoiled)[:3]
cut = first.image.read_bytes()
first.image.write_bytes(cut[: len(cut) // 2])
image = nib.load(second.image)
in_metres = np.diag([0.001, 0.001, 0.001, 1]) @ image.affine
nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), in_metres), second.image)
label = nib.load(third.label)
nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), third.label)

code, output, complaint = dualtask("data", "check", spoiled, "--json")
findings = json.loads(output)["findings"]
Table(
    [{"case": f["case"], "level": f["level"], "remedy": f["remedy"]} for f in findings],
    f"What the check found (exit code {code})",
)

# %% tags=["outcome"]
outcome("07.B")

# %% [markdown]
# ### Exercise 1
#
# Which cases of the folder **can** be used? Make a **sorted list of the ids** of all cases without a finding whose `level` is
# `"error"`. `findings` is a list of dictionaries, and `find_cases(spoiled)` gives the cases of the folder, each with its `id`.

# %% tags=["exercise", "blank"]
usable = ...

# %% tags=["exercise", "solution"]
bad = {finding["case"] for finding in findings if finding["level"] == "error"}
usable = sorted(case.id for case in find_cases(spoiled) if case.id not in bad)

# %% tags=["exercise", "wrong"]
usable = sorted({finding["case"] for finding in findings if finding["level"] == "error"})

# %% tags=["check"]
check("07.1", usable)

# %% [markdown]
# ## What will it cost?
#
# **Memory** first, as too little of it ends a run before it begins. The kit rehearses a step with tensors that have
# shapes and no values, and counts the bytes that are alive. With `recompute` it keeps fewer features and computes
# them twice, which changes no result.

# %% tags=["choice"]
choice(
    "07.C",
    "How much memory will recompute save in the profile gpu?",
    "next to nothing",
    "up to half",
    "more than half",
)

# %%
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.training.memory import step_bytes

memory = []
for name in ("colab", "gpu", "paper"):
    for recompute in (False, True):
        half = {"machine.precision": "bf16-mixed", "machine.recompute": recompute}
        plan = Settings.of(name, {"stage": "tumour-coarse", **half})
        shape = " x ".join(map(str, plan.sample.patch))
        memory.append(
            {
                "profile": name,
                "recompute": recompute,
                "patch": shape,
                "samples x views": plan.optimiser.batch * plan.views.count,
                "GB on a card": step_bytes(plan, "cuda") / 1e9,
            }
        )
Table(memory, "Estimated memory of a training step, tumour-coarse", digits=2)

# %% tags=["outcome"]
outcome("07.C")

# %% [markdown]
# ### Exercise 2
#
# Your card has 12 GB. Which profiles of the table need **at most 12 GB without** recompute? Give a set of names.

# %% tags=["exercise", "blank"]
fit = ...

# %% tags=["exercise", "solution"]
fit = {row["profile"] for row in memory if row["GB on a card"] <= 12 and not row["recompute"]}

# %% tags=["exercise", "wrong"]
fit = {row["profile"] for row in memory if row["GB on a card"] <= 12}  # also with recompute

# %% tags=["check"]
check("07.2", fit)

# %% [markdown]
# **Time** is arithmetic. At width 32 a training step takes about 1.5 million floating-point operations (FLOP) a voxel, forward and
# backward; other widths go with the square. A card does not reach the peak of its data sheet [1, 2, 3], and a small kernel
# reaches less of it than a large one. Assume a tenth; measure your own with `dualtask bench step`.

# %%
FLOP_A_VOXEL = 1.51e6  # at width 32, forward and backward
PEAKS = {"T4 (fp16)": 65e12, "A100 (bf16)": 312e12, "H100 (bf16)": 989e12}  # data sheets
REACHED = 0.1  # an assumption: share of the peak


def hours(plan, peak):
    """Estimated hours of one stage on one card: its steps, and its validations without flips."""
    images = plan.optimiser.steps * plan.optimiser.batch * plan.views.count
    validations = plan.optimiser.steps // plan.machine.validate_every
    # A prediction is the third of a step that goes forward, on a case that is as large as a patch.
    images += validations * plan.machine.validate_cases / 3
    voxels = np.prod(plan.sample.patch) * images
    flop = voxels * FLOP_A_VOXEL * (plan.network.width / 32) ** 2
    return float(flop / (REACHED * peak) / 3600)


plans = {name: Settings.of(name, {"stage": "tumour-coarse"}) for name in ("colab", "gpu", "paper")}
Table(
    [
        {"profile": name, **{card: hours(plan, peak) for card, peak in PEAKS.items()}}
        for name, plan in plans.items()
    ],
    "Estimated hours of the stage tumour-coarse on one card, not measured",
    digits=2,
)

# %% [markdown]
# **Money** is hours multiplied by the price of an hour, which only your provider knows. Put in what is asked today, in your currency,
# and run the cell again. The card with the lowest price of an hour need not be the cheapest for a training.

# %%
PRICES: dict = {}  # card -> price of an hour, such as {"A100 (bf16)": ...}
costs = [
    {"card": card} | {name: price * hours(plan, PEAKS[card]) for name, plan in plans.items()}
    for card, price in PRICES.items()
]
Table(costs, "Cost of the stage tumour-coarse by profile") if costs else print("No price given.")

# %% [markdown]
# ### Exercise 3
#
# How many **hours** do all **four** stages of the `gpu` profile take on an A100, if each takes as long as tumour-coarse? Use
# `hours` and `PEAKS["A100 (bf16)"]`.

# %% tags=["exercise", "blank"]
cascade_hours = ...

# %% tags=["exercise", "solution"]
cascade_hours = 4 * hours(plans["gpu"], PEAKS["A100 (bf16)"])

# %% tags=["exercise", "wrong"]
cascade_hours = hours(plans["gpu"], PEAKS["A100 (bf16)"])  # one stage

# %% tags=["check"]
check("07.3", cascade_hours)

# %% [markdown]
# ## Train
#
# On this machine, on a coarse grid and with few steps, so that it is quick: the way is the same and the model is not worth much.

# %%
few = {"seed": seed, "optimiser.steps": 50, "optimiser.batch": 2, "optimiser.lr": 0.01}
few |= {"sample.spacing": [7, 7, 7], "sample.patch": [24, 24, 16]}
few |= {**overrides, "data.cases": [case.id for case in cases]}
words = [word for key, value in few.items() for word in ("--set", f"{key}={json.dumps(value)}")]
held_out = ["--held-out", centres[-1]] if len(centres) > 1 else []
code, output, complaint = dualtask(
    "train", "--profile", profile, "--stage", "pancreas-coarse", "--source", given, *held_out,
    "--out", work / "run", *words,
)  # fmt: skip
print(output, complaint)
manifest = json.loads((work / "run" / "manifest.json").read_text())

# %% [markdown]
# On a machine with a GPU, in a terminal, the whole [cascade](glossary.md#cascade):
#
# ```bash
# dualtask data get msd
# dualtask train --profile gpu --source msd \
#     --stage pancreas-coarse --stage pancreas-fine --stage tumour-coarse --stage tumour-fine
# dualtask train --resume runs/gpu-cascade     # after a cut
# ```
#
# On several, the samples of a step are shared among them, so that a step has as many samples on any number of cards; with dropout (features that are
# set to 0 at random) or the contrast the result differs between numbers of cards:
#
# ```bash
# torchrun --nproc-per-node=4 -m dualtask_lite train --profile gpu --source msd --set optimiser.batch=4
# ```
#
# On Colab choose a GPU runtime and set `profile = "colab"` above. A course on a JupyterHub keeps the data once, in a folder
# that all can read, and sets `DUALTASK_DATA` to it.

# %% [markdown]
# ## A cut, and a terminal
#
# A long training run will be cut some day: the power fails, a kernel dies. It goes on from its last
# **[checkpoint](glossary.md#checkpoint)**. Is the model the same in the end? Try it, with a few steps
# on a few cases: it will be worth nothing, but its weights can be compared. A checkpoint is kept half-way, and
# the cut comes a step later, which is lost:

# %% tags=["choice"]
choice(
    "07.D",
    "How will the weights of the run that was cut differ from those of the whole run?",
    "not at all",
    "in the last digits",
    "clearly",
)

# %%
from dualtask_lite.engine.training.train import train

count = 6
short = Settings.of(
    "laptop",
    {
        "stage": "pancreas-coarse",
        "seed": seed,
        "data.source": "phantom",
        "data.cases": ["A_000", "B_000"],
        "data.validation": 0,
        "sample.spacing": [8, 8, 8],
        "optimiser.steps": count,
        "optimiser.batch": 2,
        "machine.checkpoint_every": count // 2,
    },
)


def power_cut(row):
    """Break the training off, as a dying kernel would."""
    if row["step"] == count * 3 // 4:
        raise KeyboardInterrupt


# %%
trial = work / "trial"
train(short, trial / "whole")
try:
    train(short, trial / "cut", callback=power_cut)
except KeyboardInterrupt:
    print("cut; left are", ", ".join(sorted(path.name for path in (trial / "cut").iterdir())))

# %% [markdown]
# The run that was cut goes on in a terminal. Its settings were kept beside its checkpoint, so the command is short:

# %%
code, output, complaint = dualtask("train", "--resume", trial / "cut")
print(output, complaint)

# %%
from dualtask_lite.engine.run import load_model


def weights(run):
    """All weights of a run."""
    return [part.detach().cpu() for part in load_model(trial / run).net.parameters()]


pairs = zip(weights("whole"), weights("cut"), strict=True)
difference = max(float((whole - resumed).abs().max()) for whole, resumed in pairs)
print("largest difference of any weight:", difference)

# %% tags=["outcome"]
outcome("07.D")

# %% [markdown]
# On one and the same CPU it is exactly 0, since whatever is random in a step follows from the seed and the number of the
# step. A GPU adds numbers in another order each time, and may differ in the last digits.

# %% [markdown]
# ## Predict, and hand it over
#
# A file, a folder, or a DICOM series goes in. Out come the labels and the distance in mm **on the grid of the input**, a
# report and a picture. Any viewer lays them over the CT.

# %%
scan = few_of[centres[-1]][0]
code, output, complaint = dualtask("predict", work / "run", scan.image, "-o", work / "out")
for file in sorted((work / "out").iterdir()):
    print(file.name, f"{file.stat().st_size / 1000:.0f} kB")

# %%
from dualtask_lite.show import figures

name = next((work / "out").glob("*_seg.nii.gz")).name.removesuffix("_seg.nii.gz")
ct, found = nib.load(scan.image), nib.load(work / "out" / f"{name}_seg.nii.gz")
same_grid = ct.shape[:3] == found.shape and np.array_equal(ct.affine, found.affine)
print("same grid as the CT:", same_grid)
loaded = scan.load()
figures.orthogonal(loaded, prediction=nib.as_closest_canonical(found).get_fdata().astype(np.uint8))

# %% [markdown]
# ### Exercise 4
#
# How many ml of pancreas did the model find? Read it from `found`: label 1, and the size of a voxel is
# `found.header.get_zooms()` in mm.

# %% tags=["exercise", "blank"]
pancreas_ml = ...

# %% tags=["exercise", "solution"]
labels = np.asarray(found.dataobj)
pancreas_ml = (labels == 1).sum() * np.prod(found.header.get_zooms()) / 1000

# %% tags=["exercise", "wrong"]
pancreas_ml = np.prod(found.shape) * np.prod(found.header.get_zooms()) / 1000  # the whole volume

# %% tags=["check"]
check("07.4", pancreas_ml)

# %% [markdown]
# Another group may use MONAI and not this kit's command line. For them `dualtask export`, or the same in Python, writes a
# **bundle**, which `python -m monai.bundle run` executes with the same result:

# %%
from dualtask_lite.engine.export import export_bundle

export_bundle(load_models(work / "run"), work / "bundle")
for file in sorted(path for path in (work / "bundle").rglob("*") if path.is_file()):
    print(file.relative_to(work / "bundle"))

# %% [markdown]
# **For teaching and research, not for diagnosis.** A model of this kit has no approval as a medical device, and the
# lessons before this one show why a good score in one hospital is no promise for the next.

# %% [markdown]
# ## What is known now
#
# - The claim is about patients, and the verdict of lesson 05b about made-up hospitals. On patients it is not tested here.
# - What such a test needs is known: folders that pass the check, memory, and hours on a card for each training run.
#
# ## Summary
#
# - Check a folder before anything is trained; a bad case is named with what to do, and the good ones stay usable.
# - Memory is estimated before a run starts, and time is arithmetic. Assumptions stay assumptions until measured.
# - The same command trains on a laptop, on a card, and on many; a cut run goes on to the same weights.
# - What leaves the kit lies on the grid of the input, as NIfTI or as a MONAI bundle.

# %% [markdown]
# ## References
#
# 1. NVIDIA, *T4 tensor core GPU*, data sheet, [nvidia.com](https://www.nvidia.com/en-us/data-center/tesla-t4/).
# 2. NVIDIA, *A100 tensor core GPU*, data sheet, [nvidia.com](https://www.nvidia.com/en-us/data-center/a100/).
# 3. NVIDIA, *H100 tensor core GPU*, data sheet (dense, without sparsity),
#    [nvidia.com](https://www.nvidia.com/en-us/data-center/h100/).
# 4. Antonelli and others, *The Medical Segmentation Decathlon*, Nature Communications 13, 2022,
#    [doi:10.1038/s41467-022-30695-9](https://doi.org/10.1038/s41467-022-30695-9).

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    errors_found=sum(finding["level"] == "error" for finding in findings),
    source=Path(given).name,
    cases=len(cases),
    steps=manifest["steps"],
    same_grid=bool(same_grid),
    difference=difference,
    bundle=(work / "bundle" / "configs" / "metadata.json").exists(),
)
