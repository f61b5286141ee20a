"""Downloads and archives with the faults of real servers and archives."""

import errno
import hashlib
import io
import os
import re
import tarfile
import zipfile
from collections import namedtuple
from contextlib import suppress
from email.message import Message
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualtask_lite.cases import download
from dualtask_lite.cases.download import FetchError, fetch, unpack
from dualtask_lite.errors import DualTaskError

CONTENT = bytes(range(256)) * 5000
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
PART = ".set.tar.part"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0)


@pytest.fixture
def served(server):
    server.files["/set.tar"] = CONTENT
    return server


def get(served, folder, **how):
    return fetch(f"{served.url}/set.tar", folder / "set.tar", **{"checksum": MD5, **how})


def test_file_is_complete_and_progress_is_reported(served, tmp_path):
    steps = []
    path = get(served, tmp_path / "new", size=len(CONTENT), progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["set.tar"]
    assert [step[1] for step in steps] == sorted(step[1] for step in steps)
    assert steps[-1] == ("fetching set.tar", len(CONTENT), len(CONTENT))


def test_existing_file_is_verified_and_not_downloaded(served, tmp_path):
    get(served, tmp_path)
    get(served, tmp_path)
    assert len(served.asked) == 1
    (tmp_path / "set.tar").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DualTaskError, match=r"set\.tar: has the wrong checksum"):
        get(served, tmp_path)
    assert (tmp_path / "set.tar").exists(), "the user put it there and may need it"


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_is_resumed_or_started_again(served, tmp_path, ranges):
    served.ranges, served.cuts = ranges, [300_000, 500_000, len(CONTENT)]
    assert get(served, tmp_path).read_bytes() == CONTENT
    asked = [requested for _, requested in served.asked]
    assert asked == ([None, "bytes=300000-", "bytes=800000-"] if ranges else [None, "bytes=300000-", "bytes=500000-"])


def test_next_run_resumes_a_failed_download(served, tmp_path):
    served.cuts = [1000] + [0] * download.ATTEMPTS
    with pytest.raises(FetchError, match=r"was interrupted.*1000 bytes are kept"):
        get(served, tmp_path)
    assert os.listdir(tmp_path) == [PART]
    served.cuts = []
    assert get(served, tmp_path).read_bytes() == CONTENT
    assert served.asked[-1][1] == "bytes=1000-"


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, len(CONTENT)), max_size=6), ranges=st.booleans())
def test_any_interruptions_end_in_the_file_or_an_error(tmp_path_factory, new_server, cuts, ranges):
    served, folder = new_server(), tmp_path_factory.mktemp("cuts")
    served.files["/set.tar"], served.cuts, served.ranges = CONTENT, list(cuts), ranges
    try:
        assert get(served, folder).read_bytes() == CONTENT
    except FetchError:
        assert not (folder / "set.tar").exists()
        assert not ranges, "with ranges each attempt adds bytes"
    finally:
        served.http.shutdown()
        served.http.server_close()


