from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile

import pytest
from typer.testing import CliRunner

from dualtask_lite.cli import app
from dualtask_lite.errors import DualTaskError
from dualtask_lite.viewers import extension, npm, rewrite

PACKAGES = {  # file of a package: what of it matters here
    "vue@2.6.10/dist/vue.min.js": "vue",
    "vue-js-modal@2.0.1/dist/index.js": "modal",
    "imjoy-core@0.14.5/dist/imjoy-core.min.js": 'x("https://cdn.jsdelivr.net/npm/imjoy-rpc@latest/dist/")',
    "imjoy-core@0.14.5/dist/imjoy-loader.js": 'eval("load(`https://cdn.jsdelivr.net/npm/imjoy-core@${version}/`)")',
    "imjoy-rpc@0.5.9/dist/imjoy-rpc.min.js": "rpc",
    "itk-vtk-viewer@14.51.0/dist/index.html": '<script src="https://lib.imjoy.io/imjoy-loader.js"></script>',
    "itk-vtk-viewer@14.51.0/dist/itkVtkViewer.js": "import(E.href)",
    "itk-viewer-bootstrap-ui@0.30.0/dist/bootstrapUIMachineOptions.js.es.js": "ui",
}
EXTENSION = {
    "package.json": json.dumps({"version": "0.2.6", "jupyterlab": {"_build": {"load": "static/remoteEntry.111.js"}}}),
    "static/remoteEntry.111.js": '{"vendors-node_modules_imjoy-core_x":"222","lib_index_js":"333"}',
    "static/vendors-node_modules_imjoy-core_x.222.js": (
        'eval("get(\\"https://cdn.jsdelivr.net/npm/vue@2.6.10/dist/vue.min.js\\");'
        'get(\\"https://imjoy-team.github.io/vue-js-modal/index.js\\")")'
    ),
    "static/lib_index_js.333.js": "async createWindow(_plugin, w, extra_config) {return w}",
}


