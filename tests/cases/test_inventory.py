"""What is not a case is listed with its reason, and no two cases of a command share an id."""

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.cases.inventory import Inventory, describe_skipped
from dualtask_lite.cases.paths import is_nifti
from dualtask_lite.cases.results import NOT_FOR_DIAGNOSIS, is_result, result_files
from dualtask_lite.cases.sources import find_cases, find_inputs
from dualtask_lite.errors import DualTaskError


@pytest.fixture
def make(tmp_path):
    """Make empty files below the folder of the test; gives that folder."""

    def files(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return files


def ids(*sources):
    return [case.id for case in find_inputs(sources).cases]


def reasons(found, root):
    return {str(one.path.relative_to(root)): one.what for one in found.skipped}


# ids


def test_files_of_one_name_get_their_folders_in_front(make):
    root = make("a/ct.nii.gz", "b/ct.nii.gz")
    assert ids(root / "a" / "ct.nii.gz", root / "b" / "ct.nii.gz") == ["a_ct", "b_ct"]


def test_folders_of_one_name_get_distinct_ids(make):
    root = make("p/x/ct.nii.gz", "p/x/pet.nii.gz", "q/x/ct.nii.gz")
    assert ids(root / "p" / "x", root / "q" / "x") == ["p_x_ct", "p_x_pet", "q_x_ct"]


@pytest.mark.parametrize("again", ["a/ct.nii.gz", "a", ".", "a/../a/ct.nii.gz"])
def test_a_path_given_twice_is_one_case(make, again):
    root = make("a/ct.nii.gz", "a/b.nii.gz")
    assert sorted(ids(root / "a", root / again)) == ["b", "ct"]


def test_image_given_twice_keeps_its_label(make):
    root = make("X/imagesTr/a.nii.gz", "X/labelsTr/a.nii.gz")
    (case,) = find_inputs([root / "X" / "imagesTr" / "a.nii.gz", root / "X"]).cases
    assert case.label == root / "X" / "labelsTr" / "a.nii.gz"


def test_of_a_file_and_its_packed_copy_one_is_used_and_the_other_named(make):
    root = make("a/ct.nii", "a/ct.nii.gz", "a/other.nii")
    found = find_inputs([root])
    assert [case.image.name for case in found.cases] == ["ct.nii.gz", "other.nii"]
    (skipped,) = found.skipped
    assert (skipped.path.name, skipped.may_be_ct) == ("ct.nii", True)
    assert skipped.what == "has the name of ct.nii.gz beside it, which is read instead"


def test_an_unpacked_copy_changes_no_name_and_no_label(make):
    assert ids(make("cases/p1/ct.nii.gz", "cases/p1/ct.nii", "cases/p2/ct.nii.gz") / "cases") == ["p1", "p2"]
    root = make(*(f"task/{part}/a.nii{end}" for part in ("imagesTr", "labelsTr") for end in ("", ".gz")))
    found = find_inputs([root / "task"])
    assert [(case.image.name, case.label.name) for case in found.cases] == [("a.nii.gz", "a.nii.gz")]
    assert ["which is read instead" in why for why in reasons(found, root).values()] == [True, True]


def test_images_of_one_name_in_one_folder_are_distinguished_by_their_kind(make):
    root = make("a/ct.nii", "a/ct.nii.gz", "b/p1/1.dcm", "b/p1.nii.gz", "b/p2/1.dcm")
    assert ids(root / "a" / "ct.nii", root / "a" / "ct.nii.gz") == ["ct_nii", "ct_nii_gz"]
    assert set(ids(root / "b")) == {"p1_dicom", "p1_nii_gz", "p2"}


def test_names_that_folders_cannot_distinguish_are_refused(make):
    root = make("a_b/c/scan.nii.gz", "a/b/c/scan.nii.gz")
    with pytest.raises(DualTaskError, match=r"scan\.nii\.gz and .*scan\.nii\.gz: would both be case a_b_c_scan"):
        find_inputs([root])


# trees


def test_all_depths_and_kinds_of_a_tree_are_taken(make):
    root = make(
        *("here.nii.gz", "deep/er/still.nii", "IM/1.dcm", "IM/beside.nii.gz", "P/study/s1/1.dcm", "P/s2/1.dcm"),
        *("Q/imagesTr/q.nii.gz", "Q/labelsTr/q.nii.gz", "R/lone/ct.nii.gz", "R/case/segmentation.nii.gz"),
        *("R/case/imaging.nii.gz", "A/study/series/1.dcm"),
    )
    found = find_inputs([root])
    assert {case.id: case.centre for case in found.cases} == {
        "here": root.name,
        "still": "er",
        "IM": root.name,
        "beside": "IM",
        "P_s2": root.name,
        "P_study_s1": root.name,
        "A": root.name,
        "q": "Q",
        "lone": "R",
        "case": "R",
    }
    assert not found.skipped
    assert {case.id for case in found.cases if case.label} == {"q", "case"}


def test_each_thing_that_is_no_case_has_its_reason(make):
    root = make(
        *("ct.nii.gz", "notes.txt", "a.mha", "b.nrrd", "c.img", "c.hdr", "d.mgz", "old.zip", "._ct.nii.gz"),
        *("dicomdir", "Q/imagesTr/q.nii.gz", "Q/imagesTs/t.nii.gz", "Q/dataset.json"),
    )
    (root / "Q" / "dataset.json").write_text("{}")
    (root / "gone").symlink_to(root / "nowhere")
    (root / "around").symlink_to(root, target_is_directory=True)
    found = find_inputs([root])
    assert {case.id for case in found.cases} == {"ct", "q"}
    expected = {
        "notes.txt": "not NIfTI by its name",
        "a.mha": "MetaImage",
        "b.nrrd": "NRRD",
        "c.img": "a pair",
        "c.hdr": "a pair",
        "d.mgz": "FreeSurfer",
        "old.zip": "archive",
        "._ct.nii.gz": "hidden",
        "dicomdir": "index of a DICOM disc",
        "Q/imagesTs": "no case of the layout Task07",
        "gone": "broken link",
        "around": "link to a folder above",
    }
    reason_of = reasons(found, root)
    assert reason_of.keys() == expected.keys()
    assert all(part in reason_of[name] for name, part in expected.items())
    assert {one.path.name for one in found.skipped if one.may_be_ct} == {"a.mha", "b.nrrd", "c.img", "d.mgz"}


def test_skipped_folder_is_listed_once_and_used_when_named(make):
    root = make("Q/imagesTr/q.nii.gz", "Q/imagesTs/t.nii.gz")
    found = find_inputs([root / "Q", root / "Q" / "imagesTs", root / "Q"])
    assert [case.id for case in found.cases] == ["q", "t"]
    assert not found.skipped


def test_non_ct_file_does_not_stop_other_cases(make):
    root = make("ct.nii.gz", "readme.txt", "empty/.keep")
    found = find_inputs([root / "readme.txt", root / "ct.nii.gz", root / "empty"])
    assert [case.id for case in found.cases] == ["ct"]
    assert reasons(found, root).keys() == {"readme.txt", "empty/.keep"}


def test_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(DualTaskError, match="msd: holds no CT in a known layout"):
        Inventory().require_cases(tmp_path / "msd")


def test_tree_without_ct_lists_its_files(make):
    root = make("a.mha", "b.mha", "c.txt")
    with pytest.raises(DualTaskError, match=r"holds no CT .*a\.mha and 1 more: is MetaImage.*SimpleITK"):
        find_cases(root)
    with pytest.raises(DualTaskError, match=r"a\.mha: is MetaImage, not NIfTI; convert it"):
        find_cases(root / "a.mha")


def test_reasons_are_grouped_and_any_name_is_printable(make):
    root = make("ct.nii.gz", "a.txt", "b.txt")
    (root / os.fsdecode(b"c\xff\n.mha")).touch()
    first, second = describe_skipped(find_inputs([root]).skipped)
    assert "a.txt and 1 more: is not NIfTI" in first
    assert "c%FF%0A.mha: is MetaImage" in second


def test_unreadable_folder_is_listed_and_others_are_used(make, monkeypatch):
    root = make("a/ct.nii.gz", "b/pet.nii.gz")
    real = type(root).iterdir

    def refuse(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(type(root), "iterdir", refuse)
    found = find_inputs([root])
    assert [case.id for case in found.cases] == ["a"]
    (skipped,) = found.skipped
    assert (skipped.path, skipped.what, skipped.may_be_ct) == (root / "b", "cannot be read (Permission denied)", True)


def test_a_data_set_that_cannot_be_used_is_listed_and_others_are_used(make):
    root = make("tree/Task07/imagesTr/p.nii.gz", "tree/Task09/imagesTr/s.nii.gz")
    (root / "tree" / "Task09" / "dataset.json").write_text('{"labels": {"0": "background", "1": "spleen"}}')
    found = find_inputs([root / "tree"])
    assert [case.id for case in found.cases] == ["p"]
    (skipped,) = found.skipped
    assert (skipped.path, skipped.may_be_ct) == (root / "tree" / "Task09", True)
    assert "cannot be used" in skipped.what
    assert "1 spleen; known are" in skipped.what
    with pytest.raises(DualTaskError, match="1 spleen; known are"):
        find_inputs([root / "tree" / "Task09"])
    both = find_inputs([root / "tree" / "Task07", root / "tree" / "Task09"])
    assert [case.id for case in both.cases] == ["p"]
    assert both.skipped == found.skipped


def test_a_broken_link_with_the_name_of_a_ct_may_be_one(make):
    root = make("plain/a.nii.gz", "X/imagesTr/p.nii.gz", "X/labelsTr/p.nii.gz", "X/imagesTr/q.nii.gz")
    names = ["plain/b.nii.gz", "plain/c.dcm", "plain/notes", "X/imagesTr/r.nii.gz", "X/labelsTr/q.nii.gz"]
    for name in names:
        (root / name).symlink_to(root / "nowhere")
    found = find_inputs([root])
    assert {case.id for case in found.cases} == {"a", "p", "q"}
    assert reasons(found, root) == dict.fromkeys(names, "is a broken link")
    assert {str(one.path.relative_to(root)) for one in found.skipped if one.may_be_ct} == {*names} - {"plain/notes"}
    assert all(one.remedy.startswith("fetch what it points to") for one in found.skipped)
    found = find_inputs([root / "plain" / "b.nii.gz", root / "plain" / "a.nii.gz"])
    assert ([case.id for case in found.cases], reasons(found, root)) == (["a"], {"plain/b.nii.gz": "is a broken link"})
    with pytest.raises(DualTaskError, match=r"b\.nii\.gz: is a broken link"):
        find_cases(root / "plain" / "b.nii.gz")


def test_a_path_that_does_not_exist_is_listed_beside_one_that_does(make):
    root = make("ct.nii.gz")
    found = find_inputs([root / "tc.nii.gz", root / "ct.nii.gz"])
    assert [case.id for case in found.cases] == ["ct"]
    (skipped,) = found.skipped
    assert "tc.nii.gz: no such file or folder" in skipped.what
    assert skipped.may_be_ct


def test_a_name_that_nibabel_does_not_open_is_no_nifti(make):
    root = make("a.Nii", "b.NIi.gz", "c.NII", "d.nii.GZ", "e.NII.gz")
    assert ids(root) == ["c", "d", "e"]
    for name in ("c.NII", "d.nii.GZ", "e.NII.gz", "f.Nii"):
        image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
        data = image.to_bytes()
        (root / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
        if is_nifti(root / name):
            assert nib.load(root / name).shape == (2, 2, 2)
        else:
            with pytest.raises(FileNotFoundError):
                nib.load(root / name)


def test_images_that_are_listed_and_do_not_exist_are_named(make):
    root = make(*(f"X/imagesTr/{n}.nii.gz" for n in range(3)))
    (root / "X" / "imagesTr" / "3.nii.gz").symlink_to(root / "nowhere")
    names = [*map(str, range(10)), "._0"]  # a list made with the shadows of macOS
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    (root / "X" / "dataset.json").write_text(json.dumps({"training": listed}))
    found = find_inputs([root])
    assert [case.id for case in found.cases] == ["0", "1", "2"]
    assert [one.path.name for one in found.skipped if one.may_be_ct] == [f"{n}.nii.gz" for n in range(3, 10)]
    (line,) = describe_skipped(found.skipped)
    assert "3.nii.gz and 6 more: is listed in dataset.json, but there is no such file; fetch or unpack" in line


def test_a_label_without_an_image_names_the_nearest_case(make):
    names = [f"imagesTr/pancreas_{n:03}.nii.gz" for n in range(3)]
    root = make(*names, "labelsTr/pancreas_000.nii.gz", "labelsTr/Pancreas_02.nii.gz", "labelsTr/other.nii.gz")
    remedies = {one.path.name: (one.what, one.remedy) for one in find_inputs([root]).skipped}
    assert remedies["Pancreas_02.nii.gz"] == (
        "is a label, but no image has its name",
        "if it belongs to pancreas_002, give both the same name",
    )
    assert remedies["other.nii.gz"][1] == "add its image"


@pytest.mark.parametrize("image", ["b", "b_0000"])
def test_a_label_that_the_list_leaves_out_is_not_said_to_lack_its_image(make, image):
    root = make(*(f"X/imagesTr/{name}.nii.gz" for name in ("a", image)), "X/labelsTr/a.nii.gz", "X/labelsTr/b.nii.gz")
    listed = {"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]}
    (root / "X" / "dataset.json").write_text(json.dumps(listed))
    found = reasons(find_inputs([root]), root)
    assert found["X/labelsTr/b.nii.gz"] == "is a label that dataset.json does not list"


# results of earlier predictions


def write_results(folder, case):
    files = result_files(folder, case)
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    files["report"].write_text(json.dumps({"case": case, "not_for_diagnosis": NOT_FOR_DIAGNOSIS}, indent=2))
    return files


@pytest.mark.parametrize("below", [".", "out", "out/deeper"])
def test_results_below_the_input_are_no_inputs(make, below):
    root = make("ct.nii.gz", "b/ct_seg.nii.gz")
    files = write_results(root / below, "ct")
    found = find_inputs([root])
    assert {case.id for case in found.cases} == {"ct", "ct_seg"}, "a mask of somebody else is no result"
    assert {one.path for one in found.skipped} == set(files.values())
    assert {one.what for one in found.skipped} == {"is a result of dualtask predict"}
    with pytest.raises(DualTaskError, match="is a result of dualtask predict"):
        find_inputs([files["mask"]])


def test_a_report_of_another_program_makes_no_result(make):
    root = make("ct.json", "ct_seg.nii.gz", "ct.nii.gz")
    (root / "ct.json").write_text('{"not_for_diagnosis": "made by another program"}')
    assert not is_result(root / "ct.json")
    assert ids(root) == ["ct", "ct_seg"]