def test_wrong_checksum_leaves_no_file(served, tmp_path):
    served.files["/set.tar"] = CONTENT[::-1]
    with pytest.raises(FetchError, match=r"wrong checksum .md5 .* instead of"):
        get(served, tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_wrong_size_leaves_no_file(served, tmp_path, size):
    with pytest.raises(FetchError, match="instead of"):
        get(served, tmp_path, checksum=None, size=size)
    assert not os.listdir(tmp_path)


def test_part_of_another_file_is_discarded(served, tmp_path):
    (tmp_path / PART).write_bytes(b"x" * 100)  # resumed, then rejected by its checksum
    with pytest.raises(FetchError, match="wrong checksum"):
        get(served, tmp_path)
    assert get(served, tmp_path).read_bytes() == CONTENT
    (tmp_path / "set.tar").rename(tmp_path / PART)
    (tmp_path / PART).write_bytes(CONTENT + b"more")  # longer than the file: the server answers 416
    assert get(served, tmp_path).read_bytes() == CONTENT


def test_complete_part_is_not_downloaded_again(served, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT)
    get(served, tmp_path, size=len(CONTENT))
    assert served.asked == []
    (tmp_path / "set.tar").rename(tmp_path / PART)
    get(served, tmp_path)
    assert served.asked == [("/set.tar", f"bytes={len(CONTENT)}-")]


def test_web_page_is_refused(served, tmp_path):
    served.html.add("/set.tar")
    with pytest.raises(FetchError, match="web page instead of the file"):
        get(served, tmp_path, checksum=None)
    assert not (tmp_path / "set.tar").exists()
    served.html.clear()
    served.files["/set.tar"] = b"\xef\xbb\xbf\n<HTML>log in</HTML>"  # under another content type
    with pytest.raises(FetchError, match="web page instead of the file"):
        get(served, tmp_path, checksum=None)
    served.files["/set.tar"] = CONTENT
    assert get(served, tmp_path).read_bytes() == CONTENT


def test_web_page_is_not_appended_to_a_part(served, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT[:1000])
    served.html.add("/set.tar")
    with pytest.raises(FetchError, match="web page"):
        get(served, tmp_path)
    served.html.clear()
    assert get(served, tmp_path).read_bytes() == CONTENT


def test_busy_server_is_retried_and_missing_file_is_not(served, tmp_path):
    served.codes = [503, 429, 500]
    assert get(served, tmp_path).read_bytes() == CONTENT
    for code in (404, 403, 410):
        served.codes, before = [code], len(served.asked)
        with pytest.raises(FetchError, match=f"answered {code}"):
            get(served, tmp_path / str(code))
        assert len(served.asked) == before + 1
    served.codes = [503] * download.ATTEMPTS
    with pytest.raises(FetchError, match="503"):
        get(served, tmp_path / "busy")


class Answer(io.BytesIO):
    """The answer of a server; ``read`` ends in an error of the network after the content."""

    status, headers = 200, Message()

    def __init__(self, content, error=None, url="https://publisher/set.tar"):
        super().__init__(content)
        self.error, self.url = error, url

    def read(self, size=-1):
        block = super().read(size)
        if not block and self.error:
            raise self.error
        return block

    def geturl(self):
        return self.url


NETWORK = [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ETIMEDOUT, errno.EIO]


@pytest.mark.parametrize("number", NETWORK)
@pytest.mark.parametrize("opened", [True, False], ids=["while reading", "while asking"])
def test_any_error_of_the_network_is_an_interruption(tmp_path, monkeypatch, number, opened):
    asked = []

    def answer(*_, **__):
        asked.append(1)
        if not opened:
            raise OSError(number, "the network")
        return Answer(CONTENT[:100], OSError(number, "the network"))

    monkeypatch.setattr(download.urllib.request, "urlopen", answer)
    with pytest.raises(FetchError, match=r"was interrupted .*the network.*run the command again to resume"):
        fetch("https://publisher/set.tar", tmp_path / "set.tar", checksum=MD5)
    assert len(asked) == download.ATTEMPTS


def test_download_is_flushed_while_it_is_open_for_writing(served, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="Windows refuses by itself")

    def refuse(file):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", refuse)
    assert get(served, tmp_path).read_bytes() == CONTENT


def test_unreachable_server_is_reported(served, tmp_path):
    served.http.shutdown()
    served.http.server_close()
    with pytest.raises(FetchError, match="was interrupted"):
        get(served, tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "set.tar"])
def test_only_web_addresses_are_accepted(url, tmp_path):
    with pytest.raises(DualTaskError, match="is not a web address"):
        fetch(url, tmp_path / "x", checksum=None)


