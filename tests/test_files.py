"""Files that are written completely, on every system and beside other processes, and records that may be damaged."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import check_writable, only_writer, read_record, remove_leftovers, whole_file


@pytest.fixture
def flushed(monkeypatch):
    """Refuse to flush a file that is not open for writing, as Windows does; gives the number of flushed files."""
    fcntl = pytest.importorskip("fcntl", reason="Windows refuses by itself")
    real, flushed = os.fsync, []

    def fsync(file):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(file)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return flushed


def test_a_file_is_flushed_while_it_is_open_for_writing(flushed, tmp_path):
    with whole_file(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert len(flushed) == 1
    assert (tmp_path / "x").read_text() == "new"


def test_a_failed_write_names_the_file_and_not_its_temporary(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(DualTaskError, match=r"[/\\]a.nii.gz: the disk is full"),
        whole_file(tmp_path / "a.nii.gz") as outer,
        whole_file(outer),
    ):
        raise full
    assert os.listdir(tmp_path) == []


def test_processes_of_one_id_do_not_share_a_temporary_file(tmp_path):
    """Two containers may give their processes the same ids, and share a folder."""
    with whole_file(tmp_path / "x") as first, whole_file(tmp_path / "x") as second:
        first.write_text("first")
        second.write_text("second")
        assert first.read_text() == "first"
    assert os.listdir(tmp_path) == ["x"]


HOLD = """
import sys, time
from pathlib import Path
from dualtask_lite.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_writer_until_its_process_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(DualTaskError, match="another process writes to it; wait"), only_writer(tmp_path / "run"):
            pass
        other.kill()
    for _ in range(2):
        with only_writer(tmp_path / "run"):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with only_writer(tmp_path / "run"):
        (tmp_path / "run" / "x").write_text("written")


def test_a_folder_is_tried_without_a_trace(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "new" / "one"):
        check_writable(folder)
    monkeypatch.chdir(tmp_path)
    check_writable(Path("new"))
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(DualTaskError, match=r"file.new: cannot be written .*; choose another folder, or check"):
        check_writable(tmp_path / "file" / "new")


@pytest.mark.skipif(getattr(os, "getuid", lambda: 0)() == 0, reason="root and Windows write to any folder")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(DualTaskError, match="Permission denied"):
        check_writable(tmp_path / "new")
    tmp_path.chmod(0o755)


def test_only_temporary_files_are_leftovers(tmp_path):
    kept = {".2024.csv", ".tmp-notes.txt", ".tmp-00000000", ".hidden", "tmp-00000000.csv", "metrics.csv"}
    for name in kept:
        (tmp_path / name).touch()
    with whole_file(tmp_path / "x") as temporary:
        temporary.touch()
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == kept
        temporary.touch()


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff", b"[1]", b"\0\0"])
def test_a_damaged_record_is_empty(content, tmp_path):
    (tmp_path / "record.json").write_bytes(content)
    assert read_record(tmp_path / "record.json") == {}
    assert read_record(tmp_path) == {}, "it cannot be read"
    assert read_record(tmp_path / "missing.json") == {}
