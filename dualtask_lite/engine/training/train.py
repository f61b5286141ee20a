"""One stage of training, readable in one sitting.

The state of a run is its weights, the optimiser's moments and the number of steps: whatever is drawn in step
``n`` comes from ``(seed, n)``, and the learning rate and the ramps are functions of ``n``. So a run that was
killed goes on to the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.cases.masks import dice, target_mask
from dualtask_lite.cases.sources import absolute, find_cases
from dualtask_lite.cases.splits import Split, leave_one_centre_out, train_validation
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data.cache import training_regions
from dualtask_lite.engine.data.dataset import Region
from dualtask_lite.engine.predict import predict_region
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.training.devices import make_fabric, scaler_of, set_up
from dualtask_lite.engine.training.memory import check_memory, next_smaller, report_out_of_memory
from dualtask_lite.engine.training.step import Steps, make_optimiser
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import remove_leftovers
from dualtask_lite.method.network import DualTaskNet

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_LOOKED_AT = 8  # training cases that the closing Dice is measured on

Callback = Callable[[Mapping[str, Any]], bool | None]
OnValidation = Callable[[DualTaskNet, Sequence[Region], Settings], None]


def split_for(settings: Settings) -> Split:
    """The cases that a run may see, by its settings; the held-out centre is the test part."""
    cases = _labelled_cases(settings)
    share, seed = settings.data.validation, settings.seed
    if settings.data.held_out is None:
        return train_validation(cases, validation=share, seed=seed)
    return leave_one_centre_out(cases, settings.data.held_out, validation=share, seed=seed)


def checked_split(settings: Settings, folder: Path, split: Split | None = None) -> Split:
    """The cases that a run learns from and is watched on, once it is certain that it can learn from them.

    A run keeps to the cases that it began with: ``folder`` may hold a checkpoint that learned from some.

    Args:
        settings: of the run.
        folder: of the run.
        split: the cases; by default what ``settings.data`` says.

    Raises:
        DualTaskError: when there is no labelled case, none that holds the target, or a checkpoint in ``folder`` learned
            from other cases.
    """
    checkpoint = folder / files.CHECKPOINT
    if began_with := files.cases_of_checkpoint(checkpoint) if checkpoint.exists() else ():
        return _split_of(began_with, split, settings, folder)
    split = split or split_for(settings)
    if not split.train:
        raise DualTaskError(
            "there is no labelled case to train on", "see dualtask data check for what is in the folder"
        )
    _check_target_is_labelled(split.train, settings)
    return split


def _labelled_cases(settings: Settings) -> list[Case]:
    """The labelled cases that ``settings.data`` names, of all centres."""
    cases = find_cases(settings.data.source)
    if settings.data.cases is not None:
        known = {case.id: case for case in cases}
        if missing := [name for name in settings.data.cases if name not in known]:
            raise DualTaskError(
                f"data.cases: no case {missing[0]!r} in {settings.data.source}", "see dualtask data check"
            )
        cases = [known[name] for name in settings.data.cases]
    return [case for case in cases if case.label is not None]


def _split_of(began_with: Sequence[files.TrainingCase], split: Split | None, settings: Settings, folder: Path) -> Split:
    """The split that a run began with, by the contents of its images: files may have moved, and others come."""
    here = _labelled_cases(settings) if split is None else [*split.train, *split.validation]
    by_content: dict[str, list[Case]] = {}
    for case in here:
        by_content.setdefault(case.digest(), []).append(case)
    parts: dict[str, list[Case]] = {"train": [], "validation": []}
    for one in began_with:
        same = by_content.get(one.digest, [])
        if not same:
            raise DualTaskError(
                f"{folder}: began with case {one.id} of {one.centre}, which is not among the cases of today",
                "put it back as it was, or start a new run in another folder",
            )
        parts[one.role].append(next((case for case in same if case.id == one.id), same[0]))
    kept = Split(train=tuple(parts["train"]), validation=tuple(parts["validation"]), test=())
    if split and _training_cases(split) != _training_cases(kept):
        raise DualTaskError(f"{folder}: began with another split of the cases", "start a new run in another folder")
    return kept


def _check_target_is_labelled(cases: Sequence[Case], settings: Settings) -> None:
    """Refuse to train on labels none of which holds the target; one that does ends the search."""
    target = STAGES[settings.stage].target
    found: set[int] = set()
    for case in cases:
        label = case.load().label
        if label is None or target_mask(label, target).any():  # who reads the region refuses a case without label
            return
        found |= set(np.unique(label).tolist())
    shown = ", ".join(f"{value} ({LABELS[value]})" for value in sorted(found))
    raise DualTaskError(
        f"{settings.stage}: none of the {len(cases)} labels to train on holds the target, {target}; they hold {shown}",
        "train another stage, or label the target; dualtask data check shows the labels of each source",
    )


def train(
    settings: Settings,
    folder: str | Path,
    *,
    split: Split | None = None,
    resume: bool = False,
    progress: bool = True,
    on_start: Callable[[], None] | None = None,
    callback: Callback | None = None,
    on_validation: OnValidation | None = None,
) -> Path:
    """Train one stage and leave a run folder.

    Args:
        settings: of the run.
        folder: the run folder; it may exist only when ``resume`` is set.
        split: the cases to learn from; by default what ``settings.data`` says.
        resume: go on after the last checkpoint in ``folder``, with the cases that it learned from, or start when there
            is none yet. A finished run whose ``optimiser.steps`` are raised trains on.
        progress: show a bar on a terminal or in a notebook.
        on_start: called when all is checked and read, and the first step comes next.
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
        DualTaskError: when there is nothing to train on, no label holds the target, the folder is taken or its run
            began with other cases, the memory does not suffice, or the loss is not finite. Nothing is written before
            all is checked and read.
    """
    started = time.perf_counter()
    folder = Path(folder)
    if not resume and (folder / files.METRICS).exists():
        raise DualTaskError(f"{folder}: holds a run already", "choose another folder, or go on with --resume")
    fabric = make_fabric(settings)
    needs = check_memory(settings, fabric.device)
    split = checked_split(settings, folder, split)
    settings = settings.changed({"data.source": absolute(settings.data.source)})
    remedy = f"start again with {next_smaller(settings)}"
    with (
        progress_bar(progress and fabric.is_global_zero) as bar,
        report_out_of_memory("the device ran out of memory in training", remedy),
    ):
        if not bar.disable:
            bar.console.print(needs)
        if settings.machine.cache_regions:  # each process cuts its share, then all map everything
            _regions(split.train[fabric.global_rank :: fabric.world_size], settings, bar)
            fabric.barrier()
        regions = _regions(split.train, settings, bar)
        watched = evenly(split.validation, settings.machine.validate_cases)
        validation = _regions(watched[fabric.global_rank :: fabric.world_size], settings, bar)
        used = _training_cases(split) if fabric.is_global_zero else []
        torch.manual_seed(settings.seed)
        net = files.build_network(settings)
        model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
        checkpoint, scaler = folder / files.CHECKPOINT, scaler_of(fabric)
        first = files.load_checkpoint(checkpoint, net, optimiser, scaler) if resume and checkpoint.exists() else 0
        fabric.barrier()  # nobody writes before all have read
        steps = Steps(fabric, net, model, optimiser, settings, regions)
        log = None
        if fabric.is_global_zero:
            settings.write(folder / files.CONFIG)
            if on_start:
                on_start()
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
                    files.save_checkpoint(checkpoint, net, optimiser, step, scaler, cases=used)
                if stop:
                    break
        finally:
            if log:
                log.close()
    mine = regions[:_LOOKED_AT][fabric.global_rank :: fabric.world_size]
    # The last step has no value when a callback stopped the run there, or when the run was killed just after it.
    validated = row["val_dice"] if "val_dice" in row else validate(net, validation, settings, fabric)
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
                "cases": [vars(case) for case in used],
            },
        )
        files.save_model(folder / files.MODEL, net, settings, used)  # last: where it is, the run is finished
    fabric.barrier()
    return folder


def validate(net: DualTaskNet, regions: Sequence[Region], settings: Settings, fabric: Fabric) -> float | None:
    """Mean Dice of regions on the working grid, over all processes; ``None`` when none of them holds the target.

    The regions come from the labels of training centres, so this number watches a run; it is no result. So the image
    is predicted as it is, without the flips that a result is the mean of.
    """
    scores = []
    settings = settings.changed({"prediction.flips": 1})
    for region in regions:
        if region.mask is not None and region.mask.any():
            probability = predict_region(net, region.image, settings)[0].cpu().numpy()
            mask = probability >= settings.prediction.threshold
            scores.append(dice(mask, region.mask[0].numpy() > 0))
    sums: Any = fabric.all_reduce(torch.tensor([sum(scores), len(scores)], dtype=torch.float64), reduce_op="sum")
    total, count = sums.tolist()
    return round(total / count, 4) if count else None


def evenly(cases: Sequence[Case], count: int) -> Sequence[Case]:
    """So many of the cases, evenly spread over all of them: they come sorted by centre."""
    return cases if len(cases) <= count else [cases[n * len(cases) // count] for n in range(count)]


def _regions(cases: Sequence[Case], settings: Settings, bar: Any) -> list[Region]:
    return training_regions(cases, settings, partial(bar.track, description="reading cases")) if cases else []


def _training_cases(split: Split) -> list[files.TrainingCase]:
    parts = (("train", split.train), ("validation", split.validation))
    return [files.TrainingCase(case.id, case.centre, case.digest(), role) for role, cases in parts for case in cases]
