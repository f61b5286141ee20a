"""The choice of the viewer: the best one that works, so that every view shows something.

A live notebook gets a widget, an exported page a self-contained page, and a picture remains where neither is possible
(GitHub's view of a notebook, PDF).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, cast

from dualtask_lite.errors import DualTaskError
from dualtask_lite.machine import in_kernel

Viewer = Literal["niivue", "itk", "html", "picture"]
ViewerChoice = Literal["auto", "niivue", "itk", "html", "picture"]
VIEWERS: tuple[Viewer, ...] = ("niivue", "itk", "html", "picture")
STATIC: tuple[Viewer, ...] = ("html", "picture")  # need no kernel
VARIABLE = "DUALTASK_VIEWER"


@dataclass(frozen=True, eq=False)
class View:
    """A view of a case; a notebook shows the richest form that it supports.

    Attributes:
        viewer: the viewer that draws it.
        text: description of the view, and the size of the data for the browser.
        widget: the live widget; None without one.
    """

    viewer: Viewer
    text: str
    _bundle: Mapping[str, Any] = field(repr=False)
    widget: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {**self._bundle, "text/plain": self.text}


def choose(viewer: str = "auto", offered: Sequence[Viewer] = VIEWERS) -> Viewer:
    """Choose the viewer.

    Args:
        viewer: one of ``VIEWERS``; or ``auto``: the value of ``DUALTASK_VIEWER``, else the best that works here.
        offered: the viewers of this kind of view.

    A kernel of papermill or nbconvert looks like that of a learner, so builds of static pages set ``DUALTASK_VIEWER``
    to ``html`` or ``picture``. Then no widget is made, even if a notebook requests one: no browser could draw it.
    itkwidgets waits for its browser and would block such a run, so it is used only in kernels that JupyterLab started;
    elsewhere the choice is that of ``auto``.

    Raises:
        DualTaskError: for an unknown viewer, or one that this view does not have.
    """
    preset = os.environ.get(VARIABLE, "auto")
    for name in (viewer, preset):
        if name not in ("auto", *VIEWERS):
            raise DualTaskError(f"the viewer {name!r} is unknown", f"choose auto, {', '.join(VIEWERS)}")
    if viewer != "auto" and viewer not in offered:
        raise DualTaskError(f"this view cannot be drawn by {viewer!r}", f"choose auto, {', '.join(offered)}")
    chosen = preset if viewer == "auto" or (preset in STATIC and viewer not in STATIC) else viewer
    if chosen == "itk" and "JPY_SESSION_NAME" not in os.environ:
        chosen = "auto"
    if chosen in offered:
        return cast(Viewer, chosen)
    if "niivue" in offered:
        return "niivue" if in_kernel() and find_spec("ipyniivue") else "picture"
    return "html"
