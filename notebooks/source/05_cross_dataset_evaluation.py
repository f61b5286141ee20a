# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 Cross-dataset evaluation: is the difference more than luck?
#
# A new term in the loss made the score better. Is that the term, or luck, or a wrong protocol? You run a
# small leave-one-centre-out comparison, conclude from it what may be concluded, and measure how wrong protocols flatter.
#
# **Objectives.** After this lesson you can
#
# - test on one hospital after training on the others, for each hospital in turn;
# - say whether a difference between two methods is more than luck, and for whom;
# - name a score that misleads, and a protocol that leaks, and say by how much.
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
overrides: dict = {}  # other values for settings, such as {"optimiser.steps": 50}

# %% [markdown]
# > **What you need.** Of statistics: mean, and what a sample of a population is; intervals and p-values are explained. Of
# > Python: loops over lists of dictionaries. Of PyTorch: nothing, as one call trains.
#
# ## Leave one centre out
#
# One centre is [held out](glossary.md#held-out): the model learns from the others and is then tested on it, once. Each
# centre takes its turn, so that the answer does not hang on one easy hospital. Everything that is chosen (settings,
# threshold, when to stop) is chosen on the training centres.

# %%
from dualtask_lite.cases.splits import leave_one_centre_out
from dualtask_lite.show.lesson import check, choice, new_folder, outcome, run_manifest, show_source
from dualtask_lite.show.lesson_cases import lesson_cases
from dualtask_lite.show.table import Table

every = lesson_cases(data_dir, hospitals=2, cases=2)
centres = sorted({case.centre for case in every})
cases = [c for name in centres for c in [c for c in every if c.centre == name][:4]]  # to be quick
turns = {name: leave_one_centre_out(cases, name, validation=0.0, seed=seed) for name in centres}
for name, split in turns.items():
    print(f"hold out {name}: train on {len(split.train)} cases, test on {len(split.test)}")

# %% [markdown]
# ## A small comparison, live
#
# Two **[arms](glossary.md#arm)** (variants of a method that are compared): the baseline learns the mask only; the other one learns the distance as
# well, and both conversions between the two. Same data, same number of steps, same [seed](glossary.md#seed). To be quick, only the first
# stage runs, which looks for the whole pancreas, on a coarse grid and for a few steps. In a terminal this is
# `dualtask ablate`.

# %%
from dualtask_lite.engine.judging.ablation import ablate
from dualtask_lite.engine.records import read_rows

folder = new_folder("05")
coarse = {"sample.spacing": [7, 7, 7], "sample.patch": [16, 16, 16]}
summary = ablate(
    profile,
    {**coarse, "optimiser.steps": 45, "optimiser.lr": 0.01, "data.validation": 0, **overrides},
    cases,
    folder / "comparison",
    stages=["pancreas-coarse"],
    arms=["segmentation", "conversion"],
    seeds=[seed],
    protocols=["leave-one-centre-out"],
    jobs=2,
)
rows = read_rows(folder / "comparison" / "cases.csv")
print(len(rows), "rows: one for each arm and case")

# %% tags=["choice"]
choice(
    "05.A",
    "In how many of the cases will the second arm have the higher Dice?",
    "in more than three quarters",
    "in between a quarter and three quarters",
    "in at most a quarter",
)

# %%
from dualtask_lite.show.figures import results

results.paired(rows, "conversion", target="pancreas")

# %% tags=["outcome"]
outcome("05.A")

# %% [markdown]
# Each dot is one case: its Dice with the baseline across, with the other arm up. Cases differ from each other by much more than
# methods do, so the **difference within the case** says more than the two means. This is why cases are compared in pairs. Look
# at the centres, too: an arm may be better in one hospital and worse in the next. And where all dots of a centre lie at the left
# edge, the baseline has learned nothing there yet: that shows which arm learns faster at first, not which is better in the end.

