"""Where the cache is, and homes that do not exist."""

from pathlib import Path

import pytest

from dualtask_lite import resources
from dualtask_lite.resources import cache_folder, expand_home


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
