"""The JupyterLab extension of itkwidgets, with local JavaScript instead of JavaScript from the network.

Of the files that pip installed only ``package.json`` changes: it names the script that JupyterLab loads, and from then
on a rewritten copy. The copy has a new file name, so that no browser uses an old version from its cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.viewers import npm, rewrite

NAME = "imjoy-jupyterlab-extension"
State = Literal["missing", "network", "undone", "local"]
_MARK = "dualtask"  # in the names of rewritten scripts
_VENDOR = Path("static", "vendor")
_MESSAGES = {
    "missing": "the JupyterLab extension of itkwidgets is not installed",
    "network": "itkwidgets loads its JavaScript from the network",
    "undone": "the JupyterLab extension of itkwidgets was installed again, or its local JavaScript is out of date",
    "local": "itkwidgets works without network",
}


@dataclass(frozen=True)
class Status:
    """Where itkwidgets loads its JavaScript from.

    Attributes:
        state: ``missing``, no extension; ``network``; ``local``; ``undone``, local until the extension or this
            package was reinstalled.
        folder: of the extension.
        megabytes: size of the local JavaScript on disk.
    """

    state: State
    folder: Path | None = None
    megabytes: float = 0.0

    def __str__(self) -> str:
        return _MESSAGES[self.state]


def find() -> Path | None:
    """Find the folder of the extension that JupyterLab loads."""
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:
        return None
    folders = (Path(folder) / NAME for folder in jupyter_path("labextensions"))
    return next((folder for folder in folders if (folder / "package.json").exists()), None)


def status() -> Status:
    """Find out where itkwidgets loads its JavaScript from; nothing is changed."""
    folder = find()
    if folder is None:
        return Status("missing")
    complete, rewritten = _is_complete(folder), _is_rewritten(folder)
    if complete and rewritten:
        size = sum(file.stat().st_size for file in (folder / _VENDOR).rglob("*") if file.is_file())
        return Status("local", folder, round(size / 1e6, 1))
    return Status("undone" if rewritten or (folder / _VENDOR).exists() else "network", folder)


def install() -> Status:
    """Download the JavaScript with npm if necessary, and make the extension load the local copy.

    Raises:
        DualTaskError: without the extension, npm or write permission, or for an unknown version of the extension.
    """
    folder = find()
    if folder is None:
        raise DualTaskError("itkwidgets is not installed", "run pip install 'dualtask-lite[viewers]'")
    try:
        if not _is_complete(folder):
            _download(folder)
            _rewrite(folder)
        elif not _is_rewritten(folder):
            _rewrite(folder)
    except OSError as error:
        raise DualTaskError(
            f"{folder}: cannot be written ({error.strerror})", "run it as the user who installed JupyterLab"
        ) from error
    return status()


def remove() -> Status:
    """Undo everything that ``install`` did."""
    folder = find()
    if folder is None:
        return Status("missing")
    if _is_rewritten(folder):
        package = _read(folder)
        package["jupyterlab"]["_build"]["load"] = f"static/{_original(folder, 'remoteEntry').name}"
        _write(folder, package)
    _remove_rewritten(folder)
    shutil.rmtree(folder / _VENDOR, ignore_errors=True)
    return status()


def _remove_rewritten(folder: Path) -> None:
    for script in folder.glob(f"static/*.{_MARK}*.js"):
        script.unlink()


def _download(folder: Path) -> None:
    """Download all packages to a temporary folder, which replaces the final one when it is complete."""
    vendor = folder / _VENDOR
    with tempfile.TemporaryDirectory(dir=folder / "static") as temporary:
        fresh = Path(temporary, "vendor")
        for package in npm.packages():
            try:
                archive = npm.fetch(package, Path(temporary))
            except DualTaskError as error:
                without = "until then itkwidgets needs the network; the other viewers do not"
                raise DualTaskError(error.what, f"{error.remedy}; {without}") from error
            npm.unpack(package, archive, fresh / "npm" / package.folder)
            archive.unlink()
        _localise(fresh / "npm")
        files = {path.relative_to(fresh).as_posix(): path.stat().st_size for path in fresh.rglob("*") if path.is_file()}
        (fresh / "installed.json").write_text(json.dumps({"made_from": _made_from(), "files": files}), encoding="utf-8")
        shutil.rmtree(vendor, ignore_errors=True)
        fresh.replace(vendor)


def _localise(packages: Path) -> None:
    """Rewrite the network addresses in the packages."""
    replacement = packages / rewrite.VUE_WINDOW / "lib" / "index.js"
    replacement.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("vue-window.js"), replacement)
    page = packages / rewrite.VIEWER
    _edit(page, rewrite.viewer_page)
    _edit(page.with_name("itkVtkViewer.js"), rewrite.viewer_script)
    for core in packages.glob("imjoy-core@*/dist/*.js"):
        _edit(core, lambda text: rewrite.script(text, "../../"))


def _edit(file: Path, change: Any) -> None:
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


def _rewrite(folder: Path) -> None:
    """Write the rewritten scripts, and name the first of them in ``package.json``."""
    _remove_rewritten(folder)
    entry = _original(folder, "remoteEntry")
    text = entry.read_text(encoding="utf-8")
    changes = {
        "lib_index_js": rewrite.window_maker,
        "vendors-node_modules_imjoy-core": lambda code: rewrite.script(code, "vendor/npm/"),
    }
    for name, change in changes.items():
        chunk = _original(folder, name)
        stem, old, _ = chunk.name.rsplit(".", 2)
        new = _save(folder, stem, change(chunk.read_text(encoding="utf-8")))
        text = rewrite.once(text, f'"{old}"', f'"{new}"')
    package = _read(folder)
    name = _save(folder, "remoteEntry", text)
    package["jupyterlab"]["_build"]["load"] = f"static/remoteEntry.{name}.js"
    _write(folder, package)


def _save(folder: Path, stem: str, text: str) -> str:
    """Write a script under a name made from the hash of its content, and return that part of the name."""
    name = f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    (folder / "static" / f"{stem}.{name}.js").write_text(text, encoding="utf-8")
    return name


def _original(folder: Path, start: str) -> Path:
    """Find a script that pip installed."""
    scripts = [path for path in folder.glob(f"static/{start}*.js") if f".{_MARK}" not in path.name]
    if len(scripts) != 1:
        raise DualTaskError(
            f"{folder}: holds {len(scripts)} scripts {start}*.js instead of one",
            f"run pip install --force-reinstall --no-deps {NAME}==0.2.6",
        )
    return scripts[0]


def _is_complete(folder: Path) -> bool:
    """Whether all files exist, made by the current pins and rewriting."""
    vendor = folder / _VENDOR
    try:
        installed = json.loads((vendor / "installed.json").read_text(encoding="utf-8"))
        sizes = all((vendor / name).stat().st_size == size for name, size in installed["files"].items())
    except (OSError, ValueError, KeyError):
        return False
    return sizes and installed.get("made_from") == _made_from()


def _made_from() -> str:
    """Hash the pins and the rewriting code."""
    sources = (Path(__file__).with_name(name) for name in ("packages.json", "rewrite.py", "vue-window.js"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _is_rewritten(folder: Path) -> bool:
    """Whether JupyterLab loads the rewritten script."""
    load = _read(folder)["jupyterlab"]["_build"]["load"]
    return f".{_MARK}" in load and (folder / load).exists()


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    return content


def _write(folder: Path, package: dict[str, Any]) -> None:
    with whole_file(folder / "package.json") as temporary:
        temporary.write_text(json.dumps(package, indent=2) + "\n", encoding="utf-8")
