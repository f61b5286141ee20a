"""Inputs of the views: a case, arrays with their spacing, or NIfTI files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.nifti import on_ras_grid, open_image
from dualtask_lite.cases.paths import stem
from dualtask_lite.errors import DualTaskError

Volume = Union[np.ndarray, str, Path]  # noqa: UP007 - an alias is evaluated on Python 3.10 too
CaseLike = Union[Case, Scan, np.ndarray, str, Path]  # noqa: UP007


def as_scan(case: CaseLike, truth: Volume | None = None, spacing: Sequence[float] | None = None) -> Scan:
    """Load a CT from any of the accepted inputs.

    Args:
        case: a case, a loaded one, an array (X, Y, Z) in HU in RAS+ order, or a NIfTI file.
        truth: its labels, (X, Y, Z) of 0, 1, 2, or a NIfTI file; a case has its own.
        spacing: size of a voxel along each axis in mm; for arrays only.

    Raises:
        DualTaskError: for an input that is no CT, labels on another grid, or an array without a valid spacing.
    """
    if isinstance(case, (str, Path)):
        path = Path(case)
        case = Case(stem(path), "unknown", path)
    elif isinstance(case, np.ndarray):
        case = Case("array", "unknown", case, affine=np.diag([*_sides(spacing), 1.0]))
    elif not isinstance(case, Case | Scan):
        raise DualTaskError(f"a {type(case).__name__} is no CT", "give a case, a numpy array or a file")
    scan = case.load() if isinstance(case, Case) else case
    return scan if truth is None else replace(scan, label=labels_on(scan, truth, "truth"))


def labels_on(scan: Scan, labels: Volume | None, name: str) -> NDArray[np.uint8] | None:
    """Check labels of 0, 1, 2 (or a mask) on a scan's grid; a file is read first.

    Raises:
        DualTaskError: when they lie on another grid, or hold other values.
    """
    if labels is None:
        return None
    if isinstance(labels, (str, Path)):
        return Case(scan.id, scan.centre, scan.volume, Path(labels), scan.affine).load().label
    values = _same_shape(scan, labels, name)
    if unknown := sorted(set(np.unique(values).tolist()) - {0, 1, 2}):
        raise DualTaskError(f"the {name} holds the value {unknown[0]:g}", "give labels of 0, 1 and 2, or a mask")
    return values.astype(np.uint8)


def distance_on(scan: Scan, distance: Volume | None) -> NDArray[np.floating[Any]] | None:
    """Check a signed distance in mm on a scan's grid; a file is read first.

    Raises:
        DualTaskError: when it lies on another grid.
    """
    if isinstance(distance, (str, Path)):
        path = Path(distance)
        distance, affine = on_ras_grid(open_image(path, None, str(path)), str(path))
        if distance.shape == scan.shape and not _same_position(affine, scan):
            raise DualTaskError(f"{path}: has another position than the CT", "give it on the grid of the CT")
    return None if distance is None else _same_shape(scan, distance, "distance")


def _sides(spacing: Sequence[float] | None) -> list[float]:
    sides = np.array([] if spacing is None else spacing, dtype=float)
    if sides.shape != (3,) or not (np.isfinite(sides) & (sides > 0)).all():
        found = "an array has no spacing" if spacing is None else f"{spacing} is no spacing"
        raise DualTaskError(found, "give spacing=(x, y, z), the size of its voxels in mm")
    return sides.tolist()


def _same_position(affine: NDArray[np.float64], scan: Scan) -> bool:
    """Whether no voxel of a grid lies more than half a voxel from that of the scan; the corners lie farthest."""
    corners = np.stack(np.meshgrid(*((0, side - 1) for side in scan.shape), indexing="ij"), -1).reshape(-1, 3)
    moved = nib.affines.apply_affine(np.linalg.inv(scan.affine) @ affine, corners)
    return bool((np.abs(moved - corners) <= 0.5).all())


def _same_shape(scan: Scan, array: Any, name: str) -> NDArray[Any]:
    values = np.asarray(array)
    if values.shape != scan.shape:
        raise DualTaskError(
            f"the {name} has shape {values.shape}, the CT {scan.shape}", "give it on the grid of the CT"
        )
    return values
