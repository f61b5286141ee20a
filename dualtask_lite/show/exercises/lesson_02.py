"""Exercises and predictions of lesson 02, task conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dualtask_lite.method.convert import distance_to_probability, gradient_alive, logit_to_distance
from dualtask_lite.method.distance import BAND
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise

_ALIVE = 0.9  # share of the voxels to which a repaired conversion gives a gradient


@exercise(
    "02.1",
    hint="d = -tau * logit; a voxel that is probably inside has a negative distance.",
    solution="the logit of 0.9 is log(0.9 / 0.1); multiply it by -2.",
    meaning="{answer:.1f} mm: negative, so inside, and deeper the larger tau is.",
    rounding=0.05,
)
def distance_mm() -> float:
    return logit_to_distance(torch.logit(torch.tensor(0.9)), 2.0, 20.0).item()


def _next_tau(answer: float, taus: Sequence[float], best: Sequence[Mapping[str, float]]) -> str:
    larger = min((tau for tau in taus if tau > answer), default=None)
    text = f"{answer:g} mm."
    if larger is not None:
        text += f" With {larger:g} mm even a perfect distance has a soft Dice of {best[1][f'tau {larger:g} mm']:.2f}."
    return text


@exercise(
    "02.2",
    hint="go along the row of 6 mm and stop before it falls under 0.8.",
    solution='max(tau for tau in taus if best[1][f"tau {tau:g} mm"] >= 0.8)',
    meaning=_next_tau,
)
def largest_tau(taus: Sequence[float], best: Sequence[Mapping[str, float]]) -> float:
    return max(tau for tau in taus if best[1][f"tau {tau:g} mm"] >= 0.8)


@exercise(
    "02.3",
    hint="leaf.grad.abs().max() after backward(), not the loss itself.",
    solution="leaf = beside.clone().requires_grad_(); dice_loss(published(leaf), lesion).backward(); leaf.grad.",
    meaning="{answer:g}: no voxel gets any gradient, so no voxel learns.",
)
def largest_gradient(answer: float, published: Callable[[Tensor], Tensor], beside: Tensor) -> bool:
    through = torch.autograd.functional.vjp(published, beside, torch.ones_like(beside))[1]
    return not isinstance(answer, bool) and bool(abs(answer - float(through.abs().max())) < 1e-12)


def _alive(answer: Callable[[Tensor], Tensor], inside_band: Tensor) -> str:
    alive = gradient_alive(answer, inside_band / BAND)
    return f"{alive:.0%} of the voxels get a gradient. It is sigmoid(-k d), with k = 20 / 2 = 10 in place of 1500."


@exercise(
    "02.4",
    hint="turn the bands into mm first, then use the formula with tau; mind the sign, and keep the gradient.",
    solution="return torch.sigmoid(-20 * regressed / 2.0)",
    meaning=_alive,
)
def repaired(answer: Callable[[Tensor], Tensor], inside_band: Tensor) -> bool:
    bands = inside_band / BAND
    equal = torch.allclose(answer(bands), distance_to_probability(inside_band, 2.0), rtol=0, atol=1e-3)
    return equal and gradient_alive(answer, bands) > _ALIVE


def _error_near_surface(found: Tensor, true: Tensor) -> float:
    return (found - true)[true.abs() < 6].abs().mean().item()


def _against_logit(answer: float, by_logit: Tensor, true: Tensor) -> str:
    return f"{answer:.2f} mm; -tau * logit is {_error_near_surface(by_logit, true):.2f} mm off."


@exercise(
    "02.5",
    hint="by_look, not by_logit; absolute values, then the mean over true.abs() < 6.",
    solution="(by_look - true)[true.abs() < 6].abs().mean()",
    meaning=_against_logit,
    rounding=0.005,
)
def off_mm(by_look: Tensor, true: Tensor) -> float:
    return _error_near_surface(by_look, true)


@result("02.A")
def what_is_learned(stuck: Sequence[float]) -> tuple[str, str]:
    gain = stuck[-1] - stuck[0]
    return ("a" if gain > 0.01 else "b"), f"Dice {stuck[0]:.2f} before and {stuck[-1]:.2f} after. No error is raised."


@result("02.B")
def falls_short(paths: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    steep, wide = paths["k = 1500"][-1], paths["tau 4 mm"][-1]
    letter = {(True, False): "a", (False, True): "b", (True, True): "c"}.get((steep < 0.9, wide < 0.9), "d")
    return letter, f"Dice at the end: {steep:.2f} with k = 1500, {wide:.2f} with tau 4 mm."