# %% [markdown]
# ### Exercise 1
#
# Compute the **mean paired difference** of the Dice: for each case, the Dice with `"conversion"` minus the Dice with
# `"segmentation"`; then the mean over the cases. `rows` is a list of dictionaries with `arm`, `case` and `dice` (text).

# %% tags=["exercise", "blank"]
mean_difference = ...

# %% tags=["exercise", "solution"]
dice = {(row["arm"], row["case"]): float(row["dice"]) for row in rows}
differences = [
    dice["conversion", c] - dice["segmentation", c] for arm, c in dice if arm == "conversion"
]
mean_difference = sum(differences) / len(differences)

# %% tags=["exercise", "wrong"]
dice = {(row["arm"], row["case"]): float(row["dice"]) for row in rows}
differences = [
    dice["conversion", c] - dice["segmentation", c] for arm, c in dice if arm == "conversion"
]
mean_difference = differences  # the mean is missing

# %% tags=["check"]
check("05.1", mean_difference)

# %% tags=["choice"]
choice(
    "05.B",
    "Vote: would these models show a difference of this sign on other patients, too?",
    "most likely",
    "perhaps not",
)

# %% [markdown]
# ## Is it luck?
#
# Imagine other patients of the same hospitals. How much would the mean difference change? The **bootstrap** draws as many
# cases again, with replacement, ten thousand times, and looks at how the mean moves. The interval in which 95 of 100 means lie is
# the answer. If it contains 0, chance alone could explain the difference.

# %%
from dualtask_lite.engine.judging.statistics import bootstrap_interval, holm, paired_differences
from dualtask_lite.rows import pairs

show_source(bootstrap_interval)

# %%
import numpy as np

found = pairs(rows, "conversion", "segmentation", "dice")
by_centre = paired_differences(found)
together = np.concatenate(list(by_centre.values()))
low, high = bootstrap_interval(list(by_centre.values()), seed=seed)
print(f"mean difference {together.mean():+.3f}, interval {low:+.3f} to {high:+.3f}")

# %% [markdown]
# With few cases this interval is too narrow. With three cases a centre it covers the true difference about 8 times in 10,
# and not 9.5 times; a centre with a single case has no interval at all.
#
# The interval speaks of other **cases**. It says nothing of another **[training run](glossary.md#training-run)** (another start of the
# weights, another order of the samples), and a run that goes badly moves all its cases together. Do it by hand first, with three training
# runs of two arms, tested on the same four patients. The table holds the differences of their Dice:
#
# | | patient 1 | patient 2 | patient 3 | patient 4 | mean |
# | --- | --- | --- | --- | --- | --- |
# | run 1 | +0.06 | +0.02 | +0.08 | +0.04 | +0.05 |
# | run 2 | +0.10 | +0.06 | +0.12 | +0.08 | +0.09 |
# | run 3 | -0.10 | -0.14 | -0.08 | -0.12 | -0.11 |
# | mean | +0.02 | -0.02 | +0.04 | 0.00 | **+0.01** |
#
# *Draw patients*, four columns with replacement: 3, 3, 1, 4 gives a mean of +0.025; 2, 2, 4, 1 gives -0.005. *Draw training runs*, two of the three rows (with so
# few runs, drawing as many as there are would make the interval too narrow): 1 and 2 gives +0.07, 1 and 3 gives -0.03, 3 and 3 gives -0.11. Which
# runs are drawn moves the mean far more than which patients. The **hierarchical** interval draws both. It is then widened by the factor
# of Student's t, because few runs tell little of how much runs differ. Conclusions need this interval:

# %%
from dualtask_lite.engine.judging.statistics import hierarchical_interval

show_source(hierarchical_interval)

# %%
from dualtask_lite.rows import Pair

