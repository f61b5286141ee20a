"""One optimisation step: batch, views, terms, gradients, update of the weights.

All random numbers of step ``n`` follow from ``(seed, n)``, and the learning rate and the ramp are functions of ``n``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.dataset import Region, Samples
from dualtask_lite.engine.training.devices import pick_device, scaler_of, world_size
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
            yield self.optimise(step, batch)

    def batches(self, first: int) -> Any:
        """Batches from step ``first`` on, the share of this process; loader processes prepare them in advance."""
        optimiser, machine = self.settings.optimiser, self.settings.machine
        batch_size = optimiser.batch // self.fabric.world_size
        own_share = slice(self.fabric.global_rank * batch_size, (self.fabric.global_rank + 1) * batch_size)
        indices = [
            index
            for step in range(first, optimiser.steps)
            for index in range(step * optimiser.batch, (step + 1) * optimiser.batch)[own_share]
        ]
        loader = DataLoader(
            Samples(self.regions, self.settings, indices),
            batch_size=batch_size,
            num_workers=machine.workers,
            prefetch_factor=4 if machine.workers else None,
            pin_memory=self.fabric.device.type == "cuda",
        )
        # The run is a single epoch for the loader, so its worker processes start only once.
        return self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def optimise(self, step: int, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Do one optimisation step and return its row of metrics."""
        settings = self.settings
        rank = self.fabric.global_rank
        generator = torch.Generator().manual_seed(_derive_seed(settings.seed, step, 0, rank))  # contrast
        torch.manual_seed(_derive_seed(settings.seed, step, 1, rank))  # dropout
        rate = learning_rate(step, settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        views = draw_views(batch["image"], settings, batch["index"])  # (views * B, 1, X, Y, Z)
        outputs = per_view(self.model(views), settings.views.count)
        target = losses.Target(batch["mask"], batch["distance_mm"])
        terms = self.objective(outputs, target, generator=generator)
        ramp_factor = ramp(step, settings)
        total = self.objective.total(terms, ramp=ramp_factor)
        self._check_finite(step, terms, batch)
        interval = settings.machine.gradients_every
        norms: dict[str, float] = {}
        if interval and (step + 1) % interval == 0:
            weighted = {term: self.objective.total({term: value}, ramp=ramp_factor) for term, value in terms.items()}
            norms = gradient_norms(weighted, self.net, self.fabric)
        self.optimiser.zero_grad()
        self.fabric.backward(total)
        norm = self.fabric.clip_gradients(
            self.model, self.optimiser, max_norm=settings.optimiser.clip, error_if_nonfinite=False
        )
        assert norm is not None  # Fabric gives none only to a limit by value
        self.optimiser.step()
        self._average_weights()
        values = self._means({"total": total, **terms, "gradient": norm})
        # In fp16 the scaler leaves out the step instead. Here the weights are lost, but not written.
        if not math.isfinite(values.pop("gradient")) and scaler_of(self.fabric) is None:
            raise _not_finite(step, "the gradient", batch)
        return {"step": step + 1, "lr": float(f"{rate:.4g}"), **values, **norms}

    @torch.no_grad()
    def _average_weights(self) -> None:
        """Update the moving average of the weights, a value of the optimiser as its moments are, so that it resumes.

        Source: Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging, in the exponential
        form of ``torch.optim.swa_utils``.
        """
        state, memory = self.optimiser.state, self.settings.optimiser.average
        for weight in self.net.parameters() if memory else ():
            if weight in state:  # else no term has trained it
                average = state[weight].setdefault("average", weight.detach().clone())
                average.lerp_(weight.detach(), 1 / memory)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the network have its averaged weights, if the settings ask for them; then its own again."""
        state = self.optimiser.state if self.settings.optimiser.average else {}
        own = {weight: weight.data for weight in self.net.parameters() if "average" in state.get(weight, {})}
        for weight in own:
            weight.data = state[weight]["average"]
        try:
            yield
        finally:
            for weight, data in own.items():
                weight.data = data

    def _means(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Mean of each value over the processes; a single transfer from the device."""
        stacked: Any = self.fabric.all_reduce(torch.stack(list(values.values())).detach(), reduce_op="mean")
        return {name: round(value, 6) for name, value in zip(values, stacked.tolist(), strict=True)}

    def _check_finite(self, step: int, terms: Mapping[str, torch.Tensor], batch: Mapping[str, Any]) -> None:
        finite = torch.isfinite(torch.stack(list(terms.values()))).tolist()  # a single transfer
        if not_finite := [name for name, is_finite in zip(terms, finite, strict=True) if not is_finite]:
            raise _not_finite(step, f"term {not_finite[0]}", batch)


def _not_finite(step: int, what: str, batch: Mapping[str, Any]) -> DualTaskError:
    cases = ", ".join(batch["case_id"])
    return DualTaskError(
        f"step {step + 1}: {what} is not finite on case {cases}; any earlier checkpoint is kept",
        "lower optimiser.lr in the config.yaml of the run and go on with --resume, or check these cases",
    )


def make_objective(settings: Settings) -> losses.Objective:
    """Build the objective of the settings."""
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
        numbers: (B,) indices of the samples; the views of a sample depend on its index, not on its batch or process.
    """
    views = settings.views
    if views.count == 1:
        return image
    draw = partial(random_view, kernel_sizes=views.kernel_sizes, max_blend=views.max_blend)
    pairs = []  # (first view, second view) of each sample
    for sample, number in zip(image.split(1), numbers.tolist(), strict=True):
        generator = torch.Generator().manual_seed(_derive_seed(settings.seed, number, 2))
        first = sample if views.keep_first else draw(sample, generator)
        pairs.append((first, draw(sample, generator)))
    return torch.cat([torch.cat(view) for view in zip(*pairs, strict=True)])


def per_view(outputs: Outputs, count: int) -> list[Outputs]:
    """Split the outputs of stacked views into one ``Outputs`` for each view."""
    parts = [(None,) * count if field is None else field.chunk(count) for field in outputs]
    return [Outputs(*fields) for fields in zip(*parts, strict=True)]


def make_optimiser(net: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam or AdamW; each step sets the learning rate."""
    options = settings.optimiser
    optimiser_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
    # A fused optimiser needs gradients in the memory layout of the weights, which gradients of several processes do not
    # have; and with it, Fabric cannot clip gradients in fp16.
    fused = pick_device(settings.machine.device) == "cpu" and world_size() == 1
    return optimiser_class(net.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=fused)


def learning_rate(step: int, settings: Settings) -> float:
    """Learning rate of a step (counted from 0): polynomial decay of power 0.9, or linear warm-up and cosine decay."""
    optimiser = settings.optimiser
    progress = step / optimiser.steps
    if optimiser.schedule == "poly":
        return optimiser.lr * (1 - progress) ** 0.9
    warm_up = 0.1
    if progress < warm_up:
        return optimiser.lr * (0.1 + 0.9 * progress / warm_up)
    return optimiser.lr * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def ramp(step: int, settings: Settings) -> float:
    """Factor from 0 to 1 on the weights of all terms except ``seg`` and ``dist``."""
    ramp_steps = settings.objective.ramp * settings.optimiser.steps
    return min(1.0, step / ramp_steps) if ramp_steps else 1.0


def _derive_seed(*numbers: int) -> int:
    """One seed from several numbers, statistically independent of the seeds from other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
