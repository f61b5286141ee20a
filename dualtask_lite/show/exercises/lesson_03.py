"""Exercises and predictions of lesson 03, dual self-supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dualtask_lite.method.contrast import nt_xent
from dualtask_lite.method.losses import out_term
from dualtask_lite.method.views import View, saturation
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise


@exercise(
    "03.1",
    hint="saturation(image, view) is the share of one view; count the views where it exceeds 0.5.",
    solution="sum(saturation(image, view) > 0.5 for view in drawn) / len(drawn)",
    meaning="{answer:.0%} of the views have lost more than half of their voxels to the clip, and still have the label.",
    rounding=0.005,
)
def ruined(image: Tensor, drawn: Sequence[View]) -> float:
    return sum(saturation(image, view) > 0.5 for view in drawn) / len(drawn)


@exercise(
    "03.2",
    hint="probabilities, not logits: torch.sigmoid(logits) first; then squares, then the mean.",
    solution="the mean of the squared difference of torch.sigmoid(logits)[0] and [1], plus that of the two distances.",
    meaning="{answer:.4f}. It is 0 only where each head gives the same output for both views.",
    rounding=0.00005,
)
def consistency(logits: Tensor, distances: Tensor) -> float:
    return out_term(logits[:1], logits[1:], distances[:1], distances[1:]).item()


@exercise(
    "03.3",
    hint="four shares, minus the logarithm of each, then the mean; the share of the pair 0, 1 is computed above.",
    solution="share of (i, j): weight[i, j] / (weight[i, j] + the weights of i with the two of the other kind).",
    meaning="{answer:.3f}. It falls when partners become similar and the two kinds become different.",
    rounding=0.0005,
)
def loss_by_hand(cores: Tensor, shells: Tensor, temperature: float) -> float:
    return nt_xent(cores, shells, temperature).item()


def _own_kind(cells: Sequence[Tensor]) -> float:
    """Share of the cells whose most similar other cell is of the same kind, of (core, shell, ...)."""
    core, shell = cells[:2]
    unit = torch.nn.functional.normalize(torch.cat([core, shell]), dim=1)
    is_core = torch.arange(len(unit)) < len(core)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)
    return float((is_core[nearest] == is_core).float().mean())


def _by_chance(answer: float, before: Sequence[Tensor], without: Sequence[Tensor], after: Sequence[Tensor]) -> str:
    core, shell = (len(part) for part in after[:2])
    total = core + shell
    chance = (core * (core - 1) + shell * (shell - 1)) / (total * (total - 1))
    others = f"{_own_kind(without):.0%} without the contrast, {_own_kind(before):.0%} before any training"
    more = answer - _own_kind(without)
    verdict = f"Of {total} cells that is {round(more * total):+d} by the contrast"
    if more < 2 * (0.5 / total) ** 0.5:  # two standard errors of the difference of two shares, at most
        verdict += ", too few to show that it helps on this centre"
    return f"{answer:.0%} with the contrast, {others}; chance alone gives {chance:.0%}. {verdict}."


@exercise(
    "03.4",
    hint="argmax of each row without the diagonal (a cell is most similar to itself); then compare the kinds.",
    solution="nearest = cosine.fill_diagonal_(-2).argmax(dim=1); then the mean of is_core[nearest] == is_core.",
    meaning=_by_chance,
    rounding=0.005,
)
def own_kind(after: Sequence[Tensor]) -> float:
    return _own_kind(after)


@result("03.A")
def contrast_in_views(shown: Mapping[str, Tensor], tumour: Tensor, ring: Tensor) -> tuple[str, str]:
    own, *others = [(volume[tumour].mean() - volume[0][ring].mean()).item() for volume in shown.values()]
    turned = sum(other * own < 0 for other in others)
    return ("b" if turned else "a"), f"The sign of the difference changes in {turned} of {len(others)} views."


def _within_core(cells: Sequence[Tensor]) -> float:
    """Mean cosine similarity of the core cells, without that of a cell to itself."""
    unit = torch.nn.functional.normalize(cells[0], dim=1)
    return float((unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)].mean())


@result("03.B")
def lazy_network(lazy: Tensor) -> tuple[str, str]:
    term = out_term(lazy, lazy, lazy, lazy).item()
    return ("a" if term > 0.1 else "b"), f"{term:.1f}: this term only requires equal outputs."


@result("03.C")
def together(before: Sequence[Tensor], without: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[str, str]:
    start, plain, pulled = (_within_core(cells) for cells in (before, without, after))
    letter = "c" if pulled <= start else "b" if plain > start else "a"
    return letter, f"From {start:.2f} to {pulled:.2f} with the contrast, and to {plain:.2f} without it."
