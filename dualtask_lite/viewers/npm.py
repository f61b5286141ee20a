"""Pinned npm packages: downloaded by npm, verified by their checksum, and unpacked file by file."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from dualtask_lite.errors import DualTaskError

_TIMEOUT = 300  # s for one package


@dataclass(frozen=True)
class Package:
    """One npm package with an exact checksum.

    Attributes:
        name: in the registry.
        version: exact.
        licence: SPDX.
        integrity: SHA-512 of the archive, as npm writes it.
        files: patterns of the files to unpack, relative to the package's folder.
    """

    name: str
    version: str
    licence: str
    integrity: str
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of its folder, as in the addresses of a CDN."""
        return f"{self.name}@{self.version}"


def packages() -> list[Package]:
    """Read the packages of the viewer from ``packages.json``."""
    listed = json.loads(Path(__file__).with_name("packages.json").read_text(encoding="utf-8"))
    return [Package(**{**entry, "files": tuple(entry["files"])}) for entry in listed]


def fetch(package: Package, folder: Path) -> Path:
    """Download the archive of a package with npm (from its cache or its registry) and verify it.

    Raises:
        DualTaskError: when npm is not installed or fails, or the archive differs from the pinned one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DualTaskError("npm is not installed", "install Node.js with npm and try again")
    command = [npm, "pack", package.folder, "--pack-destination", str(folder), "--silent", "--prefer-offline"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise DualTaskError(f"npm did not deliver {package.folder} in {_TIMEOUT} s", "try again later") from error
    archive = folder / f"{package.name}-{package.version}.tgz"
    if process.returncode or not archive.exists():
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[0]
        raise DualTaskError(f"npm cannot deliver {package.folder} ({reason})", "check the network")
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode("ascii")
    if integrity != package.integrity:
        raise DualTaskError(
            f"{package.folder} from npm is not the pinned archive ({integrity[:20]}...)",
            "nothing was installed; check the registry of npm (npm config get registry)",
        )
    return archive


def unpack(package: Package, archive: Path, folder: Path) -> None:
    """Write the files of a verified archive that match the patterns of the package to ``folder``.

    Raises:
        DualTaskError: when no file matches a pattern.
    """
    missing = set(package.files)
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])  # without the top folder "package/"
            matching = {pattern for pattern in package.files if fnmatch(str(inside), pattern)}
            if not matching or not member.isfile() or ".." in inside.parts:
                continue
            missing -= matching
            content = tar.extractfile(member)
            assert content is not None  # the member is a file
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    if missing:
        raise DualTaskError(f"{package.folder} does not hold {min(missing)}", "install a newer dualtask-lite")
