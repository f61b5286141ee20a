"""Curves of a running training, and two ways to stop it.

The training runs in the cell, as without a monitor. The picture is one output that is updated, which every front end
supports. Every front end can also interrupt the kernel: the first interrupt ends the training after the current step,
as if it were finished; the second aborts it. The button needs widgets and a kernel that handles a click while a cell
runs: JupyterLab and Notebook send it to a separate thread (subshell) of ipykernel 7.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualtask_lite.machine import in_kernel
from dualtask_lite.show import figures
from dualtask_lite.show.controls.explorer import is_live
from dualtask_lite.show.picture import Picture

_SHARE = 10  # drawing takes at most one part in this many of the time

Predict = Callable[[Any, Any, Any], Any]  # (network, image (1, X, Y, Z), settings) -> (2, X, Y, Z)


class TrainingMonitor:
    """Shows a running training in the output of its cell; used again, it shows the next one instead.

    Attributes:
        rows: the metrics of the training so far.
        stopped: whether the user asked to stop it.
    """

    def __init__(self, predict: Predict | None = None) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self._predict = predict
        self._example: figures.Example | None = None
        self._stop = threading.Event()
        self._ended = False  # by a stop, of which the training was told
        self._output: Any = None  # handle of the picture in the notebook
        self._next = 0.0  # time of the next update

    @property
    def stopped(self) -> bool:
        """Whether the user asked to stop."""
        return self._stop.is_set()

    @property
    def picture(self) -> Picture:
        """The curves so far, and the last predicted slice."""
        return figures.curves(self.rows, self._example)

    def stop(self) -> None:
        """Ask the training to end after the current step, as if it were finished; the button calls this."""
        self._stop.set()

    def callback(self, row: Mapping[str, Any]) -> bool:
        """Receive a row of metrics; for ``train(callback=...)``.

        Returns:
            ``True`` when the training should stop.
        """
        if self._ended or (self.rows and row["step"] <= self.rows[-1]["step"]):
            self._begin_again(row)
        self.rows.append(dict(row))
        now = time.monotonic()
        if in_kernel() and (now >= self._next or self.stopped):
            self._draw()
            self._next = time.monotonic() + _SHARE * (time.monotonic() - now)
        self._ended = self.stopped
        return self._ended

    def on_validation(self, net: Any, regions: Sequence[Any], settings: Any) -> None:
        """Predict the first validation region with a target; for ``train(on_validation=...)``."""
        region = next((one for one in regions if one.mask is not None and one.mask.any()), None)
        if self._predict is None or region is None:
            self._example = None
            return
        truth = region.mask[0].numpy() > 0
        probability = self._predict(net, region.image, settings)[0].cpu().numpy()
        level = int(truth.sum(axis=(0, 1)).argmax())
        self._example = figures.Example(
            region.image[0, :, :, level].numpy(),
            truth[:, :, level],
            probability[:, :, level] >= settings.prediction.threshold,
            region.spacing[:2],
            f"case {region.case_id}",
        )

    def _begin_again(self, row: Mapping[str, Any]) -> None:
        """Show the training of ``row`` in a new picture: another one, or the same that goes on after an earlier step.

        A stop that ended the previous training does not end this one; a stop that came later does.
        """
        if self._output is not None:  # in the same cell: the previous picture keeps its last steps
            self._output.update(self.picture)
            self._output = None
        if self._ended:
            self._stop.clear()
        self.rows = [earlier for earlier in self.rows if earlier["step"] < row["step"]]
        if "val_dice" not in row:  # else the example is of this training
            self._example = None
        self._next = 0.0

    def _draw(self) -> None:
        from IPython import get_ipython
        from IPython.display import display

        if self._output is None:
            self._handle_interrupts()
            if is_live("ipywidgets"):
                display(self._button() if _handles_clicks() else _interrupt_label())
            self._output = display(self.picture, display_id=True)
            get_ipython().events.register("post_run_cell", self._finish)
        else:
            self._output.update(self.picture)

    def _finish(self, *_: Any) -> None:
        """Draw the last steps when the cell has ended; the next cell gets a new picture."""
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._finish)
        self._output.update(self.picture)
        self._output = None

    def _handle_interrupts(self) -> None:
        """Let the next interrupt of this cell stop the training; ipykernel resets the handler for each cell."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stop()

    def _button(self) -> Any:
        import ipywidgets

        button = ipywidgets.Button(description="Stop training", icon="stop")
        button.tooltip = "End the training after the current step, as if it were finished"

        def press(_: Any) -> None:
            self.stop()
            button.description, button.disabled = "Stopping", True

        button.on_click(press)
        # ipykernel 7.4 sends messages for a widget to the thread that last used it: the one that is busy training.
        vars(button.comm).pop("_reply_subshell_id", None)
        return ipywidgets.HBox([button, _interrupt_label()])

    def __str__(self) -> str:
        return self.picture.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.picture._repr_mimebundle_()


def _interrupt_label() -> Any:
    import ipywidgets

    return ipywidgets.Label("To stop, interrupt the kernel (■): the training ends after the current step")


def _handles_clicks() -> bool:
    """Whether this kernel handles a button while a cell runs: an older one would do so after the training."""
    import ipykernel

    return int(ipykernel.__version__.partition(".")[0]) >= 7


def training_monitor(predict: Predict | None = None) -> TrainingMonitor:
    """Monitor a training while it runs, and stop it by a button.

    The output appears in the cell that runs ``train``; the monitor itself displays the final picture again. Drawing
    takes at most a tenth of the time.

    Args:
        predict: ``engine.inference.predict_region``, or another function of (network, image, settings); with it the
            monitor shows a slice of the first validation case.

    Example:
        >>> monitor = training_monitor(predict_region)  # doctest: +SKIP
        >>> train(settings, folder, callback=monitor.callback, on_validation=monitor.on_validation)  # doctest: +SKIP
    """
    return TrainingMonitor(predict)
