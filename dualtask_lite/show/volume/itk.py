"""A 3D view by itkwidgets (ITK and VTK in the browser), for JupyterLab.

Only this module imports itkwidgets, and only when the user chooses it: after its import every cell waits for an answer
of the browser, so without its JavaScript a notebook would hang.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import CT_WINDOW
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.volume.block import Block
from dualtask_lite.viewers.extension import status
from dualtask_lite.viewers.rewrite import CDN

_BLEND = 0.6  # share of the labels' colour over the grey values
_TIMEOUT = 3  # s for an answer of the network
_COLOURS = ("red", "violet", "green", "teal")  # of the viewer's own table, in the order of the labels that occur
_NAMES = ("true pancreas", "true tumour", "predicted pancreas", "predicted tumour")  # of the labels from 1


def draw(block: Block, start: Sequence[float]) -> tuple[Any, str]:
    """Show a block in the running cell.

    The viewer starts with an axial slice; its menu offers the other planes and 3D.

    Args:
        block: the volumes to show.
        start: first position of the view, mm.

    Returns:
        The ``itkwidgets.Viewer``, and the legend of its colours.

    Raises:
        DualTaskError: when itkwidgets is not installed, or its JavaScript is neither on this machine nor reachable.
    """
    _check_javascript()
    from itkwidgets import view

    labels = merged(block)
    present = [] if labels is None else [value for value in np.unique(labels).tolist() if value]
    label_image = {} if labels is None else {"label_image": _image(labels, block)}
    viewer = view(
        image=_image(block.ct, block),
        cmap="Grayscale",
        color_range=list(CT_WINDOW),
        view_mode="ZPlane",
        z_slice=_height(block, start),
        **label_image,
    )
    if present:  # as an argument of view it would reach the browser before the labels
        viewer.set_label_image_blend(_BLEND)
    legend = [f"{_NAMES[value - 1]} {colour}" for value, colour in zip(present, _COLOURS, strict=False)]
    return viewer, f"In itkwidgets: {', '.join(legend) or 'no labels'}."


def merged(block: Block) -> NDArray[np.uint8] | None:
    """Merge the labels into one volume for itkwidgets: the truth as 1 and 2, voxels only predicted as 3 and 4."""
    truth, prediction = block.labels.get("truth"), block.labels.get("prediction")
    if prediction is None:
        return truth
    only = np.where(prediction > 0, prediction + 2, 0).astype(np.uint8)
    return only if truth is None else np.where(truth > 0, truth, only)


def _image(voxels: NDArray[Any], block: Block) -> Any:
    """Convert voxels to the axes of ITK: from (X, Y, Z) in RAS+ to (z, y, x) towards head, back and left."""
    from ngff_zarr import to_ngff_image

    reordered = np.ascontiguousarray(voxels[::-1, ::-1].transpose(2, 1, 0))
    first = block.affine @ [voxels.shape[0] - 1, voxels.shape[1] - 1, 0, 1]
    origin = {"x": -float(first[0]), "y": -float(first[1]), "z": float(first[2])}
    return to_ngff_image(
        reordered, dims=["z", "y", "x"], scale=dict(zip("xyz", block.spacing, strict=True)), translation=origin
    )


def _height(block: Block, at: Sequence[float]) -> float:
    """Position of a point (mm) along the third axis of the viewer, which ignores that a scan may be oblique."""
    voxel = nib.affines.apply_affine(np.linalg.inv(block.affine), at)
    first = block.affine @ [block.ct.shape[0] - 1, block.ct.shape[1] - 1, 0, 1]  # as in ``_image``
    return float(first[2] + voxel[2] * block.spacing[2])


def _check_javascript() -> None:
    """Check that the JavaScript is on this machine or reachable on the network."""
    if not find_spec("itkwidgets"):
        raise DualTaskError("itkwidgets is not installed", "run pip install 'dualtask-lite[viewers]'")
    if status().state == "local":
        return
    try:
        urllib.request.urlopen(CDN, timeout=_TIMEOUT).close()  # noqa: S310  # a constant
    except urllib.error.HTTPError:
        return  # the server answers
    except OSError as error:
        raise DualTaskError(
            "itkwidgets would hang: its JavaScript is not on this machine, and there is no network",
            "run dualtask viewers install where there is a network, or leave viewer='itk' out",
        ) from error
