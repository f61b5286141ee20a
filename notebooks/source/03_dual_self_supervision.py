# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Dual self-supervision: what stays the same
#
# Another scanner changes the picture and leaves the patient alone. Two rules [1] follow from that: one about the network's answers,
# which needs no label, and one about its features. The paper calls both self-supervision; the second uses the label, too, to know
# which cells are tumour. You build both, and find out when a view is worthless.
#
# **Objectives.** After this lesson you can
#
# - draw imaging views by random convolution, and say what they change and what they keep;
# - find views that the clip has ruined, before a network learns from them;
# - compute output consistency and NT-Xent by hand, and say which trivial solution the first one has.
#
# **Prerequisites.** [Lesson 01](01_distance_regression.ipynb) and [lesson 02](02_task_conversion.ipynb).
#
# **Time and memory.** {measured} 50 minutes to read and do.

# %% tags=["bootstrap"]
# Filled in from bootstrap.py when the notebook is built.

# %% tags=["parameters"]
profile = "laptop"  # how much the machine can do: laptop, colab or gpu
seed = 0
data_dir = ""  # a folder with cases; empty: the embedded three-centre data
overrides: dict = {}  # other values for settings, such as {"optimiser.steps": 50}

# %% [markdown]
# > **What you need.** Of PyTorch: tensors, a training loop, and what `backward` does. Of mathematics: the cosine of the angle
# > between two vectors, and a logarithm. What a convolution is.
#
# ## Imaging views
#
# **[Self-supervision](glossary.md#self-supervision)** learns from a rule instead of a label. The rule
# here: however the picture looks, the anatomy in it is the same. To use it one needs two images of one patient with another appearance, and no
# hospital scans everyone twice. So the appearance is changed by **[random
# convolution](glossary.md#random-convolution)** [2]: a filter with random weights is laid over the CT and
# blended with it. What comes out is an [imaging view](glossary.md#imaging-view).

# %%
from dualtask_lite.method.views import apply_view, clipped_share, draw_view, random_view, saturation
from dualtask_lite.show.lesson import check, choice, outcome, run_manifest, show_source

show_source(draw_view)

# %%
show_source(apply_view)

# %% [markdown]
# Here is the region around one pancreas with a tumour, and three views of it. What is drawn is kept apart from where it is
# used: the same `View` can be replayed on another image.

# %%
import torch

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import training_region
from dualtask_lite.show.figures.diagrams import lines, panels
from dualtask_lite.show.lesson_cases import lesson_cases
from dualtask_lite.show.table import Table

short = {"stage": "tumour-coarse", "seed": seed, "views.count": 2, "optimiser.steps": 24}
short |= {"objective.weights": {"seg": 1.0, "out": 1.0, "feat": 1.0}, "sample.foreground": 1.0}
short |= {"sample.spacing": [4, 4, 4], "sample.patch": [32, 32, 16]}
settings = Settings.of(profile, short | overrides)
cases = lesson_cases(data_dir, hospitals=2, tumours=1)
every, least = (1, 0) if data_dir else (2, 20)  # embedded: half of the cases, to be quick
regions = [training_region(case, settings) for case in cases[::every]]
regions = [region for region in regions if region.mask.sum() > least]
region = regions[0]
image, tumour = region.image, region.mask > 0
level = int(tumour[0].sum((0, 1)).argmax())  # the axial slice with the most tumour

# %%
generator = torch.Generator().manual_seed(seed + 39)
views = [draw_view(generator) for _ in range(3)]
shown = {"as it is": image} | {
    f"kernel {len(view.kernel)}, blend {view.blend:.1f}": apply_view(image, view) for view in views
}


def slice_of(volume):
    """The axial slice, seen from the feet."""
    return volume[0, :, :, level].T.flip(0, 1).numpy()


panels(
    {name: slice_of(volume) for name, volume in shown.items()},
    "An axial slice and three views of it; the tumour is outlined.",
    limits=(0, 1),
    outline=slice_of(tumour),
)

# %% [markdown]
# Contrast, noise and texture change; the tumour stays in its place, give or take half a kernel (one to three voxels), so its label nearly
# holds for every view. But how much the tumour
# differs from its surroundings changes:

# %% tags=["choice"]
choice(
    "03.A",
    "Is the tumour darker, or brighter, than its surroundings in all views alike?",
    "yes, in all as in the CT",
    "no, in at least one it is the other way round",
)