by_hand = np.array(
    [[0.06, 0.02, 0.08, 0.04], [0.10, 0.06, 0.12, 0.08], [-0.10, -0.14, -0.08, -0.12]]
)
small = [
    Pair(("A", f"run {run + 1}"), "A", f"patient {patient + 1}", baseline=0, arm=difference)
    for (run, patient), difference in np.ndenumerate(by_hand)
]
for name, ends in {
    "the table above, over cases alone": bootstrap_interval([by_hand.mean(0)]),
    "the table above, over training runs and cases": hierarchical_interval(small),
    "the comparison, over cases alone": (low, high),
    "the comparison, over training runs and cases": hierarchical_interval(found, seed=seed),
}.items():
    print(f"{name}: {ends[0]:+.3f} to {ends[1]:+.3f}")

# %% [markdown]
# The comparison has three training runs of each arm, one for each hospital: one seed can hardly tell a good arm from a lucky start.
# And no interval speaks for a fourth hospital, because three are too few. For that, look at each centre by itself.
#
# A **[p-value](glossary.md#p-value)** asks the same in another way: if there were no difference, how often would
# chance alone give one as large as this? Ask twenty questions of the same data, and on average one p-value
# falls below 0.05 by chance. **Holm's correction** [3] corrects p-values for multiple comparisons:

# %%
show_source(holm)

# %% [markdown]
# ### Exercise 2
#
# Three arms were compared with the baseline; their p-values are 0.02, 0.04 and 0.30. With Holm's correction, **how many are
# still below 0.05**? You may use `holm`, or do it by hand.

# %% tags=["exercise", "blank"]
still_significant = ...

# %% tags=["exercise", "solution"]
still_significant = sum(p < 0.05 for p in holm([0.02, 0.04, 0.30]))

# %% tags=["exercise", "wrong"]
still_significant = 2

# %% tags=["check"]
check("05.2", still_significant)

# %% [markdown]
# ## What may one conclude?
#
# *Better* or *worse* only where the hierarchical interval excludes 0, the corrected p-value is below 0.05 **and** there are at
# least five training runs; else the data do not show it. The p-value comes from Wilcoxon's **signed ranks**: sort the differences by their size, and ask
# whether those in favour of one arm take the high ranks more often than chance would give them. Like the interval over cases it
# takes the cases as independent: where one training run moves all its cases together it is small, and shows nothing.

# %%
from dualtask_lite.engine.judging.statistics import conclusion

show_source(conclusion)

# %%
from dualtask_lite.engine.judging.statistics import compare
from dualtask_lite.show import tables

comparisons = compare(rows, "segmentation", "dice")
tables.differences(comparisons)

# %% tags=["outcome"]
outcome("05.B")

# %% [markdown]
# *Not shown* is a result, and not the same as *no effect*: a difference that is smaller than about half the width of the interval
# cannot be told from 0, and with so few training runs a true one of that size is usually missed. How many training runs it takes to show a difference of 0.05 with a probability of 80 % depends on how much
# they scatter. And where an arm is better in one centre and worse in another, whoever looks at the first alone
# publishes a gain.

# %%
for one in comparisons:
    print(f"{one['arm']}: {one['trainings']} runs, {one['trainings_needed']} needed to show 0.05")

# %% [markdown]
# ## When a score misleads
#
# [Dice](glossary.md#dice) counts voxels. [HD95](glossary.md#hd95) looks at the points that lie
# far away, except the farthest 5 %, and is not defined when nothing was found, so its mean leaves out the worst cases. **[ASSD](glossary.md#assd)** is the mean over all points instead.
# [NSD](glossary.md#nsd) asks what share of the surface is within a tolerance, here 2 mm. Choose it not below the size of a voxel: on the voxels of
# the made-up hospitals (2.5 mm and more) a tolerance of 2 mm counts only the surface points that match exactly. Move, grow, pierce and split a prediction, and
# see which score notices; [2] says for many tasks which score to choose:

# %%
from dualtask_lite.engine.judging.metrics import case_metrics
from dualtask_lite.show.controls import metric_explorer

metric_explorer(case_metrics)

