"""List the cases at a path, and every skipped file with the reason.

The whole tree is walked, so that no file is left out silently.
"""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.dicom_files import files_of, is_dicom, is_index, lost_slices
from dualtask_lite.cases.layouts import CASE_FOLDERS, LAYOUTS, Dataset, dataset_in
from dualtask_lite.cases.paths import is_broken_link, is_nifti, niftis_in, packed_copy, printable, stem
from dualtask_lite.cases.results import is_result
from dualtask_lite.errors import DualTaskError

_ITK = (
    "convert it to NIfTI, say with SimpleITK (pip install SimpleITK): WriteImage(ReadImage('scan.mha'), 'scan.nii.gz')"
)
_NIBABEL = "convert it to NIfTI, with: nib-convert scan.img scan.nii.gz"
_UNSUPPORTED = (
    ((".mha", ".mhd"), "is MetaImage, not NIfTI", _ITK),
    ((".nrrd", ".nhdr"), "is NRRD, not NIfTI", _ITK),
    ((".img", ".hdr", ".img.gz", ".hdr.gz"), "is one of a pair of files (Analyze or NIfTI), not one file", _NIBABEL),
    ((".mgz", ".mgh", ".mnc"), "is an image of FreeSurfer or MINC, not NIfTI", _NIBABEL),
)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class Skipped:
    """A file, or a folder with all its content, that is not used as a case, or a listed file that does not exist.

    Attributes:
        path: of the file or folder.
        what: the reason, such as ``is hidden``.
        remedy: what to do when it should be a case.
        may_be_ct: whether it may hold a CT that the user wanted to use.
    """

    path: Path
    what: str
    remedy: str
    may_be_ct: bool = False


@dataclass
class Inventory:
    """The cases at a path, and the skipped files."""

    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skipped_rows(self) -> list[dict[str, str]]:
        """The skipped files as rows for JSON."""
        return [{"path": str(one.path), "what": one.what, "remedy": one.remedy} for one in self.skipped]

    def require_cases(self, path: Path) -> None:
        """Refuse an inventory of ``path`` without a case.

        Raises:
            DualTaskError: when there is no case; the message lists the skipped files.
        """
        if self.cases:
            return
        if self.skipped and not path.is_dir():
            raise DualTaskError(f"{path}: {self.skipped[0].what}", self.skipped[0].remedy)
        skipped = f" ({'; '.join(describe_skipped(self.skipped))})" if self.skipped else ""
        raise DualTaskError(f"{path}: holds no CT in a known layout{skipped}", LAYOUTS)


def describe_skipped(skipped: Iterable[Skipped]) -> list[str]:
    """Describe the skipped files, one line for each reason."""
    by_reason: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for one in skipped:
        by_reason[one.what, one.remedy].append(one.path)
    return [
        f"{printable(str(paths[0]))}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {what}; {remedy}"
        for (what, remedy), paths in by_reason.items()
    ]


def take_inventory(path: Path) -> Inventory:
    """List the cases and the skipped files at a path; no volume is read.

    The layout of a data set (see ``layouts``) defines its cases. In any other folder each NIfTI file is a case, the
    DICOM files of a folder are one case, and subfolders are walked in the same way.

    Raises:
        DualTaskError: when the path itself is a data set that is broken; one below it is skipped.
        OSError: when the path cannot be read.
    """
    if path.is_dir():
        walk = _Walk(path)
        walk.visit(path)
        return Inventory(walk.cases + _cases_of_series(path, walk.series), walk.skipped)
    if path.is_file() and is_nifti(path) and not is_result(path):
        return Inventory([_unlabelled(path)])
    if path.is_file() and is_dicom(path):
        slice_ = Skipped(path, "is one DICOM file, not a volume", "give the folder of the series", may_be_ct=True)
        return Inventory(skipped=[slice_])
    return Inventory(skipped=[_skip(path)])