# %%
ring = torch.nn.functional.max_pool3d(tumour.float(), 5, 1, 2)[0] > tumour[0].float()
Table(
    [
        {
            "view": name,
            "tumour": volume[tumour].mean().item(),
            "just around it": volume[0][ring].mean().item(),
            "difference": (volume[tumour].mean() - volume[0][ring].mean()).item(),
        }
        for name, volume in shown.items()
    ],
    "Mean grey value, 0 black to 1 white",
    digits=3,
)

# %% tags=["outcome"]
outcome("03.A")

# %% [markdown]
# Around a tumour lie fat, which is darker, and pancreas, which is often brighter ([lesson 00](00_start_here.ipynb)). How much the
# tumour differs from this mixture is another number in each view. A network that sees many views cannot rely on one grey value
# or one difference; what it can rely on is shape and position.
#
# ## Try it
#
# Choose the kernel, the blend and the seed. Can you make the tumour disappear? Its place is outlined.

# %%
from dualtask_lite.show.controls import view_explorer

view_explorer(image, tumour)

# %% [markdown]
# ## The saturation trap
#
# After the blend, everything below 0 is cut to 0 and everything above 1 to 1. With unlucky weights most of the
# picture ends up there: **[saturation](glossary.md#saturation)**. The label still says "tumour", but
# nothing is left to see it by. `saturation(image, view)` counts it, with this function:

# %%
show_source(clipped_share)

# %% [markdown]
# ### Exercise 1
#
# The cell below draws 100 views, `drawn`. **Which share of them** (0 to 1) is more than half saturated on `image`?

# %%
generator = torch.Generator().manual_seed(seed + 1)
drawn = [draw_view(generator) for _ in range(100)]

# %% tags=["exercise", "blank"]
ruined = ...

# %% tags=["exercise", "solution"]
ruined = sum(saturation(image, view) > 0.5 for view in drawn) / len(drawn)

# %% tags=["exercise", "wrong"]
ruined = sum(saturation(image, view) for view in drawn) / len(drawn)

# %% tags=["check"]
check("03.1", ruined)

# %%
worst = sorted(drawn, key=lambda view: saturation(image, view))[:-4:-1]
panels(
    {
        f"{saturation(image, view):.0%} saturated": slice_of(apply_view(image, view))
        for view in worst
    },
    "The three most saturated of 100 views; the tumour is outlined.",
    limits=(0, 1),
    outline=slice_of(tumour),
)

# %% [markdown]
# So look before you use. The kit draws again when a view is more than half saturated or flat:

# %%
show_source(random_view)

# %% [markdown]
# ## Rule 1: the answers stay the same
#
# Two views of one patient must get the same answer, from both heads. **Output consistency** is the mean squared
# difference of the two probabilities plus that of the two distances:

# %%
from dualtask_lite.method.losses import out_term

show_source(out_term)

# %% [markdown]
# ### Exercise 2
#
# Two views of a patch with four voxels got these logits and these distances (in [bands](glossary.md#band)).
# Compute the consistency **without** calling `out_term`. `torch.sigmoid` turns a logit into a probability.

# %%
logits = torch.tensor([[2.0, 0.5, -1.0, -3.0], [1.0, -0.5, -1.0, -2.0]])  # one row a view
distances = torch.tensor([[-0.4, -0.1, 0.2, 0.6], [-0.2, 0.1, 0.2, 0.5]])

# %% tags=["exercise", "blank"]
consistency = ...

# %% tags=["exercise", "solution"]
first, second = torch.sigmoid(logits)
consistency = ((first - second) ** 2).mean() + ((distances[0] - distances[1]) ** 2).mean()

# %% tags=["exercise", "wrong"]
consistency = ((logits[0] - logits[1]) ** 2).mean() + ((distances[0] - distances[1]) ** 2).mean()

# %% tags=["check"]
check("03.2", consistency)

# %% [markdown]
# Take a network that gives the same output whatever it sees:

# %% tags=["choice"]
choice(
    "03.B",
    "What is the consistency loss of a network that always gives the same output?",
    "large, as it knows nothing",
    "0, as low as it can be",
)

# %%
lazy = torch.zeros(1, 4)
print(f"consistency of a network that knows nothing: {out_term(lazy, lazy, lazy, lazy).item():.1f}")

# %% tags=["outcome"]
outcome("03.B")

