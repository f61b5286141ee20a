"""Finding cases: every layout that is understood, and a useful message for what is not."""

import errno
import json
import logging
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.cases import sources as module
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.cases.sources import absolute, find_cases, sources, sources_table
from dualtask_lite.errors import DualTaskError


def nifti(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(-1000, 1000, (4, 3, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


def task07(folder, names=("one", "two"), *, listed=True, labels=True):
    """A folder in Task07 layout, with or without ``dataset.json`` and labels."""
    for name in names:
        nifti(folder / "imagesTr" / f"{name}.nii.gz")
        if labels:
            nifti(folder / "labelsTr" / f"{name}.nii.gz")
    if listed:
        describe(folder, names)
    return folder


def describe(folder, names):
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    folder.mkdir(parents=True, exist_ok=True)
    described = {"name": "not the centre", "training": entries, "test": ["./imagesTs/three.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


def found(source):
    """Id, centre, and paths below the source, of each case that is found."""
    below = Path(os.path.abspath(source))
    return [
        (c.id, c.centre, str(c.image.relative_to(below)), c.label and str(c.label.relative_to(below)))
        for c in find_cases(source)
    ]


def pair(name, centre, *, below="", image=None):
    return (name, centre, f"{below}imagesTr/{image or name}.nii.gz", f"{below}labelsTr/{name}.nii.gz")


# the registry


def test_the_registry_is_complete():
    known = sources()
    made = ["phantom", "phantom-48", "exam"]
    assert list(known) == [*made, "msd", "nih", "panorama"]
    assert [name for name, source in known.items() if source.how == "made"] == made
    for name, source in known.items():
        assert source.name == name
        assert source.cases > 0
        assert all([source.title, source.licence, source.citation, source.hospitals, source.layout, source.size_gb])
        assert set(source.label_map.values()) <= set(LABELS)
        assert source.how == "made" or (source.url.startswith("http") and source.by_hand)
    assert known["nih"].fetch["manifest"] in known["nih"].by_hand
    assert known["nih"].fetch["labels"] in known["nih"].by_hand
    assert known["panorama"].label_map == {1: 2, 2: 0, 3: 0, 4: 1, 5: 1, 6: 0}


def test_everything_is_fetched_over_tls():
    from monai.apps import DecathlonDataset

    addresses = [DecathlonDataset.resource["Task07_Pancreas"]]
    for source in sources().values():
        addresses += [value for value in source.fetch.values() if "://" in str(value)]
    assert len(addresses) > 4
    assert all(address.startswith("https://") for address in addresses)


@pytest.mark.parametrize(
    ("name", "case"),
    [("exam", "D_015"), ("msd", "pancreas_001"), ("nih", "PANCREAS_0082"), ("panorama", "100047_00002")],
)
def test_a_case_is_known_by_its_name(name, case):
    assert [one for one, source in sources().items() if re.fullmatch(source.ids, case)] == [name]


def test_table_of_data_page_equals_the_registry():
    readme = Path(__file__).parents[2] / "data" / "README.md"
    assert sources_table() in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["msd", "nih", "panorama"])
def test_missing_source_explains_download_and_manual_setup(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    with pytest.raises(DualTaskError, match=f"{name} .* was not fetched yet") as error:
        find_cases(name)
    assert sources()[name].url in error.value.remedy
    assert f"dualtask data get {name};" in error.value.remedy
    assert sources()[name].by_hand in error.value.remedy


def test_a_source_in_the_cache_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    task07(tmp_path / "cache" / "msd" / "Task07_Pancreas")
    assert {case.centre for case in find_cases("msd")} == {"msd"}


def test_dot_slash_selects_a_folder_named_like_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task07(tmp_path / "msd")
    task07(tmp_path / "phantom")
    assert {case.centre for case in find_cases("msd")} == {"msd"}
    assert {case.centre for case in find_cases(Path("phantom"))} == {"phantom"}
    assert {case.centre for case in find_cases("./phantom")} == {"phantom"}


def test_a_folder_behind_the_name_of_made_data_is_pointed_out(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_phantom", lambda name: tmp_path / "X")
    task07(tmp_path / "X")
    find_cases("exam")
    assert not caplog.messages
    task07(tmp_path / "exam")
    assert {case.centre for case in find_cases("exam")} == {"X"}
    assert caplog.messages == ["exam means the embedded data; write ./exam for the folder"]
    find_cases("./exam")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("source", ["", " ", ",", "phantom,", ",phantom", "phantom,,msd"])
def test_an_empty_source_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(task07(tmp_path / "X"))
    for use in (find_cases, module.absolute, lambda text: module.find_inputs([text])):
        with pytest.raises(DualTaskError, match=r"a source in it is empty; name known sources or folders"):
            use(source)


def test_a_folder_named_like_the_home_of_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = task07(tmp_path / "~nobody-of-this-name")
    assert [case.centre for case in find_cases(folder.name)] == [folder.name] * 2
    assert module.absolute(folder.name) == str(folder)
    with pytest.raises(DualTaskError, match="no such file or folder"):
        find_cases("~no-folder-either")


# the embedded phantom


@pytest.fixture
def tiny_phantom(tmp_path, monkeypatch):
    """A stand-in that is made at once; gives the list of folders that were asked for."""
    asked = []

    def make(folder, *, cases, seed, centres_to_write):
        asked.append(folder)
        for centre in centres_to_write:
            task07(folder / centre, [f"{centre}_{i}" for i in range(cases)])
        return folder

    monkeypatch.setattr(module, "make_phantom", make)
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    return asked


def test_the_phantom_is_made_once(tiny_phantom, tmp_path):
    cases = find_cases("phantom")
    assert [case.id for case in cases] == [case.id for case in find_cases("phantom")]
    assert len(tiny_phantom) == 1
    assert len(cases) == sources()["phantom"].cases
    assert sorted({case.centre for case in cases}) == ["A", "B", "C"]
    assert all(case.label.is_file() for case in cases)
    assert len(list((tmp_path / "cache").iterdir())) == 1, "nothing temporary is left"


def test_another_version_of_the_phantom_is_made_anew(tiny_phantom, monkeypatch):
    find_cases("phantom")
    monkeypatch.setattr(module, "VERSION", "another")
    find_cases("phantom")
    assert len(tiny_phantom) == 2


def test_two_processes_that_make_the_phantom_at_once_agree(tiny_phantom, monkeypatch):
    make, entered = module.make_phantom, []

    def make_while_another_does(folder, **settings):
        entered.append(folder)
        if len(entered) == 1:
            find_cases("phantom")  # the other process starts later and is done first
        return make(folder, **settings)

    monkeypatch.setattr(module, "make_phantom", make_while_another_does)
    cases = find_cases("phantom")
    assert len(tiny_phantom) == 2
    assert all(case.image.is_file() for case in cases)
    assert len({case.image.parents[2] for case in cases}) == 1


def test_a_phantom_that_was_cut_is_not_used(tiny_phantom, tmp_path, monkeypatch):
    make = module.make_phantom

    def cut(folder, **settings):
        make(folder, **settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "make_phantom", cut)
    with pytest.raises(KeyboardInterrupt):
        find_cases("phantom")
    assert not list((tmp_path / "cache").iterdir())


def test_unwritable_cache_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "file"))
    with pytest.raises(DualTaskError, match="DUALTASK_DATA"):
        find_cases("phantom")


# layouts


@pytest.mark.parametrize("name", ["one.nii.gz", "one.nii", "one.NII.GZ"])
def test_one_file(name, tmp_path):
    file = nifti(tmp_path / "here" / name.lower())
    file = file.rename(file.with_name(name))
    (case,) = find_cases(str(file))
    assert (case.id, case.centre, case.image, case.label) == ("one", "here", file, None)


@pytest.mark.parametrize("listed", [True, False])
def test_task07(listed, tmp_path):
    folder = task07(tmp_path / "X", listed=listed)
    nifti(folder / "imagesTs" / "three.nii.gz")
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "._one.nii.gz").write_bytes(b"a shadow of macOS")
    assert found(folder) == [pair("one", "X"), pair("two", "X")]


def test_a_relative_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(task07(tmp_path / "X"))
    assert found(".") == [pair("one", "X"), pair("two", "X")]


@pytest.mark.parametrize("given", ["X", "./X", "X,Y", "Y, msd", "~/X", "msd", "phantom", "./phantom", "nowhere"])
def test_an_absolute_source_means_the_same_from_another_folder(given, tmp_path, monkeypatch):
    for name in ("X", "Y", "phantom", "msd-of-somebody"):
        task07(tmp_path / name, [f"case_of_{name}"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    task07(tmp_path / "cache" / "msd", ["fetched"])
    monkeypatch.setattr(module, "_phantom", lambda name: tmp_path / "X")

    def listed(source):
        try:
            return [(case.id, case.image) for case in find_cases(source)]
        except DualTaskError as error:
            return str(error)

    here, kept = listed(given), module.absolute(given)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert listed(kept) == here
    assert module.absolute(kept) == kept


def test_partial_download_gives_available_cases(tmp_path, caplog):
    folder = task07(tmp_path / "X")
    describe(folder, ["zero", "one", "two", "three"])
    (folder / "labelsTr" / "two.nii.gz").unlink()
    with caplog.at_level(logging.WARNING):
        assert found(folder) == [pair("one", "X"), ("two", "X", "imagesTr/two.nii.gz", None)]
    assert "zero.nii.gz and 1 more: is listed in dataset.json, but there is no such file" in caplog.text


def test_task07_without_any_image_names_the_first(tmp_path):
    describe(tmp_path / "X", ["one", "two"])
    refusal = r"none of its training images .*one\.nii\.gz is missing.*remove dataset\.json to pair files by name"
    with pytest.raises(DualTaskError, match=refusal):
        find_cases(tmp_path / "X")
    (tmp_path / "Y" / "imagesTr").mkdir(parents=True)
    with pytest.raises(DualTaskError, match="none of its training images"):
        find_cases(tmp_path / "Y")


@pytest.mark.parametrize("second", ["./labelsTr/one.nii.gz", "labelsTr/one.nii.gz", "imagesTr/../labelsTr/one.nii.gz"])
def test_a_label_that_is_listed_for_two_images_is_refused(tmp_path, second):
    task07(tmp_path, ["one", "two"])
    listed = json.loads((tmp_path / "dataset.json").read_text())
    listed["training"][1]["label"] = second
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(DualTaskError, match=r"one\.nii\.gz to both .*one\.nii\.gz and .*two\.nii\.gz") as caught:
        find_cases(tmp_path)
    assert "dataset.json: gives the label" in caught.value.what


def test_an_entry_that_is_listed_twice_is_one_case(tmp_path):
    task07(tmp_path, ["one", "two"])
    describe(tmp_path, ["one", "two", "one"])
    assert [case.id for case in find_cases(tmp_path)] == ["one", "two"]


def test_a_list_with_a_mark_of_its_encoding_is_read(tmp_path):
    file = task07(tmp_path, ["one", "two"]) / "dataset.json"
    describe(tmp_path, ["one"])
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert [case.id for case in find_cases(tmp_path)] == ["one"]


@pytest.mark.parametrize("deep", ["[", '{"a":', '{"training": ['])
def test_a_list_that_is_nested_too_deeply_is_named(tmp_path, deep):
    task07(tmp_path, listed=False)
    (tmp_path / "dataset.json").write_text(deep * 100_000)
    with pytest.raises(DualTaskError, match=r"dataset\.json: is not JSON"):
        find_cases(tmp_path)


@pytest.mark.parametrize("content", ["{", "\udcff", '{"training": 3}', '{"training": ["one.nii.gz"]}'])
def test_a_broken_list_is_named(content, tmp_path):
    task07(tmp_path, listed=False)
    (tmp_path / "dataset.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DualTaskError, match=r"dataset\.json"):
        find_cases(tmp_path)


def nnunet(folder, channels=("0000",)):
    for name in ("pan_0001", "pan_0002"):  # its own number has four digits too
        for channel in channels:
            nifti(folder / "imagesTr" / f"{name}_{channel}.nii.gz")
        nifti(folder / "labelsTr" / f"{name}.nii.gz")
    return folder


@pytest.mark.parametrize("kind", ["second", "first", "undescribed"])
def test_nnunet(kind, tmp_path):
    folder = nnunet(tmp_path / "X")
    if kind == "second":
        described = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 2}
        (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    elif kind == "first":
        describe(folder, ["pan_0001", "pan_0002"])
    expected = [pair(name, "X", image=f"{name}_0000") for name in ("pan_0001", "pan_0002")]
    assert found(folder) == expected


@pytest.mark.parametrize("listed", [True, False])
def test_nnunet_with_two_channels_is_refused(listed, tmp_path):
    folder = nnunet(tmp_path, channels=("0000", "0001"))
    if listed:
        describe(folder, ["pan_0001", "pan_0002"])
    with pytest.raises(DualTaskError, match=r"_0001\.nii\.gz: is a second channel"):
        find_cases(folder)


def test_four_digits_alone_are_no_channel(tmp_path):
    folder = task07(tmp_path / "X", ["case_0000", "case_0001"], listed=False)
    assert found(folder) == [pair("case_0000", "X"), pair("case_0001", "X")]


def test_a_folder_of_files(tmp_path):
    for name in ("b.nii.gz", "a.nii", "._a.nii"):
        nifti(tmp_path / "X" / name)
    (tmp_path / "X" / "notes.txt").touch()
    assert found(tmp_path / "X") == [("a", "X", "a.nii", None), ("b", "X", "b.nii.gz", None)]


def test_a_folder_of_centres(tmp_path):
    task07(tmp_path / "P", ["p"])
    nnunet(tmp_path / "Q")
    nifti(tmp_path / "R" / "r.nii.gz")
    (tmp_path / "README.txt").touch()
    (tmp_path / "empty").mkdir()
    assert [(case.id, case.centre) for case in find_cases(tmp_path)] == [
        ("p", "P"),
        ("pan_0001", "Q"),
        ("pan_0002", "Q"),
        ("r", "R"),
    ]


def test_centres_that_share_an_id_come_in_front_of_all(tmp_path):
    task07(tmp_path / "P", ["one", "two"])
    task07(tmp_path / "Q", ["one"])
    assert found(tmp_path) == [
        ("P_one", *pair("one", "P", below="P/")[1:]),
        ("P_two", *pair("two", "P", below="P/")[1:]),
        ("Q_one", *pair("one", "Q", below="Q/")[1:]),
    ]


def test_totalsegmentator(tmp_path):
    for name in ("s0001", "s0002"):
        nifti(tmp_path / "X" / name / "ct.nii.gz")
    label = nifti(tmp_path / "X" / "s0001" / "segmentations" / "pancreas.nii.gz")
    first, second = find_cases(tmp_path / "X")
    assert (first.id, first.centre, first.label) == ("s0001", "X", label)
    assert (second.id, second.centre, second.label) == ("s0002", "X", None)


@pytest.mark.parametrize(("name", "head"), [("1.dcm", b""), ("IM0001", b"\0" * 128 + b"DICM")])
def test_dicom_series(name, head, tmp_path):
    for series in ("s1", "s2"):
        (tmp_path / "X" / series).mkdir(parents=True)
        (tmp_path / "X" / series / name).write_bytes(head)
    expected = [("s1", "X", "s1", None), ("s2", "X", "s2", None)]
    assert found(tmp_path / "X") == expected
    (one,) = find_cases(tmp_path / "X" / "s1")
    assert (one.id, one.centre, one.image) == ("s1", "X", tmp_path / "X" / "s1")
    with pytest.raises(DualTaskError, match="give the folder of the series"):
        find_cases(tmp_path / "X" / "s1" / name)


def test_dicom_tree_as_exported_by_archives(tmp_path):
    for below in ("P1/study/axial", "P2/first/axial", "P2/second/axial"):
        (tmp_path / "X" / below).mkdir(parents=True)
        (tmp_path / "X" / below / "1.dcm").touch()
    assert found(tmp_path / "X") == [
        ("P1", "X", "P1/study/axial", None),
        ("P2_first_axial", "X", "P2/first/axial", None),
        ("P2_second_axial", "X", "P2/second/axial", None),
    ]


# what is not understood


@pytest.mark.parametrize("slip", ["phantm", "Phantom", "panoramma"])
def test_a_slip_gets_the_nearest_name(slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DualTaskError, match=r"did you mean '(phantom|panorama)'"):
        find_cases(slip)


def test_missing_path_error_lists_accepted_inputs(tmp_path):
    with pytest.raises(DualTaskError, match=r"no such file or folder.*imagesTr") as error:
        find_cases(tmp_path / "nowhere")
    assert "did you mean" not in str(error.value)


def test_unrecognised_folder_error_lists_layouts(tmp_path):
    with pytest.raises(DualTaskError, match=r"holds no CT.*imagesTr"):
        find_cases(tmp_path)
    (tmp_path / "notes.txt").write_text("no CT")
    with pytest.raises(DualTaskError, match="holds no CT"):
        find_cases(tmp_path)
    with pytest.raises(DualTaskError, match="is not NIfTI"):
        find_cases(tmp_path / "notes.txt")


def test_folder_without_permission_is_reported(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DualTaskError, match=r"cannot be read \(not yours\)"):
        find_cases(tmp_path)


@pytest.mark.parametrize("source", ["there", "there,elsewhere"])
def test_a_source_that_may_not_be_looked_at_is_reported(monkeypatch, source):
    """As below a folder of another user: the question whether it exists is refused. Tests may run as root."""

    def refused(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    for ask in (find_cases, absolute):
        with pytest.raises(DualTaskError, match=r"cannot be read .*check the folder and your permissions"):
            ask(source)


def test_files_that_were_fetched_and_are_no_case_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path))
    (tmp_path / "msd").mkdir()
    (tmp_path / "msd" / "pancreas_001.mha").write_bytes(b"x")
    with pytest.raises(DualTaskError, match=r"pancreas_001\.mha"):
        find_cases("msd")
