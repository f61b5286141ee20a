"""One CT with its label: loading, checks, geometry, and saving on the grid of the file.

A file may store its axes in any order and direction. A loaded case lies on the *RAS+ grid*: the same voxels, with the
axes permuted and flipped so that they run to the patient's right, front and head. This moves voxels without
interpolation, so a saved array lies exactly on the grid of the file.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from dualtask_lite.cases import dicom
from dualtask_lite.cases.digests import file_digests
from dualtask_lite.cases.findings import (
    Finding,
    check_grid,
    check_label,
    check_voxels,
    has_position,
    meanings_of,
    round_labels,
)
from dualtask_lite.cases.nifti import RAS, digest_of_voxels, on_ras_grid, open_image
from dualtask_lite.cases.paths import is_nifti, printable
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file

CT_WINDOW = (-100.0, 240.0)  # HU, mapped to [0, 1] (METHOD, section Data)


@dataclass(frozen=True, eq=False)
class Case:
    """One CT, with its label when it has one; only ``load`` and ``digest`` read its files.

    Args:
        id: unique among the cases used together; characters that cannot be printed are escaped, as ``%1B``.
        centre: the hospital; escaped likewise.
        image: a NIfTI file, the folder of a DICOM series, or an array (X, Y, Z) in HU. A path may be a string.
        label: a NIfTI file or an array on the same grid; 0 background, 1 pancreas, 2 tumour.
        affine: (4, 4), voxel -> mm in RAS+, of arrays, such as ``np.diag([*spacing, 1])``; files bring their own.
        label_map: value in the label file -> our value, for files with other or fewer values; ``load`` applies it. Any
            value without an entry, except 0, is an error.
        patient: id of the patient, whose cases a split keeps together. By default each case is another patient.
        origin: the known source that published the image first, if the data set names it.

    Raises:
        TypeError: when the id or the centre is no text, the image or the label is neither a path nor an array, or an
            array has no affine.
    """

    id: str
    centre: str
    image: Path | np.ndarray
    label: Path | np.ndarray | None = None
    affine: np.ndarray | None = None
    label_map: Mapping[int, int] | None = None
    patient: str | None = None
    origin: str | None = None

    def __post_init__(self) -> None:
        for name in ("id", "centre"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"case {self.id}: its {name} is {type(value).__name__}, not a text")
            object.__setattr__(self, name, printable(value))
        for name in ("image", "label"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Path(value))
            elif not isinstance(value, Path | np.ndarray) and not (name == "label" and value is None):
                raise TypeError(f"case {self.id}: its {name} is {type(value).__name__}, not a path or a numpy array")
        if isinstance(self.image, np.ndarray) and self.affine is None:
            raise TypeError(f"case {self.id}: its image is an array; give its affine too, without which no mm is known")

    def load(self) -> Scan:
        """Read and check the case.

        Raises:
            DualTaskError: for the first error that forbids its use; it names the file and a remedy.
        """
        return self.load_with_warnings()[0]

    def load_with_warnings(self) -> tuple[Scan, list[str]]:
        """Read and check the case, with what ``dualtask data check`` warns of.

        Raises:
            DualTaskError: see ``load``.
        """
        scan, findings = examine(self)
        for finding in findings:
            if finding.level == "error":
                raise DualTaskError(finding.what, finding.remedy)
        assert scan is not None  # an unreadable file has raised an error above
        return scan, [f"{finding.what}; {finding.remedy}" for finding in findings]

    def digest(self) -> str:
        """SHA-256 of the CT's voxels; independent of the file's name, compression, data type and voxel order."""
        if isinstance(self.image, np.ndarray):
            return digest_of_voxels(on_ras_grid(open_image(self.image, self.affine, self.id), self.id)[0])
        try:
            stat = self.image.stat()
            stamp = dicom.stamp(self.image) if self.image.is_dir() else (stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            raise DualTaskError(f"{self.image}: cannot be read ({error})", "check the path") from error
        return file_digests(self.image, *stamp)[0]


@dataclass(frozen=True, eq=False)
class Scan:
    """A case in memory, on its RAS+ grid.

    Attributes:
        id: of the case.
        centre: of the case.
        volume: (X, Y, Z) float32, HU.
        label: (X, Y, Z) uint8 of 0, 1, 2; or None.
        affine: (4, 4), voxel -> mm.
        source: the image as the file stores it, with its header and voxel order.
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
        """Whether the label contains a tumour."""
        return self.label is not None and bool((self.label == 2).any())

    def save(self, volume: np.ndarray, path: str | Path) -> Path:
        """Write an array (X, Y, Z) on this grid as NIfTI, with the affine and the voxel order of the file.

        Args:
            volume: of this scan's shape; its data type is preserved, and booleans become 0 and 1.
            path: ``.nii`` or ``.nii.gz``; missing folders are created.

        Raises:
            DualTaskError: when the file cannot be written.
            ValueError: when the shape differs, NIfTI has no such data type, or the name does not end in a NIfTI suffix.
        """
        path = Path(path)
        if not is_nifti(path):
            raise ValueError(f"{path}: is not the name of a NIfTI file; end it in .nii or .nii.gz")
        if volume.shape != self.shape:
            raise ValueError(f"the array has shape {volume.shape}, the scan {self.shape}")
        if volume.dtype == bool:
            volume = volume.astype(np.uint8)
        to_file = ornt_transform(RAS, io_orientation(self.source.affine))
        image_class = nib.Nifti2Image if isinstance(self.source.header, nib.Nifti2Header) else nib.Nifti1Image
        header = image_class.header_class.from_header(self.source.header, check=False)
        try:
            header.set_data_dtype(volume.dtype)
        except HeaderDataError as error:
            raise ValueError(f"NIfTI cannot store the data type {volume.dtype}; save uint8 or float32") from error
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # the display range was that of the CT
        for free_text in ("descrip", "aux_file", "db_name", "intent_name"):  # may hold the patient's name
            if free_text in header:  # NIfTI-2 has fewer
                header[free_text] = b""
        header.extensions.clear()
        image = image_class(apply_orientation(volume, to_file), self.source.affine, header)
        # Opened here: from Python 3.12 on, a gzip stream that fails on a full disk leaves its own file open.
        with whole_file(path) as temporary, temporary.open("wb") as file:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:  # reproducible: no name, no time
                    image.to_stream(packed)
            else:
                image.to_stream(file)
        return path


