"""Names of files and folders: visible files, NIfTI files by their names, and names for cases."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote


def visible(folder: Path) -> list[Path]:
    """List a folder, if there is one, without hidden files such as the ``._`` shadows of macOS archives."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def folders_in(folder: Path) -> list[Path]:
    """The visible folders of a folder."""
    return [path for path in visible(folder) if path.is_dir()]


def niftis_in(folder: Path) -> list[Path]:
    """The visible NIfTI files of a folder; of a file and its packed copy the latter."""
    return [path for path in visible(folder) if path.is_file() and is_nifti(path) and not packed_copy(path)]


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link to what is not there."""
    return path.is_symlink() and not path.exists()


def packed_copy(path: Path) -> Path | None:
    """The file of the same name beside a NIfTI file that is packed, if there is one."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if is_nifti(packed) and packed.is_file() else None


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its name, in the letters that nibabel opens: it refuses ``.Nii``."""
    return re.search(r"\.(nii|NII)(\.(?i:gz))?$", path.name) is not None


def stem(path: Path) -> str:
    """The name without its NIfTI suffix."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def printable(name: str) -> str:
    """Escape bytes that are not text and control characters in a name, as ``%1B``."""
    return "".join(letter if letter.isprintable() else quote(letter, errors="surrogateescape") for letter in name)
