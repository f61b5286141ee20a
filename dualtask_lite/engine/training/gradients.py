"""Gradient norm of each term of the objective: how strongly each term changes the weights.

The value of a term does not show its influence: a term of 0.1 may have a larger gradient than a term of 1.0. So the
gradient of each term, times its weight and ramp, is measured separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import wrappers

from dualtask_lite.engine.training.devices import scaler_of
from dualtask_lite.method.network import DualTaskNet

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VOXEL_HEADS = ("seg_head", "distance_head")
_HEADS = (*VOXEL_HEADS, "projector", "slice_head")


def parts_of(net: DualTaskNet) -> dict[str, list[torch.nn.Parameter]]:
    """The weights whose gradient is measured: the shared trunk (named ``""``) and each voxel head of the network."""
    named = list(net.named_parameters())
    parts = {"": [weight for name, weight in named if name.partition(".")[0] not in _HEADS]}
    parts |= {head: [weight for name, weight in named if name.partition(".")[0] == head] for head in VOXEL_HEADS}
    return {part: weights for part, weights in parts.items() if weights}


def columns(terms: Sequence[str], net: DualTaskNet) -> list[str]:
    """Names of the columns of :func:`gradient_norms`: ``grad_seg``, ``grad_seg_seg_head``, and so on."""
    return [_column(term, part) for term in terms for part in parts_of(net)]


def gradient_norms(terms: Mapping[str, torch.Tensor], net: DualTaskNet, fabric: Fabric) -> dict[str, float]:
    """Norm of the gradient of each term, for the shared trunk and for each voxel head.

    It keeps the ``.grad`` of the weights and the graph, so it does not affect the training step. It costs one backward
    pass for each term.

    Args:
        terms: term -> its weighted value, a scalar with a graph.
        net: the network whose outputs the terms were computed from.
        fabric: of the run; with several processes, the norm is that of their mean gradient, which the optimiser uses.

    Returns:
        Column -> norm, 0 for weights that the term does not depend on; see :func:`columns`.
    """
    parts = parts_of(net)
    weights = [weight for part in parts.values() for weight in part]
    scaler = scaler_of(fabric)
    scale = scaler.get_scale() if scaler else 1.0  # prevents underflow in fp16
    norms: dict[str, torch.Tensor] = {}
    for term, value in terms.items():
        with _without_backward_check():
            computed = torch.autograd.grad(value * scale, weights, retain_graph=True, allow_unused=True)
        gradients = iter(torch.zeros_like(w) if g is None else g for w, g in zip(weights, computed, strict=True))
        for part, part_weights in parts.items():
            flat = torch.cat([next(gradients).flatten() for _ in part_weights]) / scale
            mean: Any = fabric.all_reduce(flat, reduce_op="mean")
            norms[_column(term, part)] = mean.norm()
    values = torch.stack(list(norms.values())).tolist()  # a single transfer from the device
    return {column: float(f"{norm:.6g}") for column, norm in zip(norms, values, strict=True)}


@contextmanager
def _without_backward_check() -> Iterator[None]:
    """Allow a backward pass that is not ``fabric.backward``, which Fabric refuses in mixed precision.

    ``fabric.backward`` adds to the ``.grad`` of the weights; here no weight may change, and the scale is our own.
    """
    wrappers._in_fabric_backward = True
    try:
        yield
    finally:
        wrappers._in_fabric_backward = False


def _column(term: str, part: str) -> str:
    return f"grad_{term}_{part}" if part else f"grad_{term}"