# %% [markdown]
# So ask of every rule what would satisfy it without any learning. A network with a constant output satisfies this one perfectly: this is its **trivial solution**, and a network that ends there has
# **collapsed**. So this term is never used alone, and it is better brought in slowly: first the labels have to give the network something to be consistent about.
#
# ## Rule 2: the features stay apart
#
# The second rule looks inside the network, at its [bottleneck](glossary.md#bottleneck), where each cell is described by an
# **[embedding](glossary.md#embedding)** of 32 numbers. Cells that hold the deep part of the lesion, its
# **[core](glossary.md#core)**, should resemble each other, in all views. They should differ from those in a
# **[shell](glossary.md#shell)** around it.

# %%
from dualtask_lite.method.contrast import core_and_shell, draw_voxels, gather, nt_xent
from dualtask_lite.method.distance import signed_distance
from dualtask_lite.show import figures

x, y, z = (side // 8 * 8 for side in image.shape[1:])
whole = (region.mask[None] > 0)[..., :x, :y, :z]
distance = signed_distance(whole, region.spacing)
core, shell = core_and_shell(whole.float(), distance, generator=generator)
figures.core_and_shell(
    image[0, :x, :y, :z].numpy(),
    whole[0, 0].numpy(),
    core[0].numpy(),
    shell[0].numpy(),
    region.spacing,
)

# %% [markdown]
# The squares are cells of the bottleneck. One measures 8 voxels, here 32 mm: about as much as a whole lesion. A cell is of the
# core as soon as one voxel in it lies deep enough: at least half as deep as the deepest voxel of the cell and its neighbours.
# So "core" means "holds a deep part", and the middle of such a cell may lie outside the lesion.
#
# A large lesion has many core cells and most of them say the same, so one of each kind is drawn at random from every
# axial slice of cells.
#
# ## NT-Xent, step by step
#
# Four embeddings of two numbers each: two of the core, two of the shell. First the **[cosine
# similarity](glossary.md#cosine-similarity)** of every pair:

# %%
cores = torch.tensor([[1.0, 0.2], [0.8, 0.6]])
shells = torch.tensor([[-0.2, 1.0], [0.5, 0.9]])
every = torch.nn.functional.normalize(torch.cat([cores, shells]), dim=1)
similarity = every @ every.T
names = ("core 1", "core 2", "shell 1", "shell 2")
Table(
    [
        {"": name, **dict(zip(names, row.tolist(), strict=True))}
        for name, row in zip(names, similarity, strict=True)
    ],
    "Cosine similarity: 1 means the same direction, 0 a right angle",
)

# %% [markdown]
# Then, for a pair of the same kind, ask: among this partner and all of the other kind, how clearly is the partner the most similar? Similarities
# are divided by a [temperature](glossary.md#temperature) and put through exp, so that they become shares. For core 1 and core 2:

# %%
temperature = 0.5
weight = torch.exp(similarity / temperature)
share = weight[0, 1] / (weight[0, 1] + weight[0, 2] + weight[0, 3])
print(f"share of the partner: {share:.3f}; its loss: -log(share) = {-share.log():.3f}")

# %% [markdown]
# The mean over all pairs of the same kind, in both directions, is **[NT-Xent](glossary.md#nt-xent)**. In [3], where it comes from, the
# partner is the other view of the same image, and all other images stand in the denominator. Here every cell of the same kind is a
# partner, and only the other kind stands in the denominator.

# %% [markdown]
# ### Exercise 3
#
# Compute NT-Xent of these four embeddings from `weight`. There are four ordered pairs: core 1 with 2, core 2 with 1,
# shell 1 with 2, shell 2 with 1. In `weight` they are rows and columns 0 to 3; the others of a core are 2 and 3, of a shell 0 and 1.

# %% tags=["exercise", "blank"]
loss_by_hand = ...

# %% tags=["exercise", "solution"]
pairs = {(0, 1): (2, 3), (1, 0): (2, 3), (2, 3): (0, 1), (3, 2): (0, 1)}
shares = [
    weight[i, j] / (weight[i, j] + sum(weight[i, k] for k in others))
    for (i, j), others in pairs.items()
]
loss_by_hand = -torch.stack(shares).log().mean()

# %% tags=["exercise", "wrong"]
loss_by_hand = -share.log()

# %% tags=["check"]
check("03.3", loss_by_hand)

# %%
show_source(nt_xent)

# %% [markdown]
# ## A short training
#
# Does it work? The network of the kit learns for a short while on two centres, with two views of every patch and three
# terms: segmentation, output consistency (of the probabilities; the distance is not trained here), and the contrast. The contrast has the weight 1 instead of the published 0.1, because
# the training is so short. Beside it stands a training without the contrast, from the same weights and on the same samples: what
# both of them change, the contrast did not do. The last centre is only looked at: the embeddings of its core and shell cells
# are compared, one core cell and one shell cell of each patient, so that no patient's core is compared with itself.

# %%
from dualtask_lite.engine.data.dataset import Samples
from dualtask_lite.engine.run import build_network
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.method.losses import feat_term, seg_term

held_out = cases[-1].centre
centre_of = {case.id: case.centre for case in cases}
still = settings.changed({f"augment.{name}": 0 for name in ("scale", "rotation", "gamma", "noise")})
train_on = [part for part in regions if centre_of[part.case_id] != held_out]
unseen = [case for case in cases if case.centre == held_out]
look_at = [part for case in unseen if (part := training_region(case, settings)).mask.sum() > least]
steps, batch = settings.optimiser.steps, settings.optimiser.batch
samples = list(Samples(train_on, settings, range(steps * batch)))  # for both training runs
device = pick_device(settings.machine.device)  # a CUDA card when there is one
tests = list(Samples(look_at, still, range(len(look_at))))  # one patch of each patient
test = {
    key: torch.stack([one[key] for one in tests]).to(device)
    for key in ("image", "mask", "distance_mm")
}


# %%
def cells(network):
    """Core and shell embeddings of the unseen centre, and how far two views' answers differ."""
    draw = torch.Generator().manual_seed(seed)
    network.eval()
    with torch.no_grad():
        one, other = (network(random_view(test["image"], draw)) for _ in range(2))
        parts = core_and_shell(test["mask"], test["distance_mm"], generator=draw)
        drawn = [draw_voxels(part, draw) for part in parts]
        # the first axial slice of cells with any: one cell of a patient
        first = [(index, has & (has.cumsum(1) == 1)) for index, has in drawn]
        found = [gather(one.embedding, *cell).cpu() for cell in first]
        differ = out_term(one.seg, other.seg).item()
    network.train()
    return (*found, differ)


# %%
def similarities(core_cells, shell_cells):
    """Cosine similarity of every cell with every other; which are core cells."""
    unit = torch.nn.functional.normalize(torch.cat([core_cells, shell_cells]), dim=1)
    return unit @ unit.T, torch.arange(len(unit)) < len(core_cells)


# %%
def losses(network, step, draw):
    """Segmentation, consistency and contrast of one step, in two views of its samples."""
    taken = samples[step * batch : (step + 1) * batch]
    x, mask, mm = (
        torch.stack([one[key] for one in taken]).to(device)
        for key in ("image", "mask", "distance_mm")
    )
    one, other = (network(random_view(x, draw)) for _ in range(2))
    feat = feat_term(
        torch.cat([one.embedding, other.embedding]),
        mask.repeat(2, 1, 1, 1, 1),
        mm.repeat(2, 1, 1, 1, 1),
        generator=draw,
    )
    segment = (seg_term(one.seg, mask) + seg_term(other.seg, mask)) / 2
    return segment, out_term(one.seg, other.seg), feat


# %%
def learn(weight):
    """Train from the same start; the cells before and after, and the contrast at each step."""
    torch.manual_seed(seed)
    network = build_network(settings).to(device)
    before = cells(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.optimiser.lr / 4)
    draw, contrast = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        segment, consistency, feat = losses(network, step, draw)
        loss = segment + consistency * step / steps + weight * feat
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        contrast.append(feat.item())
    return before, cells(network), contrast


# %%
before, after, with_it = learn(1.0)
_, without, without_it = learn(0.0)

# %%
means = {
    name: torch.tensor(values).unfold(0, min(8, steps), 1).mean(1).numpy()
    for name, values in (("trained with the contrast", with_it), ("without", without_it))
}
lines(
    range(steps - min(8, steps) + 1),
    means,
    "The contrast on the training centres while the network learns.",
    across="step",
    up=f"NT-Xent, mean of {min(8, steps)} steps from here",
)

# %% [markdown]
# That is the centres of the training. Now to the unseen one:

# %% tags=["choice"]
choice(
    "03.C",
    "On the unseen centre, in which run do the core cells become more similar to each other?",
    "only in the one with the contrast",
    "in both",
    "not in the one with the contrast",
)

# %% [markdown]
# Its embeddings, on the two directions in which they differ most. Before the training:

# %%
figures.embeddings(*before[:2])

# %% [markdown]
# After a training without the contrast:

# %%
figures.embeddings(*without[:2])

# %% [markdown]
# And after one with it:

# %%
figures.embeddings(*after[:2])

# %%
rows = []
for when, (core_cells, shell_cells, differ) in {
    "before": before,
    "without the contrast": without,
    "with the contrast": after,
}.items():
    cosine, is_core = similarities(core_cells, shell_cells)
    within = cosine[is_core][:, is_core]
    others = ~torch.eye(len(within), dtype=torch.bool)  # without each cell's similarity to itself
    rows.append(
        {
            "": when,
            "core with core": within[others].mean().item(),
            "core with shell": cosine[is_core][:, ~is_core].mean().item(),
            "two views' probabilities differ by": differ,
        }
    )
Table(rows, f"Centre {held_out}, never trained on: cosine similarity, and consistency", digits=4)

# %% tags=["outcome"]
outcome("03.C")

# %% [markdown]
# Averages hide single cells. The contrast asks of each cell: is the one that resembles it most of its own kind?

# %% [markdown]
# ### Exercise 4
#
# For **which share of the cells** (0 to 1) is the most similar *other* cell of the same kind, after the training with the contrast? Use
# `similarities(*after[:2])`. A cell is most similar to itself: leave the diagonal out, say with `fill_diagonal_(-2)`.

# %% tags=["exercise", "blank"]
own_kind = ...

# %% tags=["exercise", "solution"]
cosine, is_core = similarities(*after[:2])
nearest = cosine.fill_diagonal_(-2).argmax(dim=1)
own_kind = (is_core[nearest] == is_core).float().mean().item()

# %% tags=["exercise", "wrong"]
cosine, is_core = similarities(*after[:2])
own_kind = (is_core[cosine.argmax(dim=1)] == is_core).float().mean().item()

# %% tags=["check"]
check("03.4", own_kind)

# %% [markdown]
# Only what differs between the two [training runs](glossary.md#training-run) is the work of the contrast; segmentation alone moves the features, too. The
# means of the table may show its work more than single cells do. Compare the share of exercise 4 with that of the training
# without the contrast: a few cells more or less are luck. Where it is not clearly higher, the contrast has **given nothing** by
# this measure, although its own loss fell. Some of what tells core from shell was there before any training, because a lesion
# looks different from what is around it.
#
# Look at the untrained network in the table, too: a network that gives nearly the same output everywhere is consistent, which is the trivial solution of rule 1. A picture of
# embeddings does not show that a rule helps on an unseen hospital; lesson 05b tests all terms together.

# %% [markdown]
# ## What is known now
#
# - Neither rule needs the new hospital. The first one can be met without learning anything, so it needs the others.
# - Whether they add to the claimed +9.5 points is not tested yet.
#
# ## Summary
#
# - Random convolution changes the appearance and keeps the anatomy in its place to within half a kernel, so
#   labels hold for every view.
# - Some views are saturated and show nothing: count, and draw again.
# - Output consistency asks for equal answers; a network that knows nothing has them for free.
# - NT-Xent pulls core cells together and pushes the shell away, in the features, over all views. Core cells also come together
#   without it: its work is only what a training without it lacks.
#
# Next: [lesson 04](04_the_framework.ipynb) puts the two heads and their conversions together.

# %% [markdown]
# ## References
#
# 1. Li and others, *A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer
#    Segmentation in CT Scans*, 2025, [arXiv:2505.01644](https://arxiv.org/abs/2505.01644).
# 2. Xu and others, *Robust and Generalizable Visual Representation Learning via Random Convolutions*,
#    2021, [arXiv:2007.13003](https://arxiv.org/abs/2007.13003).
# 3. Chen and others, *A Simple Framework for Contrastive Learning of Visual Representations*, 2020,
#    [arXiv:2002.05709](https://arxiv.org/abs/2002.05709): NT-Xent.

# %% tags=["manifest"]
run_manifest(
    {"profile": profile, "seed": seed, "overrides": overrides},
    core_with_core={row[""]: round(row["core with core"], 3) for row in rows},
    core_with_shell={row[""]: round(row["core with shell"], 3) for row in rows},
    differ={when: round(found[2], 5) for when, found in (("before", before), ("after", after))},
    steps=steps,
)
