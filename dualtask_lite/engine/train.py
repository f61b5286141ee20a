"""One stage of training, readable in one sitting.

The state of a run is its weights, the optimiser's moments and the number of steps: whatever is drawn in step
``n`` comes from ``(seed, n)``, and the learning rate and the ramps are functions of ``n``. So a run that was
killed goes on to the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split, leave_one_centre_out, train_validation
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.dataset import Region, Samples, training_region
from dualtask_lite.engine.devices import make_fabric, scaler_of, set_up
from dualtask_lite.engine.gradients import columns, gradient_norms
from dualtask_lite.engine.memory import check_memory, next_smaller, out_of_memory_is_told
from dualtask_lite.engine.predict import agreement, predict_region
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import remove_leftovers, unwritable_is_told
from dualtask_lite.method import losses
from dualtask_lite.method.network import DualTaskNet, Outputs
from dualtask_lite.method.views import random_view

_LOOKED_AT = 8  # training cases that the closing Dice is measured on

Callback = Callable[[Mapping[str, Any]], bool | None]
OnValidation = Callable[[DualTaskNet, Sequence[Region], Settings], None]


def split_for(settings: Settings) -> Split:
    """The cases that a run may see, by its settings; the held-out centre is the test part."""
    cases = find_cases(settings.data.source)
    if settings.data.cases is not None:
        known = {case.id: case for case in cases}
        if missing := [name for name in settings.data.cases if name not in known]:
            raise DualTaskError(
                f"data.cases: no case {missing[0]!r} in {settings.data.source}", "see dualtask data check"
            )
        cases = [known[name] for name in settings.data.cases]
    cases = [case for case in cases if case.label is not None]
    share, seed = settings.data.validation, settings.seed
    if settings.data.held_out is None:
        return train_validation(cases, validation=share, seed=seed)
    return leave_one_centre_out(cases, settings.data.held_out, validation=share, seed=seed)


def train(
    settings: Settings,
    folder: str | Path,
    *,
    split: Split | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callback | None = None,
    on_validation: OnValidation | None = None,
) -> Path:
    """Train one stage and leave a run folder.

    Args:
        settings: of the run.
        folder: the run folder; it may exist only when ``resume`` is set.
        split: the cases to learn from; by default what ``settings.data`` says.
        resume: go on after the last checkpoint in ``folder``, or start when there is none yet.
        progress: show a bar when standard error is a terminal.
        callback: called with each row of ``metrics.csv``; returning ``True`` stops the run as if it were finished.
            A row holds ``step``, ``lr``, ``total``, each term that is on, ``seconds``; in a step that validates
            ``val_dice``; and every ``machine.gradients_every`` steps the norm of the gradient of each term times its
            weight and ramp: ``grad_TERM`` for the shared trunk, ``grad_TERM_seg_head``, ``grad_TERM_distance_head``.
        on_validation: called with the network, the validation regions and the settings after each validation, before
            the callback of that step: to predict and show one, say with ``predict_region(net, regions[0].image,
            settings)``. It must leave the weights alone.

    Returns:
        The run folder: ``config.yaml``, ``metrics.csv``, ``model.safetensors``, ``last.ckpt`` and ``manifest.json``.

    Raises:
        DualTaskError: when there is nothing to train on, the folder is taken, the memory does not suffice, or the loss
            is not finite.
    """
    started = time.perf_counter()
    folder = Path(folder)
    if not resume and (folder / files.METRICS).exists():
        raise DualTaskError(f"{folder}: holds a run already", "choose another folder, or go on with --resume")
    split = split or split_for(settings)
    if not split.train:
        raise DualTaskError(
            "there is no labelled case to train on", "see dualtask data check for what is in the folder"
        )
    fabric = make_fabric(settings)
    needs = check_memory(settings, fabric.device)
    with unwritable_is_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remedy = f"start again with {next_smaller(settings)}"
    with (
        progress_bar(progress and fabric.is_global_zero) as bar,
        out_of_memory_is_told("the device ran out of memory in training", remedy),
    ):
        if not bar.disable:
            bar.console.print(needs)
        regions = _regions(split.train, settings, bar)
        validation = _regions(split.validation[fabric.global_rank :: fabric.world_size], settings, bar)
        seen = _seen(split) if fabric.is_global_zero else []
        torch.manual_seed(settings.seed)
        net = files.build_network(settings)
        model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
        checkpoint, scaler = folder / files.CHECKPOINT, scaler_of(fabric)
        first = files.load_checkpoint(checkpoint, net, optimiser, scaler) if resume and checkpoint.exists() else 0
        fabric.barrier()  # nobody writes before all have read
        steps = _Steps(fabric, net, model, optimiser, settings, regions)
        log = None
        if fabric.is_global_zero:
            settings.write(folder / files.CONFIG)
            remove_leftovers(folder)
            log = files.MetricsLog(folder / files.METRICS, steps.columns(), finished=first)
        task = bar.add_task("training", total=settings.optimiser.steps, completed=first, note="")
        machine = settings.machine
        step, row = first, dict[str, Any]()
        try:
            for step, row in enumerate(steps.run(first), start=first + 1):
                last = step == settings.optimiser.steps
                if split.validation and (last or step % machine.validate_every == 0):
                    row["val_dice"] = validate(net, validation, settings, fabric)
                    if on_validation and fabric.is_global_zero:
                        on_validation(net, validation, settings)
                row["seconds"] = round(time.perf_counter() - started, 2)
                if log:
                    log.add(row)
                bar.update(task, completed=step, note=f"loss {row['total']:.3f}")
                stop = bool(callback and fabric.is_global_zero and callback(row))
                stop = fabric.broadcast(stop) if callback else False
                if log and (last or stop or step % machine.checkpoint_every == 0):
                    files.save_checkpoint(checkpoint, net, optimiser, step, scaler)
                if stop:
                    break
        finally:
            if log:
                log.close()
    mine = regions[:_LOOKED_AT][fabric.global_rank :: fabric.world_size]
    # A run that was killed after its last step has no row.
    validated = row.get("val_dice") if row else validate(net, validation, settings, fabric)
    dice = {"train": validate(net, mine, settings, fabric), "validation": validated}
    if fabric.is_global_zero:
        files.write_json(
            folder / files.MANIFEST,
            {
                "command": f"dualtask train {folder / files.CONFIG}",
                "seed": settings.seed,
                "steps": step,
                "dice": dice,
                "seconds": round(time.perf_counter() - started, 1),
                "peak_memory_mb": files.peak_memory_mb(fabric.device),
                "processes": fabric.world_size,
                **files.provenance(fabric.device),
                "held_out": settings.data.held_out,
                "cases": [vars(case) for case in seen],
            },
        )
        files.save_model(folder / files.MODEL, net, settings, seen)  # last: where it is, the run is finished
    fabric.barrier()
    return folder


def make_optimiser(net: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam or AdamW; the learning rate is set anew in each step."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser.name]
    return kind(net.parameters(), lr=settings.optimiser.lr, weight_decay=settings.optimiser.weight_decay)


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


class _Steps:
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
            pin_memory=self.fabric.device.type == "cuda",
        )
        batches = self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        for step, batch in enumerate(batches, start=first):
            yield self.one(step, batch)

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
        outputs = _per_view(self.model(views), settings.views.count)
        target = losses.Target(batch["mask"], batch["distance_mm"])
        terms = self.objective(outputs, target, generator=generator)
        share = ramp(step, settings)
        total = self.objective.total(terms, ramp=share)
        self._insist_on_finite(step, terms, batch)
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

    def _insist_on_finite(self, step: int, terms: Mapping[str, torch.Tensor], batch: Mapping[str, Any]) -> None:
        for name, value in terms.items():
            if not torch.isfinite(value):
                cases = ", ".join(batch["case_id"])
                raise DualTaskError(
                    f"step {step + 1}: term {name} is not finite on case {cases}; the last checkpoint is kept",
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
    drawn = []
    for one, number in zip(image.split(1), numbers.tolist(), strict=True):
        generator = torch.Generator().manual_seed(_mixed(settings.seed, number, 2))
        first = one if views.keep_first else random_view(one, generator, max_blend=views.max_blend)
        drawn.append((first, random_view(one, generator, max_blend=views.max_blend)))
    return torch.cat([torch.cat(of_all) for of_all in zip(*drawn, strict=True)])


def _per_view(outputs: Outputs, count: int) -> list[Outputs]:
    """Split the outputs of stacked views."""
    parts = [(None,) * count if field is None else field.chunk(count) for field in outputs]
    return [Outputs(*fields) for fields in zip(*parts, strict=True)]


def validate(net: DualTaskNet, regions: Sequence[Region], settings: Settings, fabric: Fabric) -> float | None:
    """Mean Dice of regions on the working grid, over all processes; ``None`` when none of them holds the target.

    The regions come from the labels of training centres, so this number watches a run; it is no result.
    """
    scores = []
    for region in regions:
        if region.mask is not None and region.mask.any():
            probability = predict_region(net, region.image, settings)[0].cpu().numpy()
            mask = probability >= settings.prediction.threshold
            scores.append(agreement(mask, region.mask[0].numpy() > 0))
    sums: Any = fabric.all_reduce(torch.tensor([sum(scores), len(scores)], dtype=torch.float64), reduce_op="sum")
    total, count = sums.tolist()
    return round(total / count, 4) if count else None


def _regions(cases: Sequence[Case], settings: Settings, bar: Any) -> list[Region]:
    return [training_region(case, settings) for case in bar.track(cases, description="reading cases")] if cases else []


def _seen(split: Split) -> list[files.Seen]:
    parts = (("train", split.train), ("validation", split.validation))
    return [files.Seen(case.id, case.centre, case.digest(), role) for role, cases in parts for case in cases]


def _mixed(*numbers: int) -> int:
    """One well-mixed seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
