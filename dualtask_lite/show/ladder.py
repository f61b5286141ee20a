"""Which viewer draws: the best that works here, so that there is always something to look at.

A widget where a browser can draw it, a page that holds all it needs where only pages are kept, and a picture
where neither is possible (GitHub's view of a notebook, PDF).
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
Asked = Literal["auto", "niivue", "itk", "html", "picture"]
VIEWERS: tuple[Viewer, ...] = ("niivue", "itk", "html", "picture")
STATIC: tuple[Viewer, ...] = ("html", "picture")  # need no kernel
VARIABLE = "DUALTASK_VIEWER"


@dataclass(frozen=True, eq=False)
class View:
    """Something to look at; a notebook shows the best that it can draw.

    Attributes:
        viewer: what draws it.
        text: what it shows, in words, and how much the browser gets.
        widget: the live widget, to work on with its own calls; None without one.
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
    """Decide what draws.

    Args:
        viewer: one of ``VIEWERS``; or ``auto``: what ``DUALTASK_VIEWER`` names, else the best that works here.
        offered: what there is for this kind of view.

    papermill and nbconvert run a kernel as a learner does: who builds static pages sets ``DUALTASK_VIEWER`` to
    ``html`` or ``picture``. Then no widget is made, also where a notebook asks for one: nobody could draw it.
    itkwidgets waits for its browser and would stop such a run, so it is used only where JupyterLab started the
    kernel; elsewhere the choice is as for ``auto``.

    Raises:
        DualTaskError: for an unknown viewer, or one that this view does not have.
    """
    kept = os.environ.get(VARIABLE, "auto")
    for name in (viewer, kept):
        if name not in ("auto", *VIEWERS):
            raise DualTaskError(f"the viewer {name!r} is unknown", f"choose auto, {', '.join(VIEWERS)}")
    if viewer != "auto" and viewer not in offered:
        raise DualTaskError(f"this view cannot be drawn by {viewer!r}", f"choose auto, {', '.join(offered)}")
    wanted = kept if viewer == "auto" or (kept in STATIC and viewer not in STATIC) else viewer
    if wanted == "itk" and "JPY_SESSION_NAME" not in os.environ:
        wanted = "auto"
    if wanted in offered:
        return cast(Viewer, wanted)
    if "niivue" in offered:
        return "niivue" if in_kernel() and find_spec("ipyniivue") else "picture"
    return "html"