def check(case: Case) -> list[Finding]:
    """Check a case as training does: header, voxels, label and grid."""
    return examine(case)[1]


def examine(case: Case) -> tuple[Scan | None, list[Finding]]:
    """Read a case and collect its findings; the scan is None when it cannot be read."""
    name = str(case.image) if isinstance(case.image, Path) else case.id
    try:
        source = open_image(case.image, case.affine, name)
        volume, affine = on_ras_grid(source, name)
        findings = list(check_grid(source, name))
        if any(finding.level == "error" for finding in findings):
            return None, findings
        findings += check_voxels(volume, name)
        label = None
        if case.label is None:
            findings.append(
                Finding("warning", f"{name}: has no label", "use it for prediction only: scores need a label")
            )
        else:
            label_name = str(case.label) if isinstance(case.label, Path) else f"label of {case.id}"
            label_source = open_image(case.label, source.affine, label_name)
            values, label_affine = on_ras_grid(label_source, label_name)
            values = round_labels(values)
            positioned, meanings = has_position(label_source), meanings_of(case.label_map)
            label_findings = list(
                check_label(values, label_affine, volume, affine, label_name, meanings=meanings, positioned=positioned)
            )
            findings += label_findings
            if all(finding.level == "warning" for finding in label_findings):
                label = _map_label(values, meanings)
    except DualTaskError as error:
        return None, [Finding("error", error.what, error.remedy)]
    return Scan(case.id, case.centre, volume, label, affine, source), findings


def _map_label(label: np.ndarray, meanings: Mapping[int, int]) -> np.ndarray:
    """Map a label to our values (uint8); ``check_label`` has refused one that holds a value without a meaning."""
    mapped = np.zeros(label.shape, np.uint8)
    for file_value, our_value in meanings.items():
        mapped[label == file_value] = our_value
    return mapped
