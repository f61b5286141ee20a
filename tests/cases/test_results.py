"""Which of the files that a prediction wrote were changed since."""

import json

import pytest

from dualtask_lite.cases.results import changed_volumes, result_files, volume_digests


@pytest.fixture
def files(tmp_path):
    """The files of a case as an earlier version left them, with a report that has no digests."""
    files = result_files(tmp_path, "ct")
    for kind, path in files.items():
        path.write_text(kind)
    files["report"].write_text(json.dumps({"case": "ct"}))
    return files


def record(files, replaced=()):
    report = {"case": "ct", "sha256": volume_digests(files), "replaced_sha256": dict(replaced)}
    files["report"].write_text(json.dumps(report))


@pytest.mark.parametrize("kind", ["mask", "distance"])
def test_a_volume_that_was_changed_is_found(files, kind):
    record(files)
    assert changed_volumes(files) == []
    files[kind].write_text("corrected")
    assert changed_volumes(files) == [files[kind]]


@pytest.mark.parametrize("kind", ["report", "preview"])
def test_what_nobody_corrects_is_not_compared(files, kind):
    record(files)
    files[kind].write_text(files[kind].read_text() + "\n")
    assert changed_volumes(files) == []


def test_a_volume_that_is_not_replaced_yet_is_unchanged(files):
    """As when a new prediction was killed after it wrote its report."""
    replaced = volume_digests(files)
    old = files["mask"].read_text()
    files["mask"].write_text("new")
    record(files, replaced)
    files["mask"].write_text(old)
    assert changed_volumes(files) == []
    files["mask"].write_text("corrected")
    assert changed_volumes(files) == [files["mask"]]


def test_a_volume_that_is_missing_is_unchanged(files):
    record(files)
    files["mask"].unlink()
    assert changed_volumes(files) == []


@pytest.mark.parametrize("report", [None, "", "{", '{"case": "ct"}', '{"sha256": "ab"}', '{"sha256": {"mask": "ab"}}'])
def test_without_digests_nothing_is_known_to_be_changed(files, report):
    files["report"].unlink()
    if report is not None:
        files["report"].write_text(report)
    assert changed_volumes(files) == []
