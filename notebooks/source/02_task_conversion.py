# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 Task conversion: each answer in the other's words
#
# A mask can be turned into a distance and a distance into a mask, so that each task can teach the
# other [1]. But only if a gradient comes back. You put a published conversion to that test, and repair what does not pass.
#
# **Objectives.** After this lesson you can
#
# - turn a distance into a probability and a logit into a distance, and say what tau does in mm;
# - measure the error of the round trip, and choose a temperature that suits a lesion's size;
# - tell whether a conversion trains anything, before you train.
#
# **Prerequisites.** [Lesson 01](01_distance_regression.ipynb). You have seen a derivative before.
#
# **Time and memory.** {measured} 40 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases; empty: the embedded three-centre data
overrides: dict = {}  # other values; here only {"steps": 60}, of the trial before exercise 3

# %% [markdown]
# ## Two outputs, one surface
#
# The network of this course has two outputs, each from its own [head](glossary.md#head). Its [segmentation](glossary.md#segmentation) head gives a
# [logit](glossary.md#logit) for each voxel, its distance head the [signed distance](glossary.md#signed-distance).
# Both describe the same [surface](glossary.md#surface), so each can be read as the other:
#
# - distance to probability: `p = sigmoid(-d / tau)`. On the surface d is 0 and p is a half. Deep inside, d
#   is very negative and p is nearly 1: hence the minus.
# - logit to distance: `d = -tau * logit`, the same formula solved for d.
#
# The **[temperature](glossary.md#temperature)** tau says how fast the answer changes as one walks across the surface. It is in
# **mm**.

# %%
from dualtask_lite.method.convert import distance_to_probability, gradient_alive, logit_to_distance
from dualtask_lite.method.convert import soft_distance
from dualtask_lite.show.figures.diagrams import lines, panels
from dualtask_lite.show.lesson import check, choice, outcome, run_manifest, show_source
from dualtask_lite.show.table import Table

show_source(distance_to_probability)

# %%
show_source(logit_to_distance)

# %%
import torch

way = torch.linspace(-15, 15, 121, dtype=torch.float64)
lines(
    way.numpy(),
    {f"tau {t:g} mm": distance_to_probability(way, t).numpy().round(3) for t in (0.5, 2.0, 6.0)},
    "From a distance to the probability of being inside.",
    across="signed distance (mm), negative inside",
    up="probability",
    marks={"surface": 0.0},
)

# %% [markdown]
# ### Exercise 1
#
# The segmentation head predicts p = 0.9 for a voxel. With tau = 2 mm, **which signed distance in mm** is that?
# The logit of p is log(p / (1 - p)); mind the sign.

# %% tags=["exercise", "blank"]
distance_mm = ...

# %% tags=["exercise", "solution"]
import math

distance_mm = -2 * math.log(0.9 / 0.1)

# %% tags=["exercise", "wrong"]
import math

distance_mm = 2 * math.log(0.9 / 0.1)

# %% tags=["check"]
check("02.1", distance_mm)

# %% [markdown]
# ## There and back
#
# Does anything get lost on the way from a mask to a distance and back? Here is a tumour of the embedded data. Its
# distance comes from [lesson 01](01_distance_regression.ipynb), exact; then it is turned into a probability and
# cut at a half.

# %%
from dualtask_lite.method.distance import BAND, signed_distance
from dualtask_lite.method.losses import dice_loss
from dualtask_lite.show.lesson_cases import lesson_cases

cases = lesson_cases(data_dir, tumours=1)
scan = next(scan for scan in (case.load() for case in cases) if scan.has_tumour)
mask = torch.from_numpy(scan.label == 2)
distance = signed_distance(mask, scan.spacing)
back = distance_to_probability(distance, tau=2.0) > 0.5
again = logit_to_distance(torch.logit(distance_to_probability(distance.double(), 2.0)), 2.0, BAND)
near = distance.abs() < BAND
print(
    f"voxels of the tumour: {mask.sum()}, of them changed by the round trip: {(back != mask).sum()}"
)
print(f"distance there and back, largest error: {(again - distance)[near].abs().max():.1e} mm")

# %% [markdown]
# No voxel changes, whatever tau is. So why not take any tau? Because the loss does not cut at a half. It compares
# the **probabilities** with the mask, and these are blurred by tau. How well do they fit in the best case, when the
# distance is perfect? (Here it is the distance to the ideal ball. That of lesson 01, from centre to centre, blurs a little less.) The soft [Dice](glossary.md#dice) [3] tells, for balls of three sizes:


