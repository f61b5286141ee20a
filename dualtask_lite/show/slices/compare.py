"""Predictions of the same CT side by side, under one slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.inputs import CaseLike, Volume, as_scan, labels_on
from dualtask_lite.show.picture import Picture
from dualtask_lite.show.slices.browser import SliceBrowser, browse, write_figure
from dualtask_lite.show.viewer import STATIC, ViewerChoice, choose

_GAP = 8  # px between two pictures


@dataclass(frozen=True, repr=False)  # megabytes of pictures
class Comparison:
    """Slice browsers under one slider, shown by a notebook and by pages exported from it.

    Attributes:
        title: of the figure.
        panels: heading -> browser.
        still: the first slices of all browsers as one picture.
    """

    title: str
    panels: Mapping[str, SliceBrowser]
    still: Picture

    def to_html(self) -> str:
        """Write a self-contained ``figure`` element."""
        return write_figure(self.title, dict(self.panels))

    def __str__(self) -> str:
        return f"{self.title}. {self.still.alt}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {**self.still.bundle(), "text/html": self.to_html(), "text/plain": str(self)}


def compare(
    case: CaseLike,
    predictions: Mapping[str, Volume],
    *,
    truth: Volume | None = None,
    spacing: Sequence[float] | None = None,
    plane: str = "axial",
    name: str = "",
    viewer: ViewerChoice = "auto",
) -> Comparison | Picture:
    """Compare predictions of the same CT, side by side under one slider: two models, or two heads of one.

    The truth is outlined in each panel. A single prediction is shown beside the truth.

    Args:
        case: a case, a loaded one, an array (X, Y, Z) in HU in RAS+ order, or a NIfTI file.
        predictions: labels, (X, Y, Z) of 0, 1, 2 on its grid, or NIfTI files, each under a name. For a
            distance head give the mask of its inside: ``(distance < 0) * 2`` for a tumour.
        truth: labels for an array or a file; a case has its own.
        spacing: size of a voxel along each axis in mm; for arrays only.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        name: of the case in the caption; by default its id.
        viewer: ``html``, ``picture`` or ``auto``; see ``slices``.

    Raises:
        DualTaskError: for an array on another grid than the CT, an unknown plane or viewer, or nothing to compare.
    """
    chosen = choose(viewer, STATIC)
    scan = as_scan(case, truth, spacing)
    masks = {head: labels_on(scan, prediction, f"prediction {head!r}") for head, prediction in predictions.items()}
    if not masks or (len(masks) == 1 and scan.label is None):
        raise DualTaskError(f"cannot compare {len(masks)} predictions", "give two predictions, or one and the truth")
    if len(masks) == 1:
        masks = {"truth": None, **masks}
    labels = [label for label in masks.values() if label is not None]
    panels = {head: browse(scan, label, None, plane=plane, name=name, beside=labels) for head, label in masks.items()}
    title = next(iter(panels.values())).title
    still = _side_by_side(panels)
    return still if chosen == "picture" else Comparison(title, panels, still)


def _side_by_side(panels: Mapping[str, SliceBrowser]) -> Picture:
    """Combine the first slices of all panels into one picture."""
    pictures = [Image.open(BytesIO(browser.still.png)).convert("RGB") for browser in panels.values()]
    width, height = pictures[0].size
    sheet = Image.new("RGB", ((width + _GAP) * len(pictures) - _GAP, height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, ((width + _GAP) * index, 0))
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    descriptions = (f"{head}: {browser.still.alt}" for head, browser in panels.items())
    return Picture(buffer.getvalue(), "From left to right. " + " ".join(descriptions))
