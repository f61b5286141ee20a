"""Predict an image on the working grid with both heads: sliding windows and test-time flips."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, combinations
from typing import TypeVar

import numpy as np
import torch

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.monai import sliding_window_inference
from dualtask_lite.engine.training.devices import autocast
from dualtask_lite.engine.training.memory import is_out_of_memory
from dualtask_lite.method.convert import distance_to_probability, logit_to_distance
from dualtask_lite.method.distance import from_band
from dualtask_lite.method.network import DualTaskNet

# Number of windows in a batch: with batch size 1 PyTorch runs four times slower on a CPU.
WINDOWS = 4
#: The probability that gives the mask: of the segmentation head, of the distance head, or the mean of both.
HEADS = ("segmentation", "distance", "mean")


def trained_heads(settings: Settings) -> tuple[str, ...]:
    """Those of ``HEADS`` that can give a mask: all, or the only one that was trained."""
    if settings.has_segmentation and settings.has_distance:
        return HEADS
    return ("distance",) if settings.has_distance else ("segmentation",)


def output_head(settings: Settings) -> str:
    """The head whose probability gives the mask; if only one was trained, this one."""
    heads = trained_heads(settings)
    return settings.prediction.heads if len(heads) > 1 else heads[0]


Maps = TypeVar("Maps", np.ndarray, torch.Tensor)


def probability_of(maps: Maps, head: str) -> Maps:
    """(X, Y, Z): the probability of one of ``HEADS``, from the maps of ``predict_heads``."""
    if head == "mean":
        return (maps[0] + maps[2]) / 2
    return maps[0] if head == "segmentation" else maps[2]


def predict_region(net: DualTaskNet, image: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Probability (of the head that gives the mask) and distance in mm, (2, X, Y, Z); see ``predict_heads``."""
    maps = predict_heads(net, image, settings)
    return torch.stack([probability_of(maps, output_head(settings)), maps[1]])


@torch.no_grad()
def predict_heads(net: DualTaskNet, image: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Predict an image (1, X, Y, Z) on the working grid with both heads, in one forward pass for each window.

    Windows overlap and are blended with Gaussian weights (MONAI); the result is the mean over axis flips. If the device
    runs out of memory, the prediction is repeated with fewer windows in a batch, then with smaller windows, which have
    less context; then it warns.

    Returns:
        With a trained distance head (3, X, Y, Z): the probability of the segmentation head, the signed distance in mm,
        and the probability converted from this distance. Otherwise (2, X, Y, Z): the probability, and the distance
        converted from it.
    """
    batch = image[None].to(next(net.parameters()).device)
    was_training = net.training
    net.eval()
    window, batch_size = list(settings.sample.patch), WINDOWS
    try:
        while True:
            try:
                return _mean_over_flips(net, batch, window, batch_size, settings)
            except RuntimeError as error:
                if not is_out_of_memory(error) or (batch_size == 1 and max(window) <= 8):
                    raise
            if batch_size > 1:
                batch_size //= 2
            else:
                window = [max(8, side // 16 * 8) for side in window]
                sides = " x ".join(map(str, window))
                warnings.warn(f"out of memory: predicting in windows of {sides} voxels, one at a time", stacklevel=2)
    finally:
        net.train(was_training)


def flips(count: int) -> list[tuple[int, ...]]:
    """The first ``count`` of the 8 combinations of flipped axes of a (B, C, X, Y, Z) tensor."""
    axes = (2, 3, 4)
    return list(chain.from_iterable(combinations(axes, n) for n in range(4)))[:count]


def _mean_over_flips(
    net: DualTaskNet, batch: torch.Tensor, window: Sequence[int], batch_size: int, settings: Settings
) -> torch.Tensor:
    """(1, 1, X, Y, Z) -> (2 or 3, X, Y, Z), see ``predict_heads``."""
    total = torch.zeros(2 + settings.has_distance, *batch.shape[2:], device=batch.device)
    air_maps: list[torch.Tensor] = []
    for axes in flips(settings.prediction.flips):  # one flip at a time, because a CT is large
        maps = sliding_window_inference(
            batch.flip(axes),
            roi_size=window,
            sw_batch_size=batch_size,
            predictor=lambda crops: _maps_of_windows(net, crops, settings, air_maps),
            overlap=settings.prediction.overlap,
            mode="gaussian",
        )
        assert isinstance(maps, torch.Tensor)
        total += maps.flip(axes)[0]
    return total / settings.prediction.flips


def _maps_of_windows(
    net: DualTaskNet, crops: torch.Tensor, settings: Settings, air_maps: list[torch.Tensor]
) -> torch.Tensor:
    """``_maps`` of windows; empty windows of air are equal, so the network predicts only one of them.

    Args:
        net: the network.
        crops: (B, 1, X, Y, Z).
        settings: of the model.
        air_maps: cache for the maps of an empty window; filled at the first one.
    """
    holds_body = crops.flatten(1).any(1)
    if holds_body.all():
        return _maps(net, crops, settings)
    if not air_maps:
        air_maps.append(_maps(net, torch.zeros_like(crops[:1]), settings))
    maps = air_maps[0].repeat(len(crops), 1, 1, 1, 1)
    if holds_body.any():
        maps[holds_body] = _maps(net, crops[holds_body], settings)
    return maps


def _maps(net: DualTaskNet, crops: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(B, 1, X, Y, Z) -> (B, 2 or 3, X, Y, Z), see ``predict_heads``."""
    with autocast(settings, crops.device):
        outputs = net(crops)
    logit = outputs.seg.float()
    tau, band = settings.objective.tau, settings.objective.band
    if not settings.has_distance:
        return torch.cat([torch.sigmoid(logit), logit_to_distance(logit, tau, band)], 1)
    distance = from_band(outputs.distance.float(), band)
    return torch.cat([torch.sigmoid(logit), distance, distance_to_probability(distance, tau)], 1)