def test_redirect_to_an_unencrypted_address_is_refused(tmp_path, monkeypatch):
    elsewhere = Answer(CONTENT, url="http://elsewhere/set.tar")
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: elsewhere)
    with pytest.raises(FetchError, match=r"redirects to http://elsewhere/set\.tar, which is not encrypted"):
        fetch("https://publisher/set.tar", tmp_path / "set.tar", checksum=MD5)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_reported_before_and_during_the_download(served, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(0, 0, 1000))
    with pytest.raises(DualTaskError, match="GB are needed"):
        get(served, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(download, "PAUSE_S", 0)

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(DualTaskError, match="the disk is full"):
        get(served, tmp_path, progress=full)
    assert os.listdir(tmp_path) == [PART]
    assert get(served, tmp_path).read_bytes() == CONTENT


def test_folder_that_cannot_be_created_is_reported(served, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DualTaskError, match="cannot be written"):
        get(served, tmp_path / "file")


# archives

FILES = {"Task07/dataset.json": b"{}", "Task07/imagesTr/one.nii.gz": CONTENT, "Task07/empty": b""}


def tar(path, members, mode="w"):
    """Write a tar; a member is (name, content) or (name, type, target of the link)."""
    with tarfile.open(path, mode) as packed:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if isinstance(rest[0], bytes) and len(rest) == 1:
                info.size = len(rest[0])
                packed.addfile(info, io.BytesIO(rest[0]))
            else:
                info.type, info.linkname = rest
                packed.addfile(info)
    return path


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archive_is_unpacked(tmp_path, kind):
    archive, steps = tmp_path / f"set.{kind}", []
    if kind == "zip":
        zipped(archive, [("Task07/", b""), *FILES.items()])
    else:
        tar(archive, [("Task07", tarfile.DIRTYPE, ""), *FILES.items()], "w:gz" if kind == "tar.gz" else "w")
    sizes = unpack(archive, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert tree(tmp_path / "out") == FILES
    assert sizes == {name: len(content) for name, content in FILES.items()}
    assert steps[-1][1:] == (len(CONTENT) + 2, len(CONTENT) + 2)


EVIL_NAMES = ["../evil", "a/../../evil", "/tmp/evil", "..", "a/..\\..\\evil", "C:/evil", "..\\evil"]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("make", [tar, zipped])
def test_archive_cannot_write_outside_its_folder(tmp_path, name, make):
    archive = make(tmp_path / "evil.archive", [("good", b"good"), (name, b"evil")])
    with pytest.raises(DualTaskError, match="leads out of the folder"):
        unpack(archive, tmp_path / "deep" / "out")
    assert list(tree(tmp_path)) == ["evil.archive"], "the harmless member is not unpacked either"


@pytest.mark.parametrize("target", ["/etc", "../..", "good"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind, target):
    archive = tar(tmp_path / "evil.tar", [("good", b"good"), ("link", kind, target), ("link/evil", b"evil")])
    with pytest.raises(DualTaskError, match="is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert list(tree(tmp_path)) == ["evil.tar"]


def test_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc")
    with pytest.raises(DualTaskError, match="is a link"):
        unpack(tmp_path / "evil.zip", tmp_path / "out")


@settings(max_examples=40, deadline=None)
@given(name=st.lists(st.sampled_from(["..", ".", "a", "", "b\\", "c:"]), min_size=1, max_size=5).map("/".join))
def test_no_member_name_leads_outside_the_folder(tmp_path_factory, name):
    base = tmp_path_factory.mktemp("names")
    archive = tar(base / "x.tar", [(name, b"content")])
    (base / "in").mkdir()
    with suppress(DualTaskError):
        unpack(archive, base / "in" / "out")
    assert set(tree(base)) - {f"in/out/{path}" for path in tree(base / "in" / "out")} == {"x.tar"}


@pytest.mark.parametrize("make", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_truncated_archive_leaves_no_file(tmp_path, make, kept):
    archive = tmp_path / f"set.{make}"
    members = [("one", os.urandom(40_000)), ("two", os.urandom(40_000))]
    zipped(archive, members) if make == "zip" else tar(archive, members, "w:gz" if make == "tar.gz" else "w")
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    with pytest.raises(DualTaskError, match="is damaged"):
        unpack(archive, tmp_path / "out")
    assert list(tree(tmp_path)) == [archive.name]


def test_flipped_bit_in_a_zip_is_detected(tmp_path):
    archive = zipped(tmp_path / "set.zip", [("one", b"A" * 5000)])
    content = bytearray(archive.read_bytes())
    content[2000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DualTaskError, match="is damaged"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"])
def test_unreadable_zip_is_reported(tmp_path, offset, value):
    """Flag and method of a member, in its directory entry: a RuntimeError and a NotImplementedError of zipfile."""
    archive = zipped(tmp_path / "set.zip", [("one", b"A" * 5000)])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    archive.write_bytes(content)
    with pytest.raises(DualTaskError, match="is damaged, or not a readable archive"):
        unpack(archive, tmp_path / "out")
    assert list(tree(tmp_path)) == ["set.zip"]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\0" * 10240, os.urandom(4000)])
def test_file_that_is_no_archive_is_reported(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    if content == b"\0" * 10240:
        assert unpack(tmp_path / "x.tar", tmp_path / "out") == {}  # this is an empty tar archive
        return
    with pytest.raises(DualTaskError, match=re.escape(str(tmp_path / "x.tar"))):
        unpack(tmp_path / "x.tar", tmp_path / "out")


def test_refused_archive_leaves_no_file(tmp_path):
    archive = zipped(tmp_path / "set.zip", FILES.items())

    def refuse(unpacked):
        assert tree(unpacked) == FILES
        raise DualTaskError("no", "no")

    with pytest.raises(DualTaskError, match="no"):
        unpack(archive, tmp_path / "out", verify=refuse)
    assert list(tree(tmp_path)) == ["set.zip"]


def test_full_disk_is_reported_before_unpacking(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "set.zip", FILES.items())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(0, 0, 1000))
    with pytest.raises(DualTaskError, match="are needed"):
        unpack(archive, tmp_path / "out")