# %% [markdown]
# ### Exercise 3
#
# A small and a large ball, both predicted **1 voxel too far to one side**. Which of the two has the **lower Dice**: `"small"` or
# `"large"`? Compute both with `case_metrics(prediction, truth, (1, 1, 1))["dice"]`.

# %%
grid = np.moveaxis(np.indices((48, 48, 48)), 0, -1) - 24
balls = {
    name: np.linalg.norm(grid, axis=-1) < radius
    for name, radius in {"small": 4, "large": 16}.items()
}

# %% tags=["exercise", "blank"]
lower_dice = ...

# %% tags=["exercise", "solution"]
scores = {n: case_metrics(np.roll(b, 1, axis=0), b, (1, 1, 1))["dice"] for n, b in balls.items()}
lower_dice = min(scores, key=scores.get)

# %% tags=["exercise", "wrong"]
lower_dice = "large"

# %% tags=["check"]
check("05.3", lower_dice)

# %% [markdown]
# Size is one way in which a score misleads. Here are more, all on a ball of 16 mm radius, with the score of
# each prediction:

# %%
truth = balls["large"]
from_middle = np.linalg.norm(grid, axis=-1)
speck = np.linalg.norm(grid - np.array([18, 18, 18]), axis=-1) < 4
predictions = {
    "1 mm too large all round": from_middle < 17,
    "a hole of 8 mm radius": truth & (from_middle >= 8),
    "right, and a speck 11 mm beside it": truth | speck,
    "a third is missing": truth & (grid[..., 0] < 4),
    "nothing found": np.zeros_like(truth),
}
spoiled = {name: case_metrics(mask, truth, (1, 1, 1)) for name, mask in predictions.items()}
Table(
    [{"prediction": name} | scored for name, scored in spoiled.items()],
    "One true ball, five predictions",
    columns=("prediction", "dice", "nsd_2mm", "hd95_mm"),
)

# %% [markdown]
# No score sees everything. Dice hardly notices a speck, and a rim of 1 mm costs it more than a hole, although no surgeon
# would mind the rim. On this grid of 1 mm NSD forgives the rim, and sees the hole and the missing third. HD95 tells these in mm, but looks past up to
# 5 of 100 points, and so past the speck; and it has nothing to say of the worst prediction of all. So report several
# scores, say how empty predictions are counted, and look at the pictures.

# %% [markdown]
# ## Three leaks
#
# [Leaks](glossary.md#leak) of such kinds were found in published work of many fields [4]. Each gives the model, or whoever tunes it, knowledge of the
# test cases that it will not have at the next hospital.
#
# **Cases split by slice.** Neighbouring slices of one patient look alike, so they must not be dealt at random into training and
# test.
#
# ### Exercise 4
#
# Four of five slices are training slices, dealt at random. **Which share of the test slices** has at least one of its two neighbours in the
# training? (Each neighbour is one with a probability of 0.8.)

# %% tags=["exercise", "blank"]
with_neighbour = ...

# %% tags=["exercise", "solution"]
with_neighbour = 1 - 0.2**2  # all but those without a neighbour in the training

# %% tags=["exercise", "wrong"]
with_neighbour = 0.8**2  # these have both

# %% tags=["check"]
check("05.4", with_neighbour)

# %% [markdown]
# Here both ways are measured on the same test slices, every second slice of some patients of one hospital. One network learns from the
# slices between them, the other from as many slices of other patients.

# %% tags=["choice"]
choice(
    "05.C",
    "By how much is the Dice too high when it trains on slices of the same patients?",
    "by less than 0.02",
    "by 0.02 to 0.1",
    "by more than 0.1",
)

# %%
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging.leaks import SLICE_SETTINGS, slice_leak, threshold_leak

of_one = [case for case in every if case.centre == centres[0]][:6]  # to be quick
by_slice = slice_leak(
    of_one,
    folder / "slices",
    settings=Settings.of("laptop", {**SLICE_SETTINGS, "seed": seed, **overrides}),
)
print(f"reported {by_slice.reported:.2f}, honest {by_slice.honest:.2f}")

