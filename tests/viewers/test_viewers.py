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

PACKAGES = {  # file of a package: the part of it that these tests need
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
    """Replace npm by a stand-in; returns the list of requested packages."""
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


def test_installed_scripts_load_nothing_from_the_network(folder, registry):
    assert extension.status().state == "network"
    assert extension.install().state == "local"
    load = json.loads((folder / "package.json").read_text())["jupyterlab"]["_build"]["load"]
    entry = json.loads((folder / load).read_text())
    loaded = [folder / "static" / f"{name}.{version}.js" for name, version in entry.items()]
    assert len({"222", "333"} & set(entry.values())) == 0, "new names, because browsers cache the old ones"
    loaded += list((folder / "static" / "vendor" / "npm").rglob("*.*"))
    for path in loaded:
        if path.is_file():
            text = path.read_text().replace(f'E.href.replace("{rewrite.CDN}"', "")
            assert "https://" not in text, path
    page = (folder / "static/vendor/npm" / rewrite.VIEWER).read_text()
    assert page == '<script src="../../imjoy-core@0.14.5/dist/imjoy-loader.js"></script>'


def test_remove_restores_all_files(folder, registry):
    before = {name: json.loads(data) if name == "package.json" else data for name, data in files_of(folder).items()}
    extension.install()
    assert extension.remove().state == "network"
    after = {name: json.loads(data) if name == "package.json" else data for name, data in files_of(folder).items()}
    assert after == before
    assert extension.remove().state == "network"


def test_reinstalled_extension_is_repaired_without_npm(folder, registry):
    extension.install()
    registry.clear()
    (folder / "package.json").write_text(EXTENSION["package.json"])
    assert extension.status().state == "undone"
    assert extension.install().state == "local"
    assert registry == []


def test_lost_file_and_other_pins_are_downloaded_again(folder, registry, monkeypatch):
    extension.install()
    (folder / "static/vendor/npm/vue@2.6.10/dist/vue.min.js").unlink()
    assert extension.status().state == "undone"
    assert extension.install().state == "local"
    monkeypatch.setattr(extension, "_made_from", lambda: "newer")
    assert extension.status().state == "undone"
    registry.clear()
    assert extension.install().state == "local"
    assert len(registry) == 6


def test_interrupted_download_changes_nothing(folder, registry, monkeypatch):
    before, fetch = files_of(folder), npm.fetch

    def fail_on_rpc(package, where):
        if package.name == "imjoy-rpc":
            raise DualTaskError("npm cannot deliver it", "try again")
        return fetch(package, where)

    monkeypatch.setattr(npm, "fetch", fail_on_rpc)
    with pytest.raises(DualTaskError, match="npm cannot deliver it"):
        extension.install()
    assert files_of(folder) == before


def test_unknown_version_of_the_extension_is_refused(folder, registry):
    (folder / "static/lib_index_js.333.js").write_text("async createWindow(other) {}")
    with pytest.raises(DualTaskError, match=r"imjoy-jupyterlab-extension==0\.2\.6"):
        extension.install()
    assert json.loads((folder / "package.json").read_text()) == json.loads(EXTENSION["package.json"])


def test_missing_extension_is_reported_with_a_remedy(monkeypatch):
    monkeypatch.setattr(extension, "find", lambda: None)
    assert extension.status().state == extension.remove().state == "missing"
    with pytest.raises(DualTaskError, match=r"pip install 'dualtask-lite\[viewers\]'"):
        extension.install()


def test_archive_with_another_checksum_is_refused(tmp_path, monkeypatch):
    data = tarball({"package/a.js": "a"})
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    (tmp_path / "npm").write_text(f'#!/bin/sh\ncp "{tmp_path}/delivered" "$4/a-1.0.0.tgz"\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(npm.shutil, "which", lambda _: str(tmp_path / "npm"))
    package = npm.Package("a", "1.0.0", "MIT", integrity, ("a.js",))
    (tmp_path / "delivered").write_bytes(data)
    assert npm.fetch(package, tmp_path).read_bytes() == data
    (tmp_path / "delivered").write_bytes(data + b"x")
    with pytest.raises(DualTaskError, match="not the pinned archive"):
        npm.fetch(package, tmp_path)


def test_missing_or_failing_npm_is_reported(tmp_path, monkeypatch):
    package = npm.packages()[0]
    monkeypatch.setattr(npm.shutil, "which", lambda _: None)
    with pytest.raises(DualTaskError, match="npm is not installed"):
        npm.fetch(package, tmp_path)
    monkeypatch.setattr(npm.shutil, "which", lambda _: "/bin/false")
    with pytest.raises(DualTaskError, match="check the network"):
        npm.fetch(package, tmp_path)


def test_archive_cannot_write_outside_its_folder(tmp_path):
    archive = tmp_path / "a.tgz"
    archive.write_bytes(tarball({"package/../../evil.js": "x", "package/good.js": "y", "package/other.txt": "z"}))
    npm.unpack(npm.Package("a", "1", "MIT", "", ("*.js",)), archive, tmp_path / "inside" / "here")
    assert set(files_of(tmp_path)) == {"a.tgz", "inside/here/good.js"}
    with pytest.raises(DualTaskError, match="does not hold b"):
        npm.unpack(npm.Package("a", "1", "MIT", "", ("b.js",)), archive, tmp_path / "more")


def test_every_pin_has_a_licence_and_a_checksum():
    for package in npm.packages():
        assert package.licence in {"MIT", "BSD-3-Clause", "Apache-2.0"}
        assert any(name.startswith("LICENSE") for name in package.files), "the licence is unpacked too"
        assert len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64


def test_commands_print_the_new_state(folder, registry):
    runner = CliRunner()
    messages = {"status": "from the network", "install": "works without network", "remove": "network"}
    for command, message in messages.items():
        done = runner.invoke(app, ["viewers", command])
        assert done.exit_code == 0, done.output
        assert message in done.output
    assert json.loads(runner.invoke(app, ["viewers", "status", "--json"]).output)["state"] == "network"
