"""The embedded data: synthetic abdominal CT of several centres, generated from a seed.

``data/centres.yaml`` describes how the centres differ, one named value with its source on each line. The voxels are
in HU; the labels are those of the Medical Segmentation Decathlon's Task07.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from scipy.ndimage import gaussian_filter

from dualtask_lite.cases.anatomy import LARGER, Canvas, Tissue, Tumour, TumourKind, paint_patient
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import move_into, report_write_errors
from dualtask_lite.resources import data_file

VERSION = 1  # of the generator: the same version and seed give the same voxels
MATRIX = 96  # default number of voxels along x and y
COVERAGE = 150.0  # mm along z
WITHOUT_TUMOUR = 8  # one case in this many has no tumour

# HU of the tissues that do not take up contrast agent, textbook values.
_UNENHANCED = {
    Tissue.AIR: -1000,
    Tissue.FAT: -100,
    Tissue.SUBCUTANEOUS: -105,
    Tissue.MUSCLE: 60,
    Tissue.BONE: 600,
    Tissue.MARROW: 180,
    Tissue.FLUID: 12,
    Tissue.GAS: -950,
    Tissue.WALL: 75,
    Tissue.DUCT: 15,
}
_CYST = 12.0  # HU, fluid
_DIAMETER = (8.0, 75.0)  # mm, smallest and largest
_TUMOUR_SITES = ((0.65, 0.08, 0.28), (0.2, 0.4, 0.68), (0.15, 0.72, 0.92))  # share, from, to: head, body, tail


@dataclass(frozen=True)
class Tumours:
    """Kinds and sizes of a centre's tumours; a pair is mean and standard deviation."""

    solid: float
    iso: float
    cystic: float
    contrast_hu: tuple[float, float]
    iso_contrast_hu: tuple[float, float]
    diameter_mm: tuple[float, float]
    iso_diameter_mm: tuple[float, float]


@dataclass(frozen=True)
class Centre:
    """One synthetic hospital: its scanner, its protocol and its tumours."""

    name: str
    title: str
    hu: dict[str, float]
    field_of_view_mm: float
    slice_mm: float
    noise_hu: float
    kernel_voxels: float
    tumours: Tumours
    exam: bool = False  # used by the exam only


def centres(*, exam: bool = False) -> dict[str, Centre]:
    """Read the centres of ``data/centres.yaml``, by name: those of the lessons, or that of the exam."""
    entries = yaml.safe_load(data_file("centres.yaml").read_text(encoding="utf-8"))
    try:
        all_centres = [
            Centre(name=name, **{**entry, "tumours": Tumours(**entry["tumours"])}) for name, entry in entries.items()
        ]
        return {centre.name: centre for centre in all_centres if centre.exam is exam}
    except (TypeError, KeyError, AttributeError) as error:
        raise DualTaskError(
            f"{data_file('centres.yaml')}: {error}", "give each centre the same values as the file in the package"
        ) from error


def make_case(
    centre: str | Centre,
    number: int,
    *,
    scanner: str | Centre | None = None,
    seed: int = 0,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
) -> Case:
    """Generate one case.

    Args:
        centre: the hospital of the patient: a name in ``data/centres.yaml``, or a changed copy of a centre.
        number: of the patient; with centre and seed it decides anatomy and lesion.
        scanner: the centre that scans the patient; by default the patient's own. Attenuation, the lesion's contrast in
            this phase, field of view, slices, kernel and noise are the scanner's.
        seed: of the whole set.
        size: voxels along x, y and z; by default 96 x 96 and as many slices as cover 150 mm.
        spacing: mm; by default what makes ``size`` cover the scanner's field of view.

    Returns:
        A case in memory: HU as int16, labels as uint8.

    Raises:
        DualTaskError: when the centre or the scanner is unknown, or ``size`` is too small.
    """
    if size is not None and min(size) < 1:
        raise DualTaskError(f"size {tuple(size)} is too small", LARGER)
    centre = _find_centre(centre)
    scanner = centre if scanner is None else _find_centre(scanner)
    rng, offset, tumour = _draw_patient(centre, number, seed)
    axes, spacing = _grid(scanner, size, spacing, offset)
    canvas = Canvas(axes, rng)
    paint_patient(canvas, tumour, rng)
    label = np.zeros(canvas.tissue.shape, np.uint8)
    label[np.isin(canvas.tissue, (Tissue.PANCREAS, Tissue.DUCT))] = 1
    label[np.isin(canvas.tissue, (Tissue.TUMOUR, Tissue.RIM))] = 2
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    case_id = f"{centre.name}_{number:03d}"
    return Case(
        case_id if scanner.name == centre.name else f"{case_id}_by_{scanner.name}",
        centre.name,
        _scan(canvas.tissue, tumour, scanner, rng),
        label,
        affine,
    )


