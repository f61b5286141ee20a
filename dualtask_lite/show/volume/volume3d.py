"""3D views of a case: a widget in a live notebook, a page that opens anywhere, or a picture.

The browser gets the region around the pancreas, downsampled when it would be large.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import CT_WINDOW, Scan
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.files import whole_file
from dualtask_lite.show import figures, planes
from dualtask_lite.show.inputs import CaseLike, Volume, as_scan, distance_on, labels_on
from dualtask_lite.show.overlays import Overlay, overlays
from dualtask_lite.show.picture import Picture
from dualtask_lite.show.viewer import View, ViewerChoice, choose
from dualtask_lite.show.volume import itk, niivue
from dualtask_lite.show.volume.block import Block, cut_block

_STRUCTURES = ((2, LABELS[2]), (1, LABELS[1]))


def volume3d(
    case: CaseLike,
    prediction: Volume | None = None,
    distance: Volume | None = None,
    *,
    truth: Volume | None = None,
    spacing: Sequence[float] | None = None,
    viewer: ViewerChoice = "auto",
) -> View:
    """Show a case in 3D in a notebook, with overlays of truth, prediction, errors and distances.

    Args:
        case: a case, a loaded one, an array (X, Y, Z) in HU in RAS+ order, or a NIfTI file.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2 on its grid, or a NIfTI file.
        distance: signed distance, (X, Y, Z) in mm, negative inside, or a NIfTI file.
        truth: labels for an array or a file; a case has its own.
        spacing: size of a voxel along each axis in mm; for arrays only.
        viewer: ``niivue``, the widget of a live notebook; ``itk``, itkwidgets in JupyterLab; ``html``, NiiVue in the
            output itself, which exported pages keep; ``picture``, three planes; ``auto``, the value of
            ``DUALTASK_VIEWER``, else the widget in a kernel that has ipyniivue, else the picture.

    Raises:
        DualTaskError: when the viewer is unknown or unavailable, or an array lies on another grid.
    """
    chosen = choose(viewer)
    subject = _Subject.of(case, prediction, distance, truth, spacing)
    picture = subject.picture()
    if chosen == "picture":
        return View(chosen, picture.alt, picture.bundle())
    block = subject.block()
    if chosen == "html":
        text = subject.describe(block)
        source = html.escape(niivue.make_page(block, subject.layers, subject.start(), picture, subject.title, text))
        style = f"width: 100%; height: {niivue.HEIGHT}px; border: 0"
        frame = f'<iframe title="{html.escape(text)}" style="{style}" srcdoc="{source}"></iframe>'
        return View(chosen, text, {"text/html": frame})
    if chosen == "itk":
        widget, legend = itk.draw(block, subject.start())
        text = f"{subject.describe(block, hues=False)} {legend}"
        return View(chosen, text, {"text/html": f"<p>{html.escape(text)}</p>"}, widget)
    text = subject.describe(block)
    widget, box = niivue.make_widget(block, subject.layers, subject.start(), text)
    # A front end without widgets shows the picture.
    return View(chosen, text, {**box._repr_mimebundle_(), **picture.bundle()}, widget)


def page(
    case: CaseLike,
    prediction: Volume | None,
    file: str | Path,
    *,
    distance: Volume | None = None,
    truth: Volume | None = None,
    spacing: Sequence[float] | None = None,
    title: str = "",
) -> Path:
    """Write one HTML file that shows a case in three planes and in 3D; it needs no network.

    Args:
        case: a case, a loaded one, an array (X, Y, Z) in HU in RAS+ order, or a NIfTI file.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2 on its grid, or a NIfTI file; or None.
        file: to write; missing folders are created.
        distance: signed distance, (X, Y, Z) in mm, negative inside, or a NIfTI file.
        truth: labels for an array or a file; a case has its own.
        spacing: size of a voxel along each axis in mm; for arrays only.
        title: of the page; by default centre and case.

    Returns:
        The path of the file.

    Raises:
        DualTaskError: when ipyniivue, which contains the viewer, is not installed, or the file cannot be written.
    """
    subject = _Subject.of(case, prediction, distance, truth, spacing)
    block, path = subject.block(), Path(file)
    source = niivue.make_page(
        block, subject.layers, subject.start(), subject.picture(), title or subject.title, subject.describe(block)
    )
    with whole_file(path) as temporary:
        temporary.write_text(source, encoding="utf-8")
    return path


@dataclass(frozen=True, eq=False)
class _Subject:
    """The content of a view, for every viewer."""

    scan: Scan
    prediction: NDArray[np.uint8] | None
    layers: list[Overlay]

    @classmethod
    def of(
        cls,
        case: CaseLike,
        prediction: Volume | None,
        distance: Volume | None,
        truth: Volume | None,
        spacing: Sequence[float] | None,
    ) -> _Subject:
        scan = as_scan(case, truth, spacing)
        predicted = labels_on(scan, prediction, "prediction")
        return cls(scan, predicted, overlays(scan, predicted, distance_on(scan, distance)))

    @property
    def title(self) -> str:
        return f"Centre {self.scan.centre}, case {self.scan.id} in 3D"

    def picture(self) -> Picture:
        """Draw three planes, where no 3D view is possible."""
        return figures.orthogonal(self.scan, prediction=self.prediction)

    def block(self) -> Block:
        """Crop and downsample the volumes for a browser."""
        return cut_block(self.scan, {layer.name: layer.values for layer in self.layers})

    def start(self) -> tuple[float, ...]:
        """Find the first position of the view, mm: the lesion, else the organ, else the middle."""
        truth = self.scan.label
        shown = truth if truth is not None and truth.any() else self.prediction
        at, _ = planes.middle(shown, self.scan.shape, _STRUCTURES)
        return tuple(float(mm) for mm in nib.affines.apply_affine(self.scan.affine, at))

    def describe(self, block: Block, *, hues: bool = True) -> str:
        """Describe the view, with volumes measured on the scan's own voxels, and the size of the data.

        Args:
            block: the data for the browser.
            hues: name the colours; itkwidgets has its own.
        """
        scan = self.scan
        blue, orange, magenta, pale, full = (
            f" ({hue})" if hues else "" for hue in ("blue", "orange", "magenta", "pale", "full")
        )
        words = [f"CT of centre {scan.centre}, case {scan.id}, shown from {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} HU."]
        if scan.label is not None:
            pancreas, tumour = _ml(scan, scan.label)
            words.append(f"True labels: pancreas{blue} {pancreas}, tumour{orange} {tumour}.")
        if self.prediction is not None:
            pancreas, tumour = _ml(scan, self.prediction)
            words.append(f"Prediction{magenta}: pancreas{pale} {pancreas}, tumour{full} {tumour}.")
        sides, steps = " × ".join(map(str, block.ct.shape)), " × ".join(f"{mm:.2g}" for mm in block.spacing)
        words.append(f"The browser gets {block.nbytes / 1e6:.1f} MB of voxels: {sides} of {steps} mm.")
        return " ".join(words)


def _ml(scan: Scan, label: NDArray[Any]) -> list[str]:
    voxel = float(np.prod(scan.spacing)) / 1000
    return [f"{np.count_nonzero(label == value) * voxel:.1f} ml" for value in (1, 2)]
