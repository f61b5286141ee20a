"""One stage of training, readable in one sitting.

The state of a run is its weights, the optimiser's moments and the number of steps: all random numbers of step ``n``
follow from ``(seed, n)``, and the learning rate and the ramp are functions of ``n``. So a run that was killed and
resumed ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.masks import dice
from dualtask_lite.cases.sources import absolute
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine import records
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data.cache import training_regions
from dualtask_lite.engine.data.dataset import Region
from dualtask_lite.engine.inference import predict_region
from dualtask_lite.engine.progress import progress_bar
from dualtask_lite.engine.training.devices import make_fabric, scaler_of, set_up
from dualtask_lite.engine.training.memory import check_memory, first_reduction, report_out_of_memory
from dualtask_lite.engine.training.selection import checked_split, training_cases
from dualtask_lite.engine.training.step import Steps, make_optimiser
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import check_writable, only_writer, remove_leftovers
from dualtask_lite.method.network import DualTaskNet

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_FINAL_CASES = 8  # number of training cases on which the Dice in the manifest is measured

T = TypeVar("T")
Callback = Callable[[Mapping[str, Any]], bool | None]
OnValidation = Callable[[DualTaskNet, Sequence[Region], Settings], None]


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
    """Train one stage and write its run folder.

    Args:
        settings: of the run.
        folder: the run folder; it may hold a run only if ``resume`` is set.
        split: the training and validation cases; by default those of the settings, see ``selection.split_for``.
        resume: continue after the last checkpoint in ``folder`` with the same cases, or start if there is none yet. A
            finished run continues if ``optimiser.steps`` was increased.
        progress: show a bar on a terminal or in a notebook.
        on_start: called before the first step, after all checks and after all cases were read.
        callback: called with each row of ``metrics.csv``; if it returns ``True``, the run ends as if it were finished.
            A row holds ``step``, ``lr``, ``total``, each active term and ``seconds``; after a validation ``val_dice``;
            and every ``machine.gradients_every`` steps the norm of the gradient of each term times its weight and
            ramp: ``grad_TERM`` for the shared trunk, ``grad_TERM_seg_head``, ``grad_TERM_distance_head``.
        on_validation: called with the network, the validation regions and the settings after each validation, before
            the callback of that step; for example to show ``predict_region(net, regions[0].image, settings)``. It must
            not change the weights.

    Returns:
        The run folder: ``config.yaml``, ``metrics.csv``, ``model.safetensors``, ``last.ckpt`` and ``manifest.json``.

    Raises:
        DualTaskError: when there is no case to train on, no label contains the target, the folder cannot be written,
            holds a run already or another process writes to it, a resumed run has no checkpoint, other cases, or
            settings that give its weights another meaning, the memory does not suffice, or the loss is not finite.
            Nothing is written before all checks have passed and all cases are read.
    """
    started = time.perf_counter()
    folder = Path(folder)
    if resume:
        check_resumable(folder, settings)
    else:
        _refuse_a_run(folder)
    check_writable(folder)
    fabric = make_fabric(settings)
    files.reset_peak_memory(fabric.device)
    memory_message = check_memory(settings, fabric.device)
    remedy = f"start again with another --out and {first_reduction(settings)}"
    with (
        progress_bar(progress and fabric.is_global_zero) as bar,
        report_out_of_memory("the device ran out of memory in training", remedy),
    ):
        if not bar.disable:
            bar.console.print(memory_message)
        split = checked_split(settings, folder, split, partial(bar.track, description="comparing images"))
        settings = settings.changed({"data.source": absolute(settings.data.source)})
        run = _prepare(fabric, settings, folder, split, started, resume=resume, bar=bar)
        if not resume and fabric.is_global_zero:
            _refuse_a_run(folder)  # again, because another process may have begun one while the cases were read
        with run.open_log(on_start) as log:
            step, row = run.optimise(log, bar, callback, on_validation)
    with run.steps.averaged():
        run.save_results(step, row)
    fabric.barrier()
    return folder


def _refuse_a_run(folder: Path) -> None:
    if (folder / files.METRICS).exists() or (folder / files.CHECKPOINT).exists():
        raise DualTaskError(f"{folder}: holds a run already", "choose another folder, or go on with --resume")


def check_resumable(folder: Path, settings: Settings) -> None:
    """Check that a run can go on with these settings; one without model and checkpoint begins.

    Raises:
        DualTaskError: when a finished run has lost its checkpoint, or other settings began its weights.
    """
    checkpoint = folder / files.CHECKPOINT
    if (folder / files.MODEL).exists() and not checkpoint.exists():
        raise DualTaskError(
            f"{folder}: holds a model without {files.CHECKPOINT}, so its training cannot go on",
            "restore that file, or start a new run in another folder",
        )
    if not checkpoint.exists():
        return
    # Not those of config.yaml, in which the steps may be raised, so that other lines may be changed, too.
    recorded = files.settings_of_checkpoint(checkpoint) or Settings.read(folder / files.CONFIG)
    begun, asked = _of_the_weights(recorded), _of_the_weights(settings)
    for name in (name for name, value in asked.items() if value != begun[name]):
        raise DualTaskError(
            f"{folder}: holds a run with {name} {begun[name]}, not {asked[name]}",
            f"choose another folder for this one, or correct its {files.CONFIG}",
        )


def _of_the_weights(settings: Settings) -> dict[str, Any]:
    """The settings that say what the weights mean; the others may change when a run goes on."""
    return {
        "stage": settings.stage,
        "seed": settings.seed,
        "network": settings.network,
        "sample.spacing": settings.sample.spacing,
        "objective.band": settings.objective.band,
    }


@dataclass(frozen=True)
class _Run:
    """A training whose cases are read and whose network is ready, at step ``first``.

    With several processes, each has its own share of the validation regions, and only process 0 writes files.
    """

    steps: Steps
    folder: Path
    validation: list[Region]
    has_validation: bool  # whether any process has a validation region
    cases: list[files.TrainingCase]  # recorded in the files; empty except in process 0
    first: int  # number of steps already finished
    started: float  # time at which the training was called, earlier by the seconds that a resumed run has used

    @contextmanager
    def open_log(self, on_start: Callable[[], None] | None) -> Iterator[records.MetricsLog | None]:
        """Write the settings and open ``metrics.csv``; ``None`` except in process 0."""
        if not self.steps.fabric.is_global_zero:
            yield None
            return
        with only_writer(self.folder):
            self.steps.settings.write(self.folder / files.CONFIG)
            if on_start:
                on_start()
            remove_leftovers(self.folder)
            log = records.MetricsLog(self.folder / files.METRICS, self.steps.columns(), finished=self.first)
            try:
                yield log
            finally:
                log.close()

    def optimise(
        self, log: records.MetricsLog | None, bar: Any, callback: Callback | None, on_validation: OnValidation | None
    ) -> tuple[int, dict[str, Any]]:
        """Do all remaining steps; returns the number of the last step and its row of metrics."""
        steps, settings, fabric = self.steps, self.steps.settings, self.steps.fabric
        machine = settings.machine
        task = bar.add_task("training", total=settings.optimiser.steps, completed=self.first, note="")
        step, row = self.first, dict[str, Any]()
        for step, row in enumerate(steps.run(self.first), start=self.first + 1):
            is_last = step == settings.optimiser.steps
            if self.has_validation and (is_last or step % machine.validate_every == 0):
                with steps.averaged():
                    row["val_dice"] = self.mean_dice(self.validation)
                    if on_validation and fabric.is_global_zero:
                        on_validation(steps.net, self.validation, settings)
            row["seconds"] = round(time.perf_counter() - self.started, 2)
            if log:
                log.add(row)
            bar.update(task, completed=step, note=f"loss {row['total']:.3f}")
            stop = bool(callback and fabric.is_global_zero and callback(row))
            stop = fabric.broadcast(stop) if callback else False
            if log and (is_last or stop or step % machine.checkpoint_every == 0):
                checkpoint, scaler = self.folder / files.CHECKPOINT, scaler_of(fabric)
                files.save_checkpoint(
                    checkpoint, steps.net, steps.optimiser, step, scaler, settings=settings, cases=self.cases
                )
            if stop:
                break
        return step, row

    def mean_dice(self, regions: Sequence[Region]) -> float | None:
        """See :func:`validate`; every process passes its share of the regions."""
        return validate(self.steps.net, regions, self.steps.settings, self.steps.fabric)

    def save_results(self, step: int, row: Mapping[str, Any]) -> None:
        """Write ``manifest.json`` and then the model, whose file marks the run as finished."""
        fabric, settings = self.steps.fabric, self.steps.settings
        own_regions = evenly(self.steps.regions, _FINAL_CASES)[fabric.global_rank :: fabric.world_size]
        # The last row has no validation if a callback stopped the run, or if the run was killed just after that step.
        validation_dice = row["val_dice"] if "val_dice" in row else self.mean_dice(self.validation)
        final_dice = {"train": self.mean_dice(own_regions), "validation": validation_dice}
        if not fabric.is_global_zero:
            return
        records.write_json(
            self.folder / files.MANIFEST,
            {
                "command": shlex.join(["dualtask", "train", str(self.folder / files.CONFIG)]),
                "seed": settings.seed,
                "steps": step,
                "dice": final_dice,
                "seconds": round(time.perf_counter() - self.started, 1),
                "peak_memory_mb": files.peak_memory_mb(fabric.device),
                "processes": fabric.world_size,
                **files.provenance(fabric.device),
                "held_out": settings.data.held_out,
                "cases": [vars(case) for case in self.cases],
            },
        )
        files.save_model(self.folder / files.MODEL, self.steps.net, settings, self.cases)


def _prepare(
    fabric: Fabric, settings: Settings, folder: Path, split: Split, started: float, *, resume: bool, bar: Any
) -> _Run:
    """Read the cases, build the network, and load the last checkpoint if there is one; write nothing to ``folder``."""
    own_share = slice(fabric.global_rank, None, fabric.world_size)
    if settings.machine.cache_regions:  # each process cuts its share, then every process maps all regions
        _regions(split.train[own_share], settings, bar)
        fabric.barrier()
    regions = _regions(split.train, settings, bar)
    validation_cases = evenly(split.validation, settings.machine.validate_cases)
    validation = _regions(validation_cases[own_share], settings, bar)
    cases = training_cases(split) if fabric.is_global_zero else []
    torch.manual_seed(settings.seed)
    net = files.build_network(settings)
    model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
    checkpoint, first = folder / files.CHECKPOINT, 0
    if resume and checkpoint.exists():
        first = files.load_checkpoint(checkpoint, net, optimiser, scaler_of(fabric))
        started -= records.seconds_until(folder / files.METRICS, first)
    fabric.barrier()  # no process writes before all have read
    steps = Steps(fabric, net, model, optimiser, settings, regions)
    return _Run(steps, folder, validation, bool(split.validation), cases, first, started)


def validate(net: DualTaskNet, regions: Sequence[Region], settings: Settings, fabric: Fabric) -> float | None:
    """Mean of ``region_scores`` over the regions of all processes; ``None`` if no region contains the target."""
    scores = region_scores(net, regions, settings)
    sums: Any = fabric.all_reduce(torch.tensor([sum(scores), len(scores)], dtype=torch.float64), reduce_op="sum")
    total, count = sums.tolist()
    return round(total / count, 4) if count else None


def region_scores(net: DualTaskNet, regions: Sequence[Region], settings: Settings) -> list[float]:
    """Dice, on the working grid, of each region that contains the target.

    The boxes of the regions come from the labels, so these numbers monitor a run and are not a result. To save time,
    the network predicts without test-time flips.
    """
    settings = settings.changed({"prediction.flips": 1})
    scores = []
    for region in regions:
        if region.mask is not None and region.mask.any():
            probability = predict_region(net, region.image, settings)[0].cpu().numpy()
            scores.append(dice(probability >= settings.prediction.threshold, region.mask[0].numpy() > 0))
    return scores


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items at even distances, so that every centre is represented: cases are sorted by centre."""
    return [items[int(at)] for at in np.linspace(0, len(items) - 1, min(count, len(items)))]


def _regions(cases: Sequence[Case], settings: Settings, bar: Any) -> list[Region]:
    return training_regions(cases, settings, partial(bar.track, description="reading cases")) if cases else []
