"""Feature contrast: embeddings of a lesion's core against those of the shell around it (METHOD, L_feat).

Every function works on a whole batch, without a loop over samples or slices. A *cell* is a voxel of the
bottleneck's grid, on which the embeddings are defined; it covers ``stride`` voxels of the image along each axis.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from skimage.morphology import skeletonize
from torch.nn import functional as F

from dualtask_lite.method.network import STRIDE

MARGIN = (10, 20)  # voxels; smallest and largest window that dilates a lesion to its shell
AXIAL_REDUCTION = 3  # voxels; the window is smaller by this along the axial axis, as published: slices are thick
Core = Literal["deepest", "skeleton"]


def draw_windows(samples: int, generator: torch.Generator, margin: tuple[int, int] = MARGIN) -> torch.Tensor:
    """Draw the dilation window of each sample: (B, 3) voxels, k, k, k - 3, with k uniform, both ends included."""
    k = torch.randint(margin[0], margin[1] + 1, (samples, 1), generator=generator)
    return k - torch.tensor([0, 0, AXIAL_REDUCTION])


def dilate(mask: torch.Tensor, window: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Dilate each sample by its own box: a voxel is set when any voxel of the box around it is in the mask.

    A box of k voxels reaches from (k - 1) // 2 voxels before the centre to k // 2 after it. Outside the volume
    everything is background.

    Args:
        mask: (B, 1, X, Y, Z), foreground where above 0.
        window: (B, 3) voxels, sides of the box.
        stride: voxels a cell, along each axis; a cell is set when any of its voxels is. Voxels after the last
            whole cell are ignored.

    Returns:
        (B, 1, X // stride, Y // stride, Z // stride) bool.
    """
    inside, window = mask > 0, window.to(mask.device, non_blocking=True)
    for axis in (2, 1, 0):  # a box is the product of three lines; the last axis is contiguous in memory
        line = inside.movedim(2 + axis, -1)  # (B, 1, ., ., n)
        n, k = line.shape[-1], window[:, axis, None]
        count = F.pad(line.cumsum(-1, dtype=torch.int32), (1, 0))  # (B, 1, ., ., n + 1): foreground before each voxel
        cell = torch.arange(n // stride, device=mask.device) * stride  # first voxel of each cell
        start, stop = (cell - (k - 1) // 2).clamp_min(0), (cell + stride + k // 2).clamp_max(n)  # (B, n // stride)
        before, until = (
            count.gather(-1, index[:, None, None, None].expand(*line.shape[:-1], -1)) for index in (start, stop)
        )
        inside = (until > before).movedim(-1, 2 + axis)
    return inside


def core_and_shell(
    mask: torch.Tensor,
    distance_mm: torch.Tensor,
    *,
    generator: torch.Generator,
    core: Core = "deepest",
    margin: tuple[int, int] = MARGIN,
    stride: int = STRIDE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the two sets of cells that the contrast separates.

    Core ``"deepest"``: the cells at least half as deep below the surface as the deepest of their neighbours. So
    every lesion has a core, however small, except next to a lesion twice as deep. ``"skeleton"`` is the
    published definition, the skeleton of every ``stride``-th voxel of the mask: it misses a lesion between
    these voxels, and thinning can remove a lesion that is an even number of them wide.

    Shell: the cells that the dilated lesion reaches and that hold no lesion. Where the dilation stays within the
    lesion's own cells, as it may for a small one, the shell is the cells next to them.

    Args:
        mask: (B, 1, X, Y, Z) the lesions.
        distance_mm: (B, 1, X, Y, Z) their signed distance, negative inside.
        generator: on the CPU; draws the size of the shell.
        core: definition of the core.
        margin: smallest and largest window of the dilation, in voxels.
        stride: voxels a cell, along each axis.

    Returns:
        ``(core, shell)``, each (B, x, y, z) bool. Both are empty for a sample that lacks either of them,
        because it has no lesion or is all lesion.

    Raises:
        ValueError: when ``core`` is unknown.
    """
    if core not in get_args(Core):
        raise ValueError(f"core is {core!r}; choose one of {', '.join(get_args(Core))}")
    inner = _deepest(distance_mm, stride) if core == "deepest" else _skeleton(mask, stride)
    outer = _shell(mask, draw_windows(len(mask), generator, margin), stride)
    complete = _has_any(inner) & _has_any(outer)
    return inner & complete, outer & complete


def draw_voxels(region: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one cell of a region in each axial slice that has any, with equal probability (trap 7).

    Args:
        region: (B, x, y, z) bool.
        generator: on the CPU.

    Returns:
        ``(index, found)``, both (B, z): the drawn one of the slice's x * y cells, and whether there is any.
    """
    candidates = region.flatten(1, 2)  # (B, x * y, z)
    priority = torch.rand(candidates.shape, generator=generator).to(region.device)
    index = priority.masked_fill(~candidates, -1).argmax(1)  # the candidate with the highest priority
    return index, candidates.any(1)


def gather(embedding: torch.Tensor, index: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Collect the embeddings of the drawn cells.

    Args:
        embedding: (B, C, x, y, z).
        index: (B, z) from :func:`draw_voxels`.
        found: (B, z) from :func:`draw_voxels`.

    Returns:
        (N, C), one row for each of the N slices with a cell.
    """
    cells = embedding.flatten(2, 3).permute(0, 3, 2, 1)  # (B, z, x * y, C)
    sample, axial = found.nonzero(as_tuple=True)
    chosen = torch.stack([sample, axial, index[found]]).to(embedding.device, non_blocking=True)  # (3, N)
    return cells[tuple(chosen)]


def nt_xent(positive: torch.Tensor, negative: torch.Tensor, temperature: float = 0.05) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy between two classes of embeddings.

    The loss of an ordered pair (i, j) of one class is ``-log(e_ij / (e_ij + sum of e_ik over the other class))``
    with ``e = exp(cosine similarity / temperature)``; the result is the mean over all pairs of both classes.
    Embeddings of one class attract each other and repel those of the other class.

    Args:
        positive: (P, C).
        negative: (N, C).
        temperature: a smaller one gives more weight to the most similar embeddings of the other class.

    Returns:
        A scalar; 0 with a gradient of 0, never NaN, when a class is empty or has no pair.

    Source: Chen et al. 2020, A simple framework for contrastive learning of visual representations
    (arXiv 2002.05709).
    """
    vectors = torch.cat([positive, negative])  # (M, C)
    label = torch.arange(len(vectors)) < len(positive)  # which pairs there are depends on counts: the CPU knows them
    same = label[:, None] == label  # (M, M)
    pair = same & ~torch.eye(len(vectors), dtype=torch.bool)
    if same.all() or not pair.any():
        return 0 * vectors.sum()
    same, *pairs = (part.to(vectors.device, non_blocking=True) for part in (same, *pair.nonzero(as_tuple=True)))
    similarity = F.cosine_similarity(vectors[:, None], vectors, dim=2) / temperature  # (M, M)
    others = similarity.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)  # (M, 1)
    return F.softplus(others - similarity)[tuple(pairs)].mean()  # softplus(b - a) = -log(e^a / (e^a + e^b))


def _has_any(region: torch.Tensor) -> torch.Tensor:
    """(B, x, y, z) -> (B, 1, 1, 1): whether each sample has any cell in the region."""
    return region.flatten(1).any(1)[:, None, None, None]


def _shell(mask: torch.Tensor, window: torch.Tensor, stride: int) -> torch.Tensor:
    """(B, 1, X, Y, Z) -> (B, x, y, z): the shell, see :func:`core_and_shell`."""
    lesion = F.max_pool3d(mask.float(), stride)[:, 0]  # (B, x, y, z): 1 where a cell holds any lesion
    neighbours = F.max_pool3d(lesion, 3, stride=1, padding=1)  # 1 there and in the 26 cells around
    dilated = dilate(mask, window, stride)[:, 0] & (lesion == 0)
    return torch.where(_has_any(dilated), dilated, (neighbours > 0) & (lesion == 0))


def _deepest(distance_mm: torch.Tensor, stride: int) -> torch.Tensor:
    """(B, 1, X, Y, Z) -> (B, x, y, z): see :func:`core_and_shell`. A cell is as deep as its deepest voxel."""
    depth = F.max_pool3d(-distance_mm, stride)  # (B, 1, x, y, z) mm below the surface
    deepest = F.max_pool3d(depth, 3, stride=1, padding=1)  # among the cell and its 26 neighbours
    return ((depth > 0) & (depth >= deepest / 2))[:, 0]


def _skeleton(mask: torch.Tensor, stride: int) -> torch.Tensor:
    """(B, 1, X, Y, Z) -> (B, x, y, z): the skeleton (Lee et al. 1994) of every ``stride``-th voxel."""
    x, y, z = (side // stride for side in mask.shape[2:])  # whole cells only, as of the shell
    chosen = mask[:, 0, ::stride, ::stride, ::stride][:, :x, :y, :z] > 0
    # Thinning depends on the order of the axes; z, y, x is the published order.
    cells = chosen.permute(0, 3, 2, 1).cpu().numpy()  # (B, z, y, x)
    padded = np.pad(cells, ((0, 0), (0, 1), (0, 0), (0, 0)))  # an empty slice separates the samples
    stack = skeletonize(padded.reshape(-1, *cells.shape[2:])) > 0  # all samples in one volume: (B * (z + 1), y, x)
    skeleton = stack.reshape(padded.shape)[:, :-1].transpose(0, 3, 2, 1)
    return torch.from_numpy(skeleton.copy()).to(mask.device)
