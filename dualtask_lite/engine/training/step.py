"""One step of an optimisation: samples, views, terms, gradient, new weights.

Whatever is drawn in step ``n`` comes from ``(seed, n)``, and the learning rate and the ramps are functions of ``n``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Region, Samples
from dualtask_lite.engine.training.devices import pick_device, world_size
from dualtask_lite.engine.training.gradients import columns, gradient_norms
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method import losses
from dualtask_lite.method.network import DualTaskNet, Outputs
from dualtask_lite.method.views import random_view

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Steps:
    """The optimisation steps of a run."""

    def __init__(
        self,
        fabric: Fabric,
        net: DualTaskNet,
        model: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        settings: Settings,
        regions: Sequence[Region],
    ) -> None:
        self.fabric, self.net, self.model, self.optimiser = fabric, net, model, optimiser
        self.settings, self.regions = settings, regions
        self.objective = make_objective(settings)

    def columns(self) -> list[str]:
        """Columns of ``metrics.csv``."""
        terms = list(self.objective.weights)
        gradients = columns(terms, self.net) if self.settings.machine.gradients_every else []
        return ["step", "lr", "total", *terms, *gradients, "val_dice", "seconds"]

    def run(self, first: int) -> Any:
        """Yield one row of metrics for each step from ``first`` (counted from 0) to the last."""
        for step, batch in enumerate(self.batches(first), start=first):
            yield self.one(step, batch)

    def batches(self, first: int) -> Any:
        """The share of this process in each batch from step ``first`` on; the loader makes them ahead."""
        optimiser, machine = self.settings.optimiser, self.settings.machine
        each = optimiser.batch // self.fabric.world_size
        mine = slice(self.fabric.global_rank * each, (self.fabric.global_rank + 1) * each)
        numbers = [
            number
            for step in range(first, optimiser.steps)
            for number in range(step * optimiser.batch, (step + 1) * optimiser.batch)[mine]
        ]
        loader = DataLoader(
            Samples(self.regions, self.settings, numbers),
            batch_size=each,
            num_workers=machine.workers,
            prefetch_factor=4 if machine.workers else None,
            pin_memory=self.fabric.device.type == "cuda",  # the workers live as long as the run: it is one epoch
        )
        return self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def one(self, step: int, batch: Mapping[str, Any]) -> dict[str, Any]:
        """One optimisation step."""
        settings = self.settings
        rank = self.fabric.global_rank
        generator = torch.Generator().manual_seed(_mixed(settings.seed, step, 0, rank))  # contrast
        torch.manual_seed(_mixed(settings.seed, step, 1, rank))  # dropout
        rate = learning_rate(step, settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        views = draw_views(batch["image"], settings, batch["index"])  # (views * B, 1, X, Y, Z)
        outputs = per_view(self.model(views), settings.views.count)
        target = losses.Target(batch["mask"], batch["distance_mm"])
        terms = self.objective(outputs, target, generator=generator)
        share = ramp(step, settings)
        total = self.objective.total(terms, ramp=share)
        self._check_finite(step, terms, batch)
        every = settings.machine.gradients_every
        norms: dict[str, float] = {}
        if every and (step + 1) % every == 0:
            weighted = {term: self.objective.total({term: value}, ramp=share) for term, value in terms.items()}
            norms = gradient_norms(weighted, self.net, self.fabric)
        self.optimiser.zero_grad()
        self.fabric.backward(total)
        self.fabric.clip_gradients(
            self.model, self.optimiser, max_norm=settings.optimiser.clip, error_if_nonfinite=False
        )
        self.optimiser.step()
        values = self._means({"total": total, **terms})
        return {"step": step + 1, "lr": f"{rate:.4g}", **values, **norms}

    def _means(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Mean over the processes; one transfer from the device for all of them."""
        stacked: Any = self.fabric.all_reduce(torch.stack(list(values.values())).detach(), reduce_op="mean")
        return {name: round(value, 6) for name, value in zip(values, stacked.tolist(), strict=True)}

    def _check_finite(self, step: int, terms: Mapping[str, torch.Tensor], batch: Mapping[str, Any]) -> None:
        finite = torch.isfinite(torch.stack(list(terms.values()))).tolist()  # one transfer from the device for all
        if wrong := [name for name, is_finite in zip(terms, finite, strict=True) if not is_finite]:
            cases = ", ".join(batch["case_id"])
            raise DualTaskError(
                f"step {step + 1}: term {wrong[0]} is not finite on case {cases}; the last checkpoint is kept",
                "lower optimiser.lr, or check these cases, then go on with --resume",
            )


def make_objective(settings: Settings) -> losses.Objective:
    """The objective that the settings ask for."""
    objective = settings.objective
    return losses.Objective(
        weights=objective.weights,
        tau=objective.tau,
        band=objective.band,
        surface_weight=objective.surface_weight,
    )


def draw_views(image: torch.Tensor, settings: Settings, numbers: torch.Tensor) -> torch.Tensor:
    """The imaging views of a batch (B, 1, X, Y, Z), stacked along the batch: (views * B, 1, X, Y, Z).

    Args:
        image: (B, 1, X, Y, Z) in [0, 1].
        settings: of the run.
        numbers: (B,) of the samples: a sample has the same views in whatever batch and process it is.
    """
    views = settings.views
    if views.count == 1:
        return image
    draw = partial(random_view, kernel_sizes=views.kernel_sizes, max_blend=views.max_blend)
    drawn = []
    for one, number in zip(image.split(1), numbers.tolist(), strict=True):
        generator = torch.Generator().manual_seed(_mixed(settings.seed, number, 2))
        first = one if views.keep_first else draw(one, generator)
        drawn.append((first, draw(one, generator)))
    return torch.cat([torch.cat(of_all) for of_all in zip(*drawn, strict=True)])


def per_view(outputs: Outputs, count: int) -> list[Outputs]:
    """Split the outputs of stacked views."""
    parts = [(None,) * count if field is None else field.chunk(count) for field in outputs]
    return [Outputs(*fields) for fields in zip(*parts, strict=True)]


def make_optimiser(net: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam or AdamW; the learning rate is set anew in each step."""
    chosen = settings.optimiser
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.name]
    # Fused, it reads the memory as it lies: the gradients of several processes lie otherwise, and Fabric cannot clip
    # them in fp16.
    fused = pick_device(settings.machine.device) == "cpu" and world_size() == 1
    return kind(net.parameters(), lr=chosen.lr, weight_decay=chosen.weight_decay, fused=fused)


def learning_rate(step: int, settings: Settings) -> float:
    """Learning rate of a step (counted from 0): polynomial decay of power 0.9, or one cycle with a cosine."""
    optimiser = settings.optimiser
    done = step / optimiser.steps
    if optimiser.schedule == "poly":
        return optimiser.lr * (1 - done) ** 0.9
    warm_up = 0.1
    if done < warm_up:
        return optimiser.lr * (0.1 + 0.9 * done / warm_up)
    return optimiser.lr * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def ramp(step: int, settings: Settings) -> float:
    """Share of their weight that all terms but ``seg`` and ``dist`` have in a step."""
    rising = settings.objective.ramp * settings.optimiser.steps
    return min(1.0, step / rising) if rising else 1.0


def _mixed(*numbers: int) -> int:
    """One well-mixed seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