class _Walk:
    """A walk through a tree that puts every file into one of three lists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cases: list[Case] = []
        self.series: list[Path] = []  # folders of DICOM files
        self.skipped: list[Skipped] = []

    def visit(self, folder: Path, above: frozenset[str] = frozenset()) -> None:
        """Visit a folder and all folders below it; ``above`` holds the real paths of the folders above it."""
        real = os.path.realpath(folder)
        if real in above:
            self.skipped.append(
                Skipped(folder, "is a link to a folder above it", "no action is needed: that folder is read")
            )
            return
        if dataset := dataset_in(folder):
            self.cases += dataset.cases
            why, remedy = "is listed in dataset.json, but there is no such file", "fetch or unpack the data set again"
            self.skipped += [Skipped(path, why, remedy, may_be_ct=True) for path in dataset.missing]
            self._skip_rest(folder, dataset)
            return
        slices = set(files_of(folder))
        slices |= {*lost_slices(folder, slices)}  # reading the series names what was lost
        entries, niftis = sorted(folder.iterdir()), niftis_in(folder)
        if slices:
            self.series.append(folder)
        for path in entries:
            if path in slices:
                continue
            if path.is_dir() and not path.name.startswith("."):
                try:
                    self.visit(path, above | {real})
                except OSError as error:  # from listing this folder; each folder below it handles its own
                    why = f"cannot be read ({error.strerror or error})"
                    self.skipped.append(Skipped(path, why, "check your permissions", may_be_ct=True))
                except DualTaskError as error:  # of a data set; those beside it can be used
                    self.skipped.append(cannot_be_used(path, error))
            elif path in niftis and not is_result(path):
                names_case = path.name in CASE_FOLDERS and len(niftis) == 1 and folder != self.root
                self.cases.append(_named_by_folder(path) if names_case else _unlabelled(path))
            else:
                self.skipped.append(_skip(path))

    def _skip_rest(self, folder: Path, dataset: Dataset) -> None:
        """Skip the files that no case of a data set uses; a folder without any used file is skipped as a whole."""
        used = {Path(os.path.abspath(path)) for case in dataset.cases for path in _files_of_case(case)}
        used |= {*dataset.described_by, *dataset.missing}  # a broken link that is listed is one thing, not two
        used_folders = {above for path in used for above in path.parents}
        unlabelled = [case.id for case in dataset.cases if case.label is None]

        def visit(below: Path) -> None:
            for path in sorted(below.iterdir()):
                if path in used:
                    continue
                if path in used_folders:
                    visit(path)
                elif is_broken_link(path) or (is_nifti(path) and packed_copy(path)):
                    self.skipped.append(_skip(path))
                elif path.parent.name == "labelsTr" and is_nifti(path) and not path.name.startswith("."):
                    self.skipped.append(_orphan(path, unlabelled))
                elif is_nifti(path) or path.is_dir():
                    why = f"is used by no case of the layout {dataset.layout}"
                    self.skipped.append(Skipped(path, why, "give it by itself if it holds CTs"))
                else:
                    self.skipped.append(_skip(path))

        visit(folder)


def _files_of_case(case: Case) -> list[Path]:
    """The files of a case that was found: its image, and its label when it has one."""
    assert isinstance(case.image, Path)
    label = [case.label] if isinstance(case.label, Path) else []
    return [*(files_of(case.image) or [case.image]), *label]


def cannot_be_used(path: Path, error: DualTaskError) -> Skipped:
    """Skip a path for the reason that an error gives; those beside it can be used."""
    return Skipped(path, f"cannot be used ({error.what})", error.remedy, may_be_ct=True)


def _orphan(label: Path, unlabelled: Sequence[str]) -> Skipped:
    """Skip a label of no case; without an image of its name, suggest the unlabelled case with the most similar one."""
    names = {stem(image).removesuffix("_0000") for image in niftis_in(label.parent.parent / "imagesTr")}
    if stem(label).removesuffix("_0000") in names:
        return Skipped(label, "is a label that dataset.json does not list", "list it with its image, or remove it")
    by_letters = {name.casefold(): name for name in unlabelled}
    near = difflib.get_close_matches(stem(label).casefold(), by_letters, n=1)
    remedy = f"if it belongs to {by_letters[near[0]]}, give both the same name" if near else "add its image"
    return Skipped(label, "is a label, but no image has its name", remedy)


def _skip(path: Path) -> Skipped:
    """Skip a file that is not a case, with the reason."""
    if path.name.startswith("."):
        return Skipped(path, "is hidden", "rename it if it holds a CT")
    if is_broken_link(path):
        remedy = "fetch what it points to (git annex get, or connect its disk), or remove it"
        holds_ct = is_nifti(path) or path.suffix.lower() == ".dcm"
        return Skipped(path, "is a broken link", remedy, may_be_ct=holds_ct)
    if not path.is_file():
        return Skipped(path, "is a device, not a file", "remove it")
    if is_result(path):
        return Skipped(path, "is a result of dualtask predict", "give the CT that it was made from")
    if is_index(path):
        return Skipped(path, "is the index of a DICOM disc", "give the folders of its series")
    if is_nifti(path) and (packed := packed_copy(path)):
        why = f"has the name of {packed.name} beside it, which is read instead"
        return Skipped(path, why, "rename it if it holds other voxels", may_be_ct=True)
    if not os.access(path, os.R_OK):
        return Skipped(path, "cannot be read", "check your permissions", may_be_ct=True)
    for endings, what, remedy in _UNSUPPORTED:
        if path.name.lower().endswith(endings):
            return Skipped(path, what, remedy, may_be_ct=".hdr" not in path.suffixes)  # its .img file counts
    if path.name.lower().endswith(_ARCHIVES):
        return Skipped(path, "is an archive", "unpack it if it holds CTs")
    return Skipped(path, "is not NIfTI by its name (.nii, .nii.gz), and not DICOM", "rename it if it holds a CT")


def _unlabelled(image: Path) -> Case:
    return Case(id=stem(image), centre=image.parent.name, image=image)


def _named_by_folder(image: Path) -> Case:
    return Case(id=image.parent.name, centre=image.parent.parent.name, image=image)


def _cases_of_series(root: Path, series: Sequence[Path]) -> list[Case]:
    """The cases of the folders that hold DICOM files.

    Series directly below one folder are the cases of that centre. Deeper series are in the layout of archives (patient,
    study, series): the patient's folder names the case, and the root folder names the centre.
    """
    below: dict[str, list[Path]] = defaultdict(list)
    cases = []
    for folder in series:
        if folder in (root, root / folder.name):
            cases.append(Case(folder.name, folder.parent.name, folder))
        else:
            below[folder.relative_to(root).parts[0]].append(folder)
    for top, folders in below.items():
        if all(folder.parent == root / top for folder in folders):
            cases += [Case(folder.name, top, folder) for folder in folders]
        elif len(folders) == 1:
            cases.append(Case(top, root.name, folders[0]))
        else:
            cases += [Case("_".join(folder.relative_to(root).parts), root.name, folder) for folder in folders]
    return cases
