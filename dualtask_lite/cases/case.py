"""One CT with its label: load, check, geometry, and the way back to the file's own grid.

A file may store its voxels in any order. Here everything is on the *RAS+ grid*: the same voxels, with the axes
turned around so that they run to the patient's right, front and head. Turning moves voxels and never mixes
them, so what is saved lies on the file's grid exactly.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from dualtask_lite.cases import dicom
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file

LABELS = {0: "background", 1: "pancreas", 2: "tumour"}
CT_WINDOW = (-100.0, 240.0)  # HU, mapped to [0, 1] (METHOD, section Data)

_RAS = axcodes2ornt(("R", "A", "S"))
_DEFLATED = 1032  # bytes that gzip can hold in one of its own, at the most
_SPACING = (0.05, 30.0)  # mm; what a CT voxel may measure
UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError)  # what nibabel raises


@dataclass(frozen=True)
class Finding:
    """Something that a check found: an ``error`` forbids the use of the case, a ``warning`` does not."""

    level: Literal["error", "warning"]
    what: str
    remedy: str


@dataclass(frozen=True, eq=False)
class Case:
    """One CT, with its label when it has one; nothing is read before it is asked for.

    Args:
        id: unique among the cases used together.
        centre: the hospital.
        image: a NIfTI file, the folder of a DICOM series, or an array (X, Y, Z) in HU.
        label: a NIfTI file or an array on the same grid; 0 background, 1 pancreas, 2 tumour.
        affine: (4, 4), voxel -> mm in RAS+, of arrays; files bring their own.
        label_map: what each value of the label file means here, where that differs; applied when it is read.
        patient: whose CT it is; the cases of one patient stay on one side of a split. By default its own.
        origin: the known source that published the image first, where the set that holds it says so.
    """

    id: str
    centre: str
    image: Path | np.ndarray
    label: Path | np.ndarray | None = None
    affine: np.ndarray | None = None
    label_map: Mapping[int, int] | None = None
    patient: str | None = None
    origin: str | None = None

    def load(self) -> Scan:
        """Read and check the case.

        Raises:
            DualTaskError: on the first thing that forbids its use; it names the file and a remedy.
        """
        scan, findings = _examine(self)
        for finding in findings:
            if finding.level == "error":
                raise DualTaskError(finding.what, finding.remedy)
        assert scan is not None  # what could not be read was an error
        return scan

    def digest(self) -> str:
        """SHA-256 of the CT's voxels, whatever the file's name, compression, number type and voxel order."""
        if isinstance(self.image, np.ndarray):
            return _digest(_open(self.image, self.affine, self.id), self.id)
        try:
            stat = self.image.stat()
            stamp = dicom.stamp(self.image) if self.image.is_dir() else (stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            raise DualTaskError(f"{self.image}: cannot be read ({error})", "check the path") from error
        return _file_digest(self.image, *stamp)


@dataclass(frozen=True, eq=False)
class Scan:
    """A case in memory, on its RAS+ grid.

    Attributes:
        id: of its case.
        centre: of its case.
        volume: (X, Y, Z) float32, HU.
        label: (X, Y, Z) uint8 of 0, 1, 2; or None.
        affine: (4, 4), voxel -> mm.
        source: the image as its file holds it: its header and its order of the voxels.
    """

    id: str
    centre: str
    volume: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    source: nib.Nifti1Image

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.volume.shape
        return x, y, z

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis, mm."""
        x, y, z = (float(s) for s in nib.affines.voxel_sizes(self.affine))
        return x, y, z

    @property
    def has_tumour(self) -> bool:
        """Whether its label holds any tumour."""
        return self.label is not None and bool((self.label == 2).any())

    def save(self, volume: np.ndarray, path: str | Path) -> Path:
        """Write an array (X, Y, Z) of this grid as NIfTI on the grid, affine and voxel order of the file.

        Args:
            volume: of this scan's shape; its number type is kept.
            path: ``.nii`` or ``.nii.gz``; missing folders are made.

        Raises:
            DualTaskError: when the file cannot be written.
            ValueError: when the shape is another.
        """
        if volume.shape != self.shape:
            raise ValueError(f"the array has shape {volume.shape}, the scan {self.shape}")
        back = ornt_transform(_RAS, io_orientation(self.source.affine))
        header = self.source.header.copy()
        header.set_data_dtype(volume.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # display range of the CT, not of this
        for free_text in ("descrip", "aux_file", "db_name", "intent_name"):  # here some converters write the patient
            header[free_text] = b""
        header.extensions.clear()
        image = nib.Nifti1Image(apply_orientation(volume, back), self.source.affine, header)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                nib.save(image, temporary)
        except OSError as error:
            raise DualTaskError(
                f"{path}: cannot be written ({error})", "choose another folder, or free some space"
            ) from error
        return path


def check(case: Case) -> list[Finding]:
    """Look at a case as training would: header, voxels, label, grid."""
    return _examine(case)[1]


def _examine(case: Case) -> tuple[Scan | None, list[Finding]]:
    """Read a case and note what is wrong with it; no scan when it cannot be read."""
    name = str(case.image) if isinstance(case.image, Path) else case.id
    try:
        source = _open(case.image, case.affine, name)
        volume, affine = _ras(source, name)
        findings = list(_of_grid(source, name))
        if any(finding.level == "error" for finding in findings):
            return None, findings
        findings += _of_voxels(volume, name)
        label = None
        if case.label is None:
            findings.append(
                Finding("warning", f"{name}: has no label", "it can be predicted, not trained or scored on")
            )
        else:
            label_name = str(case.label) if isinstance(case.label, Path) else f"label of {case.id}"
            values, label_affine = _ras(_open(case.label, case.affine, label_name), label_name)
            values = _mapped(values, case.label_map)
            of_label = list(_of_label(values, label_affine, volume, affine, label_name))
            findings += of_label
            if all(finding.level == "warning" for finding in of_label):
                label = values.astype(np.uint8)
    except DualTaskError as error:
        return None, [Finding("error", error.what, error.remedy)]
    return Scan(case.id, case.centre, volume, label, affine, source), findings


def _open(source: Path | np.ndarray, affine: np.ndarray | None, name: str) -> nib.Nifti1Image:
    """Open a file (or wrap an array) as an image of three axes; its voxels are not read yet."""
    if isinstance(source, np.ndarray):
        image: Any = nib.Nifti1Image(source.astype(np.float32), np.eye(4) if affine is None else affine)
    elif source.is_dir():
        image = dicom.read_series(source)
    else:
        try:
            image = nib.load(source)
        except UNREADABLE as error:
            raise DualTaskError(
                f"{name}: is not a readable NIfTI file ({_first_line(error)})", "give .nii or .nii.gz"
            ) from error
        if not isinstance(image, nib.Nifti1Pair):
            raise DualTaskError(f"{name}: is {type(image).__name__}, not NIfTI", "convert it to .nii.gz")
        _insist_on_size(image, name)
    if image.get_data_dtype().fields or np.issubdtype(image.get_data_dtype(), np.complexfloating):
        raise DualTaskError(
            f"{name}: holds colours or complex numbers, not HU", "export the CT itself, not a picture of it"
        )
    if len(image.shape) < 3 or any(side != 1 for side in image.shape[3:]) or 0 in image.shape:
        raise DualTaskError(f"{name}: has the dimensions {image.shape}, not three", "give one volume (X, Y, Z) a file")
    return image if len(image.shape) == 3 else image.slicer[(..., *(0,) * (len(image.shape) - 3))]


def _insist_on_size(image: nib.Nifti1Pair, name: str) -> None:
    """Refuse a header that promises more voxels than its file can hold, before memory is set aside for them."""
    file = Path(str(image.file_map["image"].filename))
    holds = file.stat().st_size * (_DEFLATED if file.suffix.lower() == ".gz" else 1)
    promised = math.prod(image.shape) * image.get_data_dtype().itemsize
    if min(image.shape, default=0) < 0 or promised > holds:
        raise DualTaskError(
            f"{name}: is damaged or cut off (its header promises {image.shape} voxels, more than the file can hold)",
            "fetch or export it again",
        )


def _ras(image: nib.Nifti1Image, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (float32) and affine on the RAS+ grid."""
    affine = image.affine
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DualTaskError(
            f"{name}: its affine is singular, so its voxels have no size", "export it again with its geometry"
        )
    try:
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except UNREADABLE as error:
        raise DualTaskError(
            f"{name}: is damaged or cut off ({_first_line(error)})", "fetch or export it again"
        ) from error
    except MemoryError as error:
        raise DualTaskError(
            f"{name}: its {image.shape} voxels do not fit into memory", "crop it, or use a machine with more memory"
        ) from error
    turn = ornt_transform(io_orientation(affine), _RAS)
    turned = np.ascontiguousarray(apply_orientation(voxels, turn))
    return turned, affine @ nib.orientations.inv_ornt_aff(turn, image.shape)


def _of_grid(image: nib.Nifti1Image, name: str) -> Iterator[Finding]:
    """Findings about the size and shape of the voxels."""
    spacing = nib.affines.voxel_sizes(image.affine)
    shown = " x ".join(f"{s:.4g}" for s in spacing)
    low, high = _SPACING
    if (spacing < low).any() or (spacing > high).any():
        yield Finding("error", f"{name}: voxels of {shown} mm cannot be a CT's", "mend the header: spacing is in mm")
        return
    directions = image.affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 0.02:
        yield Finding(
            "warning",
            f"{name}: its axes are not at right angles (gantry tilt?)",
            "resample it; distances in mm are off otherwise",
        )


def _of_voxels(volume: np.ndarray, name: str) -> Iterator[Finding]:
    """Findings about the values of the CT."""
    if not np.isfinite(volume).all():
        share = 100 * (1 - np.isfinite(volume).mean())
        yield Finding(
            "error",
            f"{name}: {share:.2g} % of its voxels are not finite",
            "replace NaN and infinite by -1000 HU (air)",
        )
        return
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        yield Finding("error", f"{name}: every voxel is {low:g}", "export the CT again; this one shows nothing")
    elif low > -200 or high < 100:
        yield Finding(
            "warning",
            f"{name}: values from {low:g} to {high:g} do not look like HU (air is -1000)",
            "rescale to HU with the slope and intercept of the scanner, or leave it out if it is a mask",
        )


def _of_label(
    label: np.ndarray, label_affine: np.ndarray, volume: np.ndarray, affine: np.ndarray, name: str
) -> Iterator[Finding]:
    """Findings about the label and its grid."""
    if label.shape != volume.shape:
        yield Finding(
            "error",
            f"{name}: is {label.shape}, its image {volume.shape}",
            "resample the label to the grid of the image",
        )
        return
    corners = nib.affines.apply_affine(affine, _corners(volume.shape))
    apart = np.abs(nib.affines.apply_affine(label_affine, _corners(volume.shape)) - corners).max()
    if apart > nib.affines.voxel_sizes(affine).min() / 2:
        yield Finding(
            "error",
            f"{name}: lies {apart:.3g} mm from its image",
            "resample the label to the grid of the image",
        )
        return
    values = np.unique(label)
    if unknown := [value for value in values.tolist() if value not in LABELS]:
        known = ", ".join(f"{value} {what}" for value, what in LABELS.items())
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        yield Finding("error", f"{name}: holds the unknown label {shown}", f"map the labels to {known}")
    elif not values.any():
        yield Finding(
            "warning",
            f"{name}: is empty",
            "fine when the CT shows no pancreas; else label it or leave it out",
        )


def _mapped(label: np.ndarray, label_map: Mapping[int, int] | None) -> np.ndarray:
    """The label in our values; a value that the map does not name stays, to be found unknown."""
    if not label_map:
        return label
    mapped = label.copy()
    for theirs, ours in label_map.items():
        mapped[label == theirs] = ours
    return mapped


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) voxel indices of a volume's corners."""
    return np.stack(np.meshgrid(*((0, side - 1) for side in shape), indexing="ij"), -1).reshape(-1, 3)


@lru_cache(maxsize=4096)
def _file_digest(path: Path, _modified: int, _size: int) -> str:
    return _digest(_open(path, None, str(path)), str(path))


def _digest(image: nib.Nifti1Image, name: str) -> str:
    voxels, _ = _ras(image, name)
    whole = np.rint(np.nan_to_num(voxels)).astype(np.int32)
    return hashlib.sha256(str(whole.shape).encode() + whole.tobytes()).hexdigest()


def _first_line(error: BaseException) -> Any:
    return (str(error).splitlines() or [type(error).__name__])[0]
