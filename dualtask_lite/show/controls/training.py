"""Curves that are drawn while a training runs, and two ways to stop it.

The training runs in the cell, as it would without a monitor. The picture is an output that is replaced, which every
front end can do. Every front end can interrupt the kernel, too: the first interrupt ends the training after its step,
as if it were finished; the second breaks it off. The button under the pictures needs widgets and a kernel that
takes a click while a cell runs: JupyterLab and Notebook send it to ipykernel 7 in a thread of its own (a subshell).
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

_SHARE = 10  # drawing may take one part in so many of the time

Predict = Callable[[Any, Any, Any], Any]  # (network, image (1, X, Y, Z), settings) -> (2, X, Y, Z)


class TrainingMonitor:
    """Shows a training as it goes, in the output of the cell that trains.

    Attributes:
        rows: what the training has told so far.
        stopped: whether the button was pressed.
    """

    def __init__(self, predict: Predict | None = None) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self._predict = predict
        self._example: figures.Example | None = None
        self._stop = threading.Event()
        self._shown: Any = None  # handle of the picture in the notebook
        self._next = 0.0  # when to draw again

    @property
    def stopped(self) -> bool:
        """Whether the button was pressed."""
        return self._stop.is_set()

    @property
    def picture(self) -> Picture:
        """The curves so far, and the last predicted slice."""
        return figures.curves(self.rows, self._example)

    def stop(self) -> None:
        """Ask the training to end after the step that runs, as if it were finished; what the button does."""
        self._stop.set()

    def callback(self, row: Mapping[str, Any]) -> bool:
        """Take a row of metrics; for ``train(callback=...)``.

        Returns:
            ``True`` when the training should stop.
        """
        self.rows.append(dict(row))
        now = time.monotonic()
        if in_kernel() and (now >= self._next or self.stopped):
            self._draw()
            self._next = time.monotonic() + _SHARE * (time.monotonic() - now)
        return self.stopped

    def on_validation(self, net: Any, regions: Sequence[Any], settings: Any) -> None:
        """Predict the first validation region that holds a target; for ``train(on_validation=...)``."""
        holding = (region for region in regions if region.mask is not None and region.mask.any())
        region = next(holding, None)
        if self._predict is None or region is None:
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

    def _draw(self) -> None:
        from IPython import get_ipython
        from IPython.display import display

        if self._shown is None:
            self._listen()
            if is_live("ipywidgets"):
                display(self._button() if _takes_clicks() else _interrupt_label())
            self._shown = display(self.picture, display_id=True)
            get_ipython().events.register("post_run_cell", self._finish)
        else:
            self._shown.update(self.picture)

    def _finish(self, *_: Any) -> None:
        """Draw the last steps when the cell has ended; another one gets a picture of its own."""
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._finish)
        self._shown.update(self.picture)
        self._shown = None

    def _listen(self) -> None:
        """Take the next interrupt of this cell as a wish to stop; ipykernel sets the handler anew for each cell."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stop()

    def _button(self) -> Any:
        import ipywidgets

        button = ipywidgets.Button(description="Stop training", icon="stop")
        button.tooltip = "End the training after the step that runs, as if it were finished"

        def press(_: Any) -> None:
            self.stop()
            button.description, button.disabled = "Stopping", True

        button.on_click(press)
        # ipykernel 7.4 sends what a widget hears to where the widget last spoke: to the thread that is busy training.
        vars(button.comm).pop("_reply_subshell_id", None)
        return ipywidgets.HBox([button, _interrupt_label()])

    def __str__(self) -> str:
        return self.picture.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.picture._repr_mimebundle_()


def _interrupt_label() -> Any:
    import ipywidgets

    return ipywidgets.Label("To stop, interrupt the kernel (■): the training ends after its step")


def _takes_clicks() -> bool:
    """Whether this kernel hears a button while a cell runs: an older one would stop when there is nothing to stop."""
    import ipykernel

    return int(ipykernel.__version__.partition(".")[0]) >= 7


def training_monitor(predict: Predict | None = None) -> TrainingMonitor:
    """Watch a training while it runs, and stop it by a button.

    Its output appears where ``train`` runs; the picture of all rows is shown again by the monitor itself. Drawing
    takes at most a tenth of the time.

    Args:
        predict: ``engine.predict.predict_region``, or another function of (network, image, settings), to show a
            slice of the first validation case; no slice without it.

    Example:
        >>> monitor = training_monitor(predict_region)  # doctest: +SKIP
        >>> train(settings, folder, callback=monitor.callback, on_validation=monitor.on_validation)  # doctest: +SKIP
    """
    return TrainingMonitor(predict)
