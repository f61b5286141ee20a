"""Trees of inputs: every file is predicted, listed as skipped with a reason, or the tree is refused.

Layouts, depths, names and results of earlier predictions are mixed as they are on real disks. Nothing is read or
predicted here: the property is that of the function that collects the inputs.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.dicom_files import files_of
from dualtask_lite.cases.inventory import describe_skipped
from dualtask_lite.cases.results import NOT_FOR_DIAGNOSIS, result_files
from dualtask_lite.cases.sources import find_cases, find_inputs
from dualtask_lite.errors import DualTaskError

TREES = int(os.environ.get("DUALTASK_FUZZ", 60))


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"\0" * 128 + b"DICM" if path.suffix == "" else b"")


def result(folder, name):
    """What an earlier prediction left."""
    for path in result_files(folder, name).values():
        touch(path)
    report = {"case": name, "not_for_diagnosis": NOT_FOR_DIAGNOSIS}
    result_files(folder, name)["report"].write_text(json.dumps(report, indent=2))


def loop(folder, name):
    """A link from a folder to itself."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        (folder / name).symlink_to(folder, target_is_directory=True)


def task07(folder, name):
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        touch(folder / part / f"{name}.nii.gz")


def case_folder(folder, name):
    for part in ("imaging", "segmentation"):
        touch(folder / name / f"{part}.nii.gz")


THINGS = {
    "nifti": lambda folder, name: touch(folder / f"{name}.nii.gz"),
    "plain nifti": lambda folder, name: touch(folder / f"{name}.nii"),
    "dicom": lambda folder, name: touch(folder / f"{name}.dcm"),
    "dicom without ending": lambda folder, name: touch(folder / name / "IM1"),
    "index of a disc": lambda folder, name: touch(folder / "dicomdir"),
    "text": lambda folder, name: touch(folder / f"{name}.txt"),
    "metaimage": lambda folder, name: touch(folder / f"{name}.mha"),
    "analyze": lambda folder, name: [touch(folder / f"{name}.{end}") for end in ("img", "hdr")],
    "archive": lambda folder, name: touch(folder / f"{name}.tar.gz"),
    "hidden": lambda folder, name: touch(folder / f"._{name}.nii.gz"),
    "lone ct": lambda folder, name: touch(folder / name / "ct.nii.gz"),
    "totalsegmentator": lambda folder, name: [
        touch(folder / name / "ct.nii.gz"),
        touch(folder / name / "segmentations" / "pancreas.nii.gz"),
        touch(folder / name / "segmentations" / "liver.nii.gz"),
    ],
    "case folder": case_folder,
    "task07": task07,
    "own result": result,
    "loop of links": loop,
}
NAMES = ["a", "b", "ct", "a b", "Ä胰", "x\udcff", "$\\frac{", "line\nbreak"]

trees = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), st.sampled_from(sorted(THINGS)), st.sampled_from(NAMES)
    ),
    min_size=1,
    max_size=8,
)


def all_files(folder):
    """Every file below a folder, and every link to a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from all_files(path)
        else:
            yield path


def used_by(case: Case):
    """The files that a case is made from."""
    assert isinstance(case.image, Path)
    images = files_of(case.image) if case.image.is_dir() else [case.image]
    return {*images, *([case.label] if isinstance(case.label, Path) else [])}


@settings(max_examples=TREES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(trees)
def test_every_file_is_a_case_or_skipped_with_a_reason(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    try:
        for folders, thing, name in tree:
            THINGS[thing](root.joinpath(*folders), name)
        check_every_file(root)
    finally:
        shutil.rmtree(root)


def check_every_file(root):
    try:
        found = find_inputs([root])
    except DualTaskError:
        return  # refused as a whole
    used = set().union(*map(used_by, found.cases))
    skipped = {one.path for one in found.skipped}
    for path in all_files(root):
        is_description = path.name == "dataset.json"
        listed = path in skipped or any(above in skipped for above in path.parents)
        assert (path in used) != listed or is_description, path
    assert all(one.what and one.remedy for one in found.skipped)
    assert all(line.isprintable() for line in describe_skipped(found.skipped))
    assert not any(path.name.endswith(("_seg.nii.gz", "_distance.nii.gz")) for path in used), "a result is no CT"
    ids = [case.id for case in found.cases]
    assert len(ids) == len(set(ids))
    assert all(case.id.isprintable() and case.id.encode() for case in found.cases)
    assert [case.id for case in find_cases(root)] == ids
    again = find_inputs([root, *(case.image for case in found.cases)])
    assert {case.image for case in again.cases} == {case.image for case in found.cases}, "each path once"