def tarball(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An extension as pip installs it, the only one that Jupyter finds."""
    folder = tmp_path / "labextensions" / extension.NAME
    for name, text in EXTENSION.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return folder


@pytest.fixture
def registry(monkeypatch):
    """Packages as npm would bring them; says which were asked for."""
    asked = []

    def fetch(package, where):
        asked.append(package.folder)
        files = {
            f"package/{name.partition('/')[2]}": text
            for name, text in PACKAGES.items()
            if name.startswith(package.folder + "/")
        }
        archive = where / f"{package.name}.tgz"
        archive.write_bytes(tarball(files))
        return archive

    few = [npm.Package(p.name, p.version, p.licence, p.integrity, ("dist/*",)) for p in npm.packages()]
    monkeypatch.setattr(npm, "packages", lambda: few)
    monkeypatch.setattr(npm, "fetch", fetch)
    return asked


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_that_is_loaded_names_the_network_any_more(folder, registry):
    assert extension.status().state == "network"
    assert extension.install().state == "local"
    load = json.loads((folder / "package.json").read_text())["jupyterlab"]["_build"]["load"]
    entry = json.loads((folder / load).read_text())
    loaded = [folder / "static" / f"{name}.{version}.js" for name, version in entry.items()]
    assert len({"222", "333"} & set(entry.values())) == 0, "under new names, for the caches of browsers"
    loaded += list((folder / "static" / "vendor" / "npm").rglob("*.*"))
    for path in loaded:
        if path.is_file():
            text = path.read_text().replace(f'E.href.replace("{rewrite.CDN}"', "")
            assert "https://" not in text, path
    page = (folder / "static/vendor/npm" / rewrite.VIEWER).read_text()
    assert page == '<script src="../../imjoy-core@0.14.5/dist/imjoy-loader.js"></script>'


def test_everything_is_taken_back(folder, registry):
    before = {name: json.loads(data) if name == "package.json" else data for name, data in files_of(folder).items()}
    extension.install()
    assert extension.remove().state == "network"
    after = {name: json.loads(data) if name == "package.json" else data for name, data in files_of(folder).items()}
    assert after == before
    assert extension.remove().state == "network"


def test_after_the_extension_was_installed_again_it_is_repeated_without_npm(folder, registry):
    extension.install()
    registry.clear()
    (folder / "package.json").write_text(EXTENSION["package.json"])
    assert extension.status().state == "undone"
    assert extension.install().state == "local"
    assert registry == []


def test_a_lost_file_and_other_pins_are_fetched_again(folder, registry, monkeypatch):
    extension.install()
    (folder / "static/vendor/npm/vue@2.6.10/dist/vue.min.js").unlink()
    assert extension.status().state == "undone"
    assert extension.install().state == "local"
    monkeypatch.setattr(extension, "_made_from", lambda: "newer")
    assert extension.status().state == "undone"
    registry.clear()
    assert extension.install().state == "local"
    assert len(registry) == 6


def test_half_a_fetch_changes_nothing(folder, registry, monkeypatch):
    before, fetch = files_of(folder), npm.fetch

    def breaks(package, where):
        if package.name == "imjoy-rpc":
            raise DualTaskError("npm cannot bring it", "try again")
        return fetch(package, where)

    monkeypatch.setattr(npm, "fetch", breaks)
    with pytest.raises(DualTaskError, match="npm cannot bring it"):
        extension.install()
    assert files_of(folder) == before


def test_another_version_of_the_extension_is_refused(folder, registry):
    (folder / "static/lib_index_js.333.js").write_text("async createWindow(other) {}")
    with pytest.raises(DualTaskError, match=r"imjoy-jupyterlab-extension==0\.2\.6"):
        extension.install()
    assert json.loads((folder / "package.json").read_text()) == json.loads(EXTENSION["package.json"])


def test_without_the_extension_there_is_a_remedy(monkeypatch):
    monkeypatch.setattr(extension, "find", lambda: None)
    assert extension.status().state == extension.remove().state == "missing"
    with pytest.raises(DualTaskError, match=r"pip install 'dualtask-lite\[viewers\]'"):
        extension.install()


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    data = tarball({"package/a.js": "a"})
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    (tmp_path / "npm").write_text(f'#!/bin/sh\ncp "{tmp_path}/brought" "$4/a-1.0.0.tgz"\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(npm.shutil, "which", lambda _: str(tmp_path / "npm"))
    package = npm.Package("a", "1.0.0", "MIT", integrity, ("a.js",))
    (tmp_path / "brought").write_bytes(data)
    assert npm.fetch(package, tmp_path).read_bytes() == data
    (tmp_path / "brought").write_bytes(data + b"x")
    with pytest.raises(DualTaskError, match="not the pinned archive"):
        npm.fetch(package, tmp_path)


def test_npm_that_is_missing_or_fails_is_named(tmp_path, monkeypatch):
    package = npm.packages()[0]
    monkeypatch.setattr(npm.shutil, "which", lambda _: None)
    with pytest.raises(DualTaskError, match="npm is not installed"):
        npm.fetch(package, tmp_path)
    monkeypatch.setattr(npm.shutil, "which", lambda _: "/bin/false")
    with pytest.raises(DualTaskError, match="check the network"):
        npm.fetch(package, tmp_path)


def test_an_archive_cannot_climb_out_of_its_folder(tmp_path):
    archive = tmp_path / "a.tgz"
    archive.write_bytes(tarball({"package/../../evil.js": "x", "package/good.js": "y", "package/other.txt": "z"}))
    npm.unpack(npm.Package("a", "1", "MIT", "", ("*.js",)), archive, tmp_path / "inside" / "here")
    assert set(files_of(tmp_path)) == {"a.tgz", "inside/here/good.js"}
    with pytest.raises(DualTaskError, match="does not hold b"):
        npm.unpack(npm.Package("a", "1", "MIT", "", ("b.js",)), archive, tmp_path / "more")


def test_every_pin_has_a_licence_and_a_checksum():
    for package in npm.packages():
        assert package.licence in {"MIT", "BSD-3-Clause", "Apache-2.0"}
        assert any(name.startswith("LICENSE") for name in package.files), "kept beside it"
        assert len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64


def test_the_command_line_says_what_it_did(folder, registry):
    runner = CliRunner()
    for command, words in (("status", "from the network"), ("install", "draws without network"), ("remove", "network")):
        done = runner.invoke(app, ["viewers", command])
        assert done.exit_code == 0, done.output
        assert words in done.output
    assert json.loads(runner.invoke(app, ["viewers", "status", "--json"]).output)["state"] == "network"
