"""Where the cache is, and homes that do not exist."""

from pathlib import Path

import pytest

from dualtask_lite import resources
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import as_model, cache_folder, expand_home, is_reference, made_once, run_folder


def test_home_is_expanded_and_an_unknown_user_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand_home("~/data") == tmp_path / "data"
    assert expand_home("~no-such-user/data") == Path("~no-such-user/data")
    monkeypatch.setenv("DUALTASK_DATA", "~no-such-user")
    assert cache_folder() == Path("~no-such-user")


@pytest.fixture
def _installed(monkeypatch, tmp_path):
    """A wheel: there is no clone whose ``data/cache`` could be used."""
    monkeypatch.delenv("DUALTASK_DATA", raising=False)
    monkeypatch.setattr(resources, "_CLONE", tmp_path / "no clone")


@pytest.mark.usefixtures("_installed")
def test_the_cache_of_the_user_needs_no_home(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dualtask_lite"


@pytest.mark.usefixtures("_installed")
def test_an_empty_cache_variable_counts_as_unset(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "dualtask_lite"


def test_an_unwritable_cache_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "file"))
    with pytest.raises(DualTaskError, match=r"cannot be written .*point DUALTASK_DATA at a folder"):
        run_folder("reference")


def test_a_folder_of_the_cache_is_made_once_and_whole(tmp_path):
    def cut(folder):
        folder.mkdir()
        raise OSError("no space")

    folder = tmp_path / "cache" / "x"
    with pytest.raises(DualTaskError, match="no space"):
        made_once(folder, cut)
    assert made_once(folder, Path.mkdir) == made_once(folder, cut) == folder
    assert [path.name for path in folder.parent.iterdir()] == ["x"], "nothing temporary is left"


def test_a_name_means_the_reference_model_and_dot_slash_a_folder(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    run = run_folder("reference")
    assert run_folder(Path("reference")) == run
    assert not caplog.messages
    Path("reference").mkdir()
    assert run_folder("reference") == run
    assert caplog.messages == ["reference means the reference model; write ./reference for the folder"]
    for own in ("./reference", Path("reference"), tmp_path, tmp_path / "reference"):
        assert run_folder(own) == Path(own)
        assert not is_reference(own)
        assert not is_reference(as_model(Path(own))), "as commands print it"
    assert len(caplog.messages) == 1
