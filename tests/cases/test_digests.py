"""Digests of images: any name of a file, and a cache that is damaged."""

import os
import shutil

import pytest

from dualtask_lite.cases.digests import file_digests
from dualtask_lite.cases.sources import find_cases


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The folder of the cached digests; nothing is kept in memory."""
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    file_digests.cache_clear()
    yield tmp_path / "cache" / "digests"
    file_digests.cache_clear()


def test_a_folder_name_that_is_not_utf8(cached, phantom_folder, tmp_path):
    try:
        folder = tmp_path / os.fsdecode("Mönch".encode("latin-1"))
        shutil.copytree(phantom_folder / "A", folder)
    except (OSError, UnicodeError):
        pytest.skip("this file system accepts UTF-8 only")
    case, known = find_cases(folder)[0], find_cases(phantom_folder / "A")[0]
    assert case.digest() == known.digest()
    assert len(list(cached.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"\xff", b"\0" * 129, b"one two", b"0" * 64 + b" " + b"0" * 10])
def test_a_damaged_entry_is_computed_again(cached, phantom_folder, content):
    case = find_cases(phantom_folder / "A")[0]
    digest = case.digest()
    (entry,) = cached.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(content)
    file_digests.cache_clear()
    assert case.digest() == digest
    assert entry.read_bytes() == whole


def test_an_unreadable_entry_is_computed_again(cached, phantom_folder, monkeypatch):
    case = find_cases(phantom_folder / "A")[0]
    digest = case.digest()
    (entry,) = cached.iterdir()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(entry), "read_text", refuse)
    file_digests.cache_clear()
    assert case.digest() == digest
