"""Pinned npm packages: fetched by npm, verified here, and unpacked file by file."""

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

_PATIENCE = 300  # s for one package
_WITHOUT = "itkwidgets then needs the network; the other viewers do not"


@dataclass(frozen=True)
class Package:
    """One npm package, to the byte.

    Attributes:
        name: in the registry.
        version: exact.
        licence: SPDX.
        integrity: SHA-512 of the archive, as npm writes it.
        files: patterns of what is unpacked, in the package's folder.
    """

    name: str
    version: str
    licence: str
    integrity: str
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Its folder's name, as in a CDN's addresses."""
        return f"{self.name}@{self.version}"


def packages() -> list[Package]:
    """List what the viewer consists of (``packages.json``)."""
    listed = json.loads(Path(__file__).with_name("packages.json").read_text(encoding="utf-8"))
    return [Package(**{**entry, "files": tuple(entry["files"])}) for entry in listed]


def fetch(package: Package, folder: Path) -> Path:
    """Get a package's archive from npm (its cache or the registry that it is set to) and verify it.

    Raises:
        DualTaskError: when npm is not there or fails, or what it brings is not the pinned archive.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DualTaskError("npm is not installed", f"install Node.js with npm and try again; {_WITHOUT}")
    command = [npm, "pack", package.folder, "--pack-destination", str(folder), "--silent", "--prefer-offline"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False, cwd=folder)
    except subprocess.TimeoutExpired as slow:
        raise DualTaskError(f"npm has not brought {package.folder} in {_PATIENCE} s", "try again later") from slow
    archive = folder / f"{package.name}-{package.version}.tgz"
    if done.returncode or not archive.exists():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise DualTaskError(f"npm cannot bring {package.folder} ({reason})", f"check the network; {_WITHOUT}")
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode("ascii")
    if found != package.integrity:
        raise DualTaskError(
            f"{package.folder} from npm is not the pinned archive ({found[:20]}...)",
            "nothing was installed; check which registry npm is set to (npm config get registry)",
        )
    return archive


def unpack(package: Package, archive: Path, folder: Path) -> None:
    """Write the wanted files of a verified archive below ``folder``, and nothing else.

    Raises:
        DualTaskError: when a wanted file is not in it.
    """
    missing = set(package.files)
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])  # all lies in "package/"
            wanted = {pattern for pattern in package.files if fnmatch(str(inside), pattern)}
            if not wanted or not member.isfile() or ".." in inside.parts:
                continue
            missing -= wanted
            content = tar.extractfile(member)
            assert content is not None  # it is a file
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    if missing:
        raise DualTaskError(f"{package.folder} does not hold {min(missing)}", "install a newer dualtask-lite")