# %% tags=["outcome"]
outcome("05.C")

# %% [markdown]
# Where the honest Dice is near 0, the network has learned next to nothing that it could use for another patient, and what the
# other way reports is recognition: it has seen these tumours a slice further up.
#
# **A threshold tuned on the test.** The best of many thresholds, chosen by looking at the answers. The honest way is to choose it
# on [validation](glossary.md#validation) cases of the training centres. Here the reference model without the terms of
# the method, which learned from A and B for thousands of steps, marks the tumours of new patients:

# %%
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.run import load_models

models = load_models("reference-segmentation")
validation = [make_case(centre, 100 + n) for centre in "AB" for n in range(2)]
test = [make_case("C", 100 + n) for n in range(5)]
by_threshold = threshold_leak(models, validation, test)
print("reported:", by_threshold.how_reported)
print("honest:", by_threshold.how_honest)

# %%
from dualtask_lite.show.figures import trust

trust.thresholds(
    by_threshold.thresholds,
    by_threshold.on_test,
    by_threshold.on_validation,
    models[-1].settings.prediction.threshold,
)

# %%
trust.leaks([by_slice.row, by_threshold.row])

# %% [markdown]
# **A box from the label.** A tumour model is shown the box around the true organ. At the next hospital nobody has it:
# there the box comes from the model before, which may miss. Lesson 06 measures that one.
#
# How large a leak is depends on how much there was to choose from, on how alike the neighbours are, and on luck: an honest
# threshold from so few validation cases is a gamble, too, and may be worse than leaving the setting as it was. Had both ways
# chosen the same threshold, the leak would measure 0 and be a leak all the same. It is the protocol that is wrong, not the number,
# so no honest score can be computed from a leaked one.

# %% [markdown]
# ## What is known now
#
# - How the claim of the paper [1] has to be tested: in pairs, over several training runs, on hospitals that no choice has touched.
# - A comparison of one seed and a short training cannot decide it: whatever it shows, it is about this training of the
#   pancreas. [Lesson 05b](05b_what_the_terms_buy.ipynb) reads the table that was made to decide.
#
# ## Summary
#
# - Hold out whole hospitals, each in turn, and touch the test once.
# - Compare in pairs; conclude from an interval over training runs and cases, and correct p-values for multiple comparisons.
# - A leak costs nothing to build in, and what it adds to the score cannot be taken off again.
# - If the interval contains 0, the honest conclusion is "not shown".
#
# Next: [lesson 05b](05b_what_the_terms_buy.ipynb) tests the claim.

# %% [markdown]
# ## References
#
# 1. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer
#    Segmentation in CT Scans*, 2025, [arXiv:2505.01644](https://arxiv.org/abs/2505.01644).
# 2. Maier-Hein and others, *Metrics reloaded*, Nature Methods 21, 2024,
#    [doi:10.1038/s41592-023-02151-z](https://doi.org/10.1038/s41592-023-02151-z).
# 3. Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6, 1979,
#    [jstor.org/stable/4615733](https://www.jstor.org/stable/4615733).
# 4. Kapoor and Narayanan, *Leakage and the reproducibility crisis in machine-learning-based science*, Patterns 4, 2023,
#    [doi:10.1016/j.patter.2023.100804](https://doi.org/10.1016/j.patter.2023.100804).

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    rows=len(rows),
    difference=round(float(together.mean()), 3),
    interval=[round(low, 3), round(high, 3)],
    slice_leak=[round(by_slice.reported, 3), round(by_slice.honest, 3)],
    threshold_leak=[round(by_threshold.reported, 3), round(by_threshold.honest, 3)],
    conclusions={one["arm"]: one["conclusion"] for one in comparisons},
    spoiled_dice={name: round(scored["dice"], 2) for name, scored in spoiled.items()},
)