# %%
def ball(centre, radius, side=48):
    """Signed distance (mm) of a ball on a grid of 1 mm, (1, 1, side, side, side)."""
    axes = [torch.arange(side, dtype=torch.float64) - side // 2] * 3
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return ((points - centre).norm(dim=-1) - radius)[None, None]


taus = (0.5, 1.0, 2.0, 4.0, 8.0)
best = []
for radius in (3.0, 6.0, 12.0):
    true = ball(torch.zeros(3), radius)
    fits = {
        tau: 1 - dice_loss(distance_to_probability(true, tau), (true < 0).double()) for tau in taus
    }
    best.append(
        {"radius (mm)": radius} | {f"tau {tau:g} mm": fit.item() for tau, fit in fits.items()}
    )
Table(best, "Soft Dice of a perfect distance, turned into a probability")

# %% [markdown]
# A large tau blurs a small lesion away: even a perfect distance then gets a low score. What that does to training, and
# what a tau that is too small does, comes next.

# %% [markdown]
# ### Exercise 2
#
# Which is the **largest** tau of the table with which a perfect distance of the ball of 6 mm radius still reaches a soft Dice of
# 0.8? Answer with the number of mm. (`best[1]` is the row.)

# %% tags=["exercise", "blank"]
largest_tau = ...

# %% tags=["exercise", "solution"]
largest_tau = max(tau for tau in taus if best[1][f"tau {tau:g} mm"] >= 0.8)

# %% tags=["exercise", "wrong"]
largest_tau = max(taus)

# %% tags=["check"]
check("02.2", largest_tau)

# %% [markdown]
# ## A conversion from published code
#
# To teach the distance head, a loss judges the mask that its distance turns into. Here is a
# conversion that published code of this kind has used, in one line: inside is where the distance is at most 0.


# %%
def published(distance_mm):
    """1 inside, 0 outside."""
    return (distance_mm <= 0).to(distance_mm.dtype) + 0 * distance_mm


# %% [markdown]
# Let it teach. A distance map shows a ball 6 mm beside the lesion. Every voxel of the map may change, as in the answer of
# a network. The map is turned into a mask, judged by Dice, and moved against the gradient. PyTorch finds the gradient by
# going back through the computation, from the loss to the map: the **backward pass**.

# %% tags=["choice"]
choice(
    "02.A",
    "What will 60 steps of gradient descent do to the map?",
    "it moves onto the lesion: Dice rises",
    "nothing: it stays where it is",
    "the backward pass raises an error",
)

# %%
lesion = (ball(torch.zeros(3), 9.0) < 0).float()
beside = ball(torch.tensor([6.0, 0.0, 0.0]), 9.0).float()
steps = overrides.get("steps", 60)


def teach(convert):
    """Let the Dice of its converted mask teach a distance map; Dice after each step, and map."""
    learned = beside.clone().requires_grad_()
    optimiser = torch.optim.Adam([learned], lr=0.5)
    dice = []
    for _ in range(steps + 1):
        dice.append(1 - dice_loss((learned.detach() < 0).float(), lesion).item())
        loss = dice_loss(convert(learned), lesion)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return dice, learned.detach()


stuck, _ = teach(published)
print(f"hard threshold: Dice {stuck[0]:.2f} before, {stuck[-1]:.2f} after {steps} steps")

# %% tags=["outcome"]
outcome("02.A")

# %% [markdown]
# The code runs, reports no error, and has a loss that one could plot. But nothing was learned.

# %% [markdown]
# ### Exercise 3
#
# **Find out why.** What is the **largest size of the gradient** that any voxel of the map `beside` gets, when the loss
# `dice_loss(published(...), lesion)` runs backward? Make a copy with `beside.clone().requires_grad_()`, compute the
# loss, call its `backward()`, and look at `.grad`.

# %% tags=["exercise", "blank"]
largest_gradient = ...

# %% tags=["exercise", "solution"]
leaf = beside.clone().requires_grad_()
dice_loss(published(leaf), lesion).backward()
largest_gradient = leaf.grad.abs().max().item()

# %% tags=["exercise", "wrong"]
largest_gradient = dice_loss(published(beside), lesion).item()

# %% tags=["check"]
check("02.3", largest_gradient)

# %% [markdown]
# `distance <= 0` jumps from 0 to 1 and is flat on both sides, so its slope is 0 at every voxel. Adding `0 * distance`
# only connects the distance with the loss: the backward pass runs, and multiplies by 0.
#
# ## Does a gradient come back?
#
# So before training count the voxels to which the **[gradient](glossary.md#gradient)** comes back:

# %%
show_source(gradient_alive)

# %% [markdown]
# Here are more ways that code of this kind has used. `sigmoid(-k d)` with k = 1500 [2] and k = 100 is steep: there d was divided
# by its maximum, here by the band of 20 mm, which is the same for every lesion. The last three have a temperature in mm.

# %%
ways = {
    "hard threshold": published,
    "k = 1500": lambda mm: torch.sigmoid(-1500 * mm / BAND),
    "k = 100": lambda mm: torch.sigmoid(-100 * mm / BAND),
    "tau 0.5 mm": lambda mm: distance_to_probability(mm, 0.5),
    "tau 2 mm": lambda mm: distance_to_probability(mm, 2.0),
    "tau 4 mm": lambda mm: distance_to_probability(mm, 4.0),
}
inside_band = ball(torch.zeros(3), 9.0).clamp(-BAND, BAND)
alive = {name: gradient_alive(convert, inside_band) for name, convert in ways.items()}
Table(
    [
        {"conversion": name, "voxels with a gradient (%)": 100 * share}
        for name, share in alive.items()
    ],
    "Share of the voxels that a conversion gives a gradient above 0.000001 (ball of 9 mm radius)",
)

# %% [markdown]
# A steep sigmoid in a band of 20 mm is the same as a small tau: k = 1500 is tau = 20 / 1500 = 0.013 mm. Only
# voxels within about a quarter of a mm of the surface get a gradient above 0.000001. In the picture, the brighter a voxel, the
# stronger its gradient; powers of ten, and the darkest blue gets none.


# %%
def strength(convert):
    """Size of the gradient of each voxel, as a power of ten, cut at -6."""
    leaf = inside_band.clone().requires_grad_()
    convert(leaf).sum().backward()
    return leaf.grad[0, 0, :, :, 24].abs().clamp_min(1e-6).log10().numpy()


panels(
    {name: strength(ways[name]) for name in ("k = 1500", "tau 0.5 mm", "tau 2 mm")},
    "Strength of the gradient on a plane through the ball, as a power of ten.",
    colours="amount",
    limits=(-6, 0),
    outline=(inside_band[0, 0, :, :, 24] < 0).numpy(),
    unit="power of ten, per mm",
)

# %% [markdown]
# ## Try it
#
# Choose the direction and the temperature. Follow the share of voxels without a gradient: where does it begin to grow?

# %%
from dualtask_lite.show.controls import conversion_explorer

conversion_explorer()

# %% [markdown]
# ### Exercise 4
#
# **Repair it.** The network predicts its distance in [bands](glossary.md#band) of 20 mm (lesson 01), a number from -1 to 1. Write a
# function `repaired` that takes a tensor of such numbers and gives the probabilities of being inside, with **tau = 2 mm**.

# %% tags=["exercise", "blank"]
repaired = ...

# %% tags=["exercise", "solution"]


def repaired(regressed):
    return torch.sigmoid(-20 * regressed / 2.0)


# %% tags=["exercise", "wrong"]


def repaired(regressed):
    return torch.sigmoid(-regressed / 2.0)  # bands taken for mm


# %% tags=["check"]
check("02.4", repaired)

# %% tags=["choice"]
choice(
    "02.B",
    "Which of these two will leave the map short of the lesion, with a Dice below 0.9?",
    "only k = 1500",
    "only tau 4 mm",
    "both",
    "none",
)

# %% [markdown]
# Here are all six ways, teaching the same map:

# %% tags=["summary"]
taught = {name: teach(convert) for name, convert in ways.items()}
paths = {name: dice for name, (dice, _) in taught.items()}
lines(
    range(steps + 1),
    paths,
    "How well the learned distance fits the lesion while each conversion teaches it.",
    across="step",
    up="Dice of the learned mask",
)

# %% tags=["outcome"]
outcome("02.B")

# %% [markdown]
# The steep ones move only the voxels that happen to lie next to the surface. Once these are on the
# right side, the next ones are as far away as before.
#
# The low scores of exercise 2 do not keep a large tau from teaching the surface. The loss falls with every voxel that moves to its right side, so the
# surface gets right. But it goes on falling when the map goes *deeper* than the truth. Is the map still a distance?

# %%
true_mm = ball(torch.zeros(3), 9.0)
close = true_mm.abs() < 6
off = {name: (learned - true_mm).abs()[close].mean() for name, (_, learned) in taught.items()}
Table(
    [
        {"conversion": name, "Dice": paths[name][-1], "off (mm)": error.item()}
        for name, error in off.items()
    ],
    f"The learned maps after {steps} steps, and their mean error within 6 mm of the true surface",
)

# %% [markdown]
# From tau 0.5 mm on, the larger tau is, the farther this loss alone pulls the map from the true distance. So the framework
# also trains its distance head with the true distance, as in lesson 01.
#
# ## A second way from a mask to a distance
#
# `-tau * logit` looks at one voxel alone. A network that is sure of itself says about 0.99 everywhere inside and 0.01
# everywhere outside: then every voxel has the same "distance", and the way to the surface is lost. The
# **soft distance** looks around instead: it asks which share of the neighbourhood is inside.

# %%
show_source(soft_distance)

# %%
true = ball(torch.zeros(3), 12.0)
sure = torch.where(true < 0, 0.99, 0.01)
by_logit = logit_to_distance(torch.logit(sure), 2.0, BAND)
by_look = soft_distance(sure, (1.0, 1.0, 1.0), lam=2.0)
middle = (0, 0, slice(None), 24, 24)
lines(
    torch.arange(48).numpy() - 24,
    {
        "true": true[middle].numpy(),
        "-tau * logit": by_logit[middle].numpy(),
        "soft distance": by_look[middle].numpy(),
    },
    "Distance along a line through a ball of 12 mm radius, from a mask that is sure of itself.",
    across="mm from the middle",
    up="signed distance (mm)",
)

# %% [markdown]
# ### Exercise 5
#
# By how many mm is the **soft distance** off, on average over the voxels within 6 mm of the true surface? Use `by_look` and `true`,
# and the mean of the absolute difference.

# %% tags=["exercise", "blank"]
off_mm = ...

# %% tags=["exercise", "solution"]
off_mm = (by_look - true)[true.abs() < 6].abs().mean().item()

# %% tags=["exercise", "wrong"]
off_mm = (by_logit - true)[true.abs() < 6].abs().mean().item()

# %% tags=["check"]
check("02.5", off_mm)

# %% [markdown]
# The soft distance is good near the surface only. In the middle of the ball the soft distance is much too small: from there it sees the
# outside on every side.
#
# The soft distance also costs a convolution with a wide kernel at every step. So the framework trains with `-tau * logit`
# instead. There a loss compares it with the true distance in each voxel: the segmentation head must
# give larger logits deeper inside, not the same logit everywhere.

# %% [markdown]
# ## What is known now
#
# - With a hard threshold, as in published code of this kind, the conversion trains nothing; with a temperature in mm it trains.
# - So a conversion of that form cannot explain the claimed +9.5 points. What the repaired one gives is not tested yet.
#
# ## Summary
#
# - `sigmoid(-d / tau)` and `-tau * logit` are each other's inverse; tau is in mm and means the same everywhere.
# - The mask survives the round trip exactly. A large tau blurs small lesions in the loss.
# - A hard threshold has no gradient and trains nothing. A steep sigmoid gives one to few voxels: k = 1500 trains next to
#   nothing, and k = 100 stops short.
# - Count the voxels with a gradient before you train. A tau of about one voxel is a compromise: a smaller one reaches fewer
#   voxels, a larger one blurs small lesions and pulls the map farther from the true distance.
#
# Next: [lesson 03](03_dual_self_supervision.ipynb) adds two rules that hold across imaging views.

# %% [markdown]
# ## References
#
# 1. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer
#    Segmentation in CT Scans*, 2025, [arXiv:2505.01644](https://arxiv.org/abs/2505.01644).
# 2. Luo and others, *Semi-supervised Medical Image Segmentation through Dual-task Consistency*, AAAI 2021,
#    [arXiv:2009.04448](https://arxiv.org/abs/2009.04448): a conversion with k = 1500.
# 3. Milletari and others, *V-Net*, 2016, [arXiv:1606.04797](https://arxiv.org/abs/1606.04797): the soft Dice.

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    alive={name: round(share, 4) for name, share in alive.items()},
    dice={name: round(dice[-1], 3) for name, dice in paths.items()},
    dice_before=round(stuck[0], 3),
)
