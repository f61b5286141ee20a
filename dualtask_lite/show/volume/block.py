"""The part of a case that is sent to a browser: cropped around the labels, downsampled, and cast to small types."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.masks import Box

MARGIN = 40.0  # mm kept around the labels
LIMIT = 8_000_000  # bytes of voxels that are sent to a browser
_AIR = -500.0  # HU; the body is above it


@dataclass(frozen=True, eq=False)
class Block:
    """The part of a scan that is sent to a browser.

    Attributes:
        ct: (X, Y, Z) int16, HU.
        labels: name -> overlay, (X, Y, Z) uint8.
        affine: (4, 4), voxel -> mm.
    """

    ct: NDArray[np.int16]
    labels: Mapping[str, NDArray[np.uint8]]
    affine: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Size of all voxels in bytes, before compression."""
        return self.ct.nbytes + sum(label.nbytes for label in self.labels.values())

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis, mm."""
        return tuple(float(s) for s in nib.affines.voxel_sizes(self.affine))

    def niftis(self) -> dict[str, bytes]:
        """Encode the volumes as compressed NIfTI files, by name, the CT first."""
        labels = {name: _nifti(label, self.affine) for name, label in self.labels.items()}
        return {"ct": _nifti(self.ct, self.affine), **labels}


def cut_block(scan: Scan, labels: Mapping[str, NDArray[Any]], *, limit: int = LIMIT) -> Block:
    """Crop a scan around all labels (or the body), and downsample it until it is small enough for a browser.

    Args:
        scan: the CT.
        labels: name -> overlay, (X, Y, Z) of small integers on the grid of the CT.
        limit: bytes of voxels of all volumes together.

    Raises:
        ValueError: when a label has another shape.
    """
    if any(label.shape != scan.shape for label in labels.values()):
        raise ValueError(f"an overlay has another shape than the scan, {scan.shape}")
    box, first = _box(scan, labels)
    shape = [part.stop - part.start for part in box]
    target = _coarser(shape, scan.spacing, limit // (2 + len(labels)))
    ct = np.clip(_resized(scan.volume[box], target, "area"), -1024, 3071)
    shrunk = {name: _resized(label[box], target, "nearest-exact").astype(np.uint8) for name, label in labels.items()}
    # A coarse voxel covers `steps` fine ones: the outer faces keep their position, the centres move.
    steps = np.array(shape) / target
    affine = scan.affine @ nib.affines.from_matvec(np.diag(steps), first + (steps - 1) / 2)
    return Block(np.rint(ct).astype(np.int16), shrunk, affine)


def _box(scan: Scan, labels: Mapping[str, NDArray[Any]]) -> tuple[tuple[slice, ...], NDArray[np.int64]]:
    """Find the box to keep and its first voxel: around the labels, else around the body, else everything."""
    marked = np.zeros(scan.shape, bool)
    for label in labels.values():
        marked |= label > 0
    box = Box.around(marked, MARGIN, scan.spacing) or Box.around(scan.volume > _AIR) or Box.whole(scan.shape)
    return box.slices, np.array(box.start)


def _coarser(shape: list[int], spacing: tuple[float, ...], voxels: int) -> tuple[int, ...]:
    """Find the finest grid within a number of voxels; axes that are coarse already keep their size."""
    aim = min(spacing)
    sides = tuple(shape)
    while np.prod(sides) > voxels:
        aim *= 1.02
        sides = tuple(max(1, int(n * min(1.0, mm / aim))) for n, mm in zip(shape, spacing, strict=True))
    return sides


def _resized(voxels: NDArray[Any], sides: tuple[int, ...], mode: str) -> NDArray[np.float32]:
    import torch  # the import takes seconds
    from torch.nn.functional import interpolate

    source = torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))[None, None]
    return interpolate(source, size=sides, mode=mode)[0, 0].numpy()


def _nifti(voxels: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)  # the same case gives the same bytes
