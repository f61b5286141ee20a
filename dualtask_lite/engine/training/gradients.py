"""What each term of the objective asks of the weights: the share of the gradient that it has.

A loss says how wrong the network is, not who moves it: a term of 0.1 may pull harder than one of 1.0. So while a
run is watched, the gradient of each term, with its weight and ramp, is measured alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dualtask_lite.engine.training.devices import scaler_of
from dualtask_lite.method.network import DualTaskNet

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VOXEL_HEADS = ("seg_head", "distance_head")
_HEADS = (*VOXEL_HEADS, "projector", "slice_head")


def parts_of(net: DualTaskNet) -> dict[str, list[torch.nn.Parameter]]:
    """The weights whose gradient is measured: the shared trunk (named ``""``) and each voxel head that was built."""
    named = list(net.named_parameters())
    parts = {"": [weight for name, weight in named if name.partition(".")[0] not in _HEADS]}
    parts |= {head: [weight for name, weight in named if name.partition(".")[0] == head] for head in VOXEL_HEADS}
    return {part: weights for part, weights in parts.items() if weights}


def columns(terms: Sequence[str], net: DualTaskNet) -> list[str]:
    """Names of what :func:`gradient_norms` measures: ``grad_seg``, ``grad_seg_seg_head``, and so on."""
    return [_column(term, part) for term in terms for part in parts_of(net)]


def gradient_norms(terms: Mapping[str, torch.Tensor], net: DualTaskNet, fabric: Fabric) -> dict[str, float]:
    """Norm of the gradient of each term, for the shared trunk and for each voxel head.

    The gradients that the weights hold are left alone, and the graph stays, so that the step can go on as if nobody
    had looked. It costs a backward pass a term.

    Args:
        terms: term -> its weighted value, a scalar with a graph.
        net: whose outputs they were computed from.
        fabric: of the run; several processes measure the mean of their gradients, as the optimiser sees it.

    Returns:
        Column -> norm, 0 for a part that a term does not reach; see :func:`columns`.
    """
    parts = parts_of(net)
    weights = [weight for part in parts.values() for weight in part]
    scaler = scaler_of(fabric)
    scale = scaler.get_scale() if scaler else 1.0  # so that small gradients survive in fp16
    norms: dict[str, torch.Tensor] = {}
    for term, value in terms.items():
        found = torch.autograd.grad(value * scale, weights, retain_graph=True, allow_unused=True)
        gradients = iter(torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True))
        for part, of_part in parts.items():
            flat = torch.cat([next(gradients).flatten() for _ in of_part]) / scale
            mean: Any = fabric.all_reduce(flat, reduce_op="mean")
            norms[_column(term, part)] = mean.norm()
    values = torch.stack(list(norms.values())).tolist()  # one transfer from the device for all
    return {column: float(f"{norm:.6g}") for column, norm in zip(norms, values, strict=True)}


def _column(term: str, part: str) -> str:
    return f"grad_{term}_{part}" if part else f"grad_{term}"