def lesion(centre: str | Centre, number: int, *, seed: int = 0) -> Tumour | None:
    """The lesion of a case: its kind, diameter and position; None in a patient without one.

    Args:
        centre: the hospital of the patient.
        number: of the patient.
        seed: of the whole set.

    Raises:
        DualTaskError: when the centre is unknown.
    """
    return _draw_patient(_find_centre(centre), number, seed)[2]


def make_phantom(
    folder: str | Path,
    *,
    cases: int = 16,
    seed: int = 0,
    size: Sequence[int] | None = None,
    centres_to_write: Mapping[str, Centre] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data of some centres, each as a folder in Task07 layout; they appear only when all are complete.

    Args:
        folder: to write to; it is created.
        cases: number of cases of each centre.
        centres_to_write: by name; by default all except that of the exam.
        seed: of the set.
        size: voxels along x, y and z, see ``make_case``.
        progress: called with the number of finished cases and of all cases.

    Returns:
        The folder.

    Raises:
        DualTaskError: when the folder cannot be written.
    """
    folder = Path(folder)
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as unfinished:
            selected = centres() if centres_to_write is None else centres_to_write
            _write_centres(Path(unfinished), selected, cases, seed, size, progress)
            move_into(Path(unfinished), folder)
    return folder


def _write_centres(
    folder: Path,
    selected: Mapping[str, Centre],
    cases: int,
    seed: int,
    size: Sequence[int] | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    for index, centre in enumerate(selected.values()):
        names = []
        for number in range(cases):
            case = make_case(centre, number, seed=seed, size=size)
            names.append(f"{case.id}.nii.gz")
            for part, array in (("imagesTr", case.image), ("labelsTr", case.label)):
                (folder / centre.name / part).mkdir(parents=True, exist_ok=True)
                image = nib.Nifti1Image(array, case.affine)
                image.header.set_xyzt_units("mm")
                nib.save(image, folder / centre.name / part / names[-1])
            if progress:
                progress(index * cases + number + 1, len(selected) * cases)
        description = {
            "name": centre.name,
            "description": f"synthetic CT, {centre.title}; seed {seed}, generator {VERSION}",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {str(value): name for value, name in LABELS.items()},
            "numTraining": cases,
            "numTest": 0,
            "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
            "test": [],
        }
        (folder / centre.name / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _find_centre(centre: str | Centre) -> Centre:
    """Get a centre by its name; a centre itself is returned unchanged."""
    if isinstance(centre, Centre):
        return centre
    known = centres() | centres(exam=True)
    if centre not in known:
        raise DualTaskError(f"there is no centre {centre!r}", f"choose one of: {', '.join(known)}")
    return known[centre]


def _draw_patient(centre: Centre, number: int, seed: int) -> tuple[np.random.Generator, Sequence[float], Tumour | None]:
    """Draw the patient's offset from the middle of the scanner (mm) and the lesion; also return the generator.

    The generator draws the anatomy next, which is the same for every scanner: no grid changes the number of draws.
    """
    rng = np.random.default_rng([seed, number, *centre.name.encode()])
    offset = rng.uniform((-6, -6, -8), (6, 6, 8)).tolist()  # no patient lies exactly in the middle of the scanner
    is_healthy = number % WITHOUT_TUMOUR == _number_without_tumour(centre, number, seed)
    tumour = None if is_healthy else _draw_tumour(centre, rng)
    return rng, offset, tumour


def _grid(
    scanner: Centre, size: Sequence[int] | None, spacing: Sequence[float] | None, offset: Sequence[float]
) -> tuple[list[np.ndarray], tuple[float, ...]]:
    """Positions of the voxels along each axis (mm), and their spacing."""
    field = (scanner.field_of_view_mm, scanner.field_of_view_mm, COVERAGE)
    if size is None:
        wanted = spacing or (field[0] / MATRIX, field[1] / MATRIX, scanner.slice_mm)
        size = [max(1, round(extent / mm)) for extent, mm in zip(field, wanted, strict=True)]
    if spacing is None:
        spacing = [extent / n for extent, n in zip(field, size, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * mm + shift for n, mm, shift in zip(size, spacing, offset, strict=True)]
    return axes, tuple(float(mm) for mm in spacing)


def _number_without_tumour(centre: Centre, number: int, seed: int) -> int:
    """Draw which case of this block of eight has no tumour, from 0."""
    rng = np.random.default_rng([seed, number // WITHOUT_TUMOUR, *centre.name.encode(), 1])
    return int(rng.integers(WITHOUT_TUMOUR))


def _draw_tumour(centre: Centre, rng: np.random.Generator) -> Tumour:
    kinds: tuple[TumourKind, ...] = ("solid", "iso", "cystic")
    shares = np.array([getattr(centre.tumours, kind) for kind in kinds])
    kind = kinds[int(rng.choice(3, p=shares / shares.sum()))]
    mean, spread = centre.tumours.iso_diameter_mm if kind == "iso" else centre.tumours.diameter_mm
    _, low, high = _TUMOUR_SITES[int(rng.choice(3, p=[share for share, *_ in _TUMOUR_SITES]))]
    width = np.log1p((spread / mean) ** 2)  # sizes are positive and skewed: log-normal of this mean and spread
    diameter = np.clip(rng.lognormal(np.log(mean) - width / 2, np.sqrt(width)), *_DIAMETER)
    return Tumour(kind, float(diameter), float(rng.uniform(low, high)))


def _scan(tissue: np.ndarray, tumour: Tumour | None, scanner: Centre, rng: np.random.Generator) -> np.ndarray:
    """Simulate the HU (int16) of tissues on a centre's scanner: attenuation, kernel, noise."""
    table = _attenuation(tumour, scanner, rng)
    volume = table[tissue]
    blur = (scanner.kernel_voxels, scanner.kernel_voxels, 0.3)  # along z: a slice blurs slightly into its neighbours
    volume = gaussian_filter(volume, blur, output=np.float32)
    noise = gaussian_filter(rng.standard_normal(tissue.shape, dtype=np.float32), (*blur[:2], 0))
    volume += noise * (scanner.noise_hu / noise.std())
    return np.clip(np.rint(volume), -1024, 3071).astype(np.int16)


def _attenuation(tumour: Tumour | None, scanner: Centre, rng: np.random.Generator) -> np.ndarray:
    """Draw the HU of each tissue of one patient in the contrast phase of the scanner."""
    table: np.ndarray = np.zeros(len(Tissue), np.float32)
    for tissue, unenhanced in _UNENHANCED.items():
        table[tissue] = unenhanced
    uptake = rng.normal(1, 0.07)  # patients take up different amounts of contrast agent
    for name, hu in scanner.hu.items():
        table[Tissue[name.upper()]] = hu * uptake + rng.normal(0, 4)
    table[Tissue.PANCREAS] -= rng.uniform(0, 15)  # fat between its lobules
    pancreas = float(table[Tissue.PANCREAS])
    if tumour is not None:
        mean, spread = scanner.tumours.iso_contrast_hu if tumour.kind == "iso" else scanner.tumours.contrast_hu
        darker = max(0.0, rng.normal(mean, spread))
        table[Tissue.TUMOUR] = _CYST + rng.normal(0, 5) if tumour.kind == "cystic" else max(20.0, pancreas - darker)
        table[Tissue.RIM] = pancreas
    return table
