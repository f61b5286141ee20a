"""Each known source, from a web server with its real layout to cases that can be trained on."""

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
from monai.apps import DecathlonDataset

from dualtask_lite.cases import download
from dualtask_lite.cases.case import check
from dualtask_lite.cases.get import get
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.cases.sources import find_cases, sources
from dualtask_lite.errors import DualTaskError

SIZE = (56, 48, 24)  # not the same along any two axes
SMALL = (32, 32, 16)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE_S", 0)
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))


made = lru_cache(make_case)  # each is used by many tests


def md5(content):
    return hashlib.md5(content).hexdigest()


def gz(voxels, affine, tmp_path):
    path = tmp_path / "one.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path.read_bytes()


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return out.getvalue()


def tree(folder):
    return {str(p.relative_to(folder)): p for p in Path(folder).rglob("*") if p.is_file()}


# msd


@pytest.fixture
def msd(server, monkeypatch, tmp_path):
    """A small Task07_Pancreas.tar behind the address and MD5 that MONAI knows."""
    names = ["pancreas_001", "pancreas_004"]
    files = {
        "Task07_Pancreas/._dataset.json": b"a metadata file of macOS",
        "Task07_Pancreas/imagesTs/pancreas_002.nii.gz": b"x",
    }
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    files["Task07_Pancreas/dataset.json"] = json.dumps({"training": listed, "test": []}).encode()
    for number, name in enumerate(names):
        case = made("A", number, size=SMALL)
        files[f"Task07_Pancreas/imagesTr/{name}.nii.gz"] = gz(case.image, case.affine, tmp_path)
        files[f"Task07_Pancreas/labelsTr/{name}.nii.gz"] = gz(case.label, case.affine, tmp_path)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    server.files["/Task07_Pancreas.tar"] = out.getvalue()
    monkeypatch.setitem(DecathlonDataset.resource, "Task07_Pancreas", f"{server.url}/Task07_Pancreas.tar")
    monkeypatch.setitem(DecathlonDataset.md5, "Task07_Pancreas", md5(out.getvalue()))
    return replace(sources()["msd"], cases=2)


def test_msd_is_downloaded_verified_and_found(msd, server, tmp_path):
    server.cuts = [5000]
    cases = get(msd, tmp_path / "set")
    assert [case.id for case in cases] == ["pancreas_001", "pancreas_004"]
    assert all(check(case) == [] for case in cases)
    assert not (tmp_path / "set" / "Task07_Pancreas.tar").exists(), "the archive would take disk space twice"
    asked = len(server.asked)
    assert len(get(msd, tmp_path / "set")) == 2
    assert len(server.asked) == asked, "nothing is downloaded twice"
    next((tmp_path / "set" / "labelsTr").iterdir()).unlink()
    assert all(case.label for case in get(msd, tmp_path / "set"))
    assert len(server.asked) > asked, "a removed file is downloaded again"


def test_only_panorama_has_parts(msd, tmp_path):
    with pytest.raises(DualTaskError, match="msd has no parts"):
        get(msd, tmp_path / "set", parts=["batch_1"])


def test_msd_by_hand_needs_no_network(msd, server, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "Task07_Pancreas.tar").write_bytes(server.files["/Task07_Pancreas.tar"])
    assert len(get(msd, folder, offline=True)) == 2
    assert server.asked == []
    assert (folder / "Task07_Pancreas.tar").exists(), "the user put it there"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "Task07_Pancreas.tar").write_bytes(server.files["/Task07_Pancreas.tar"][:-1] + b"?")
    with pytest.raises(DualTaskError, match="wrong checksum"):
        get(msd, damaged, offline=True)


def test_failed_download_names_the_file_to_fetch(msd, server, tmp_path):
    server.html.add("/Task07_Pancreas.tar")
    with pytest.raises(DualTaskError, match="web page") as caught:
        get(msd, tmp_path / "set")
    assert f"by hand, in {tmp_path / 'set'}: {msd.by_hand}" in caught.value.remedy
    server.html.clear()
    server.files["/Task07_Pancreas.tar"] = server.files["/Task07_Pancreas.tar"][::-1]
    with pytest.raises(DualTaskError, match="wrong checksum"):
        get(msd, tmp_path / "set")
    with pytest.raises(DualTaskError, match="holds no CT"):
        find_cases(tmp_path / "set")
    with pytest.raises(DualTaskError, match="does not exist"):
        get(msd, tmp_path / "elsewhere", offline=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DualTaskError, match="holds no CT") as caught:
        get(msd, tmp_path / "empty", offline=True)
    assert msd.by_hand in caught.value.remedy


# nih


@pytest.fixture
def nih(server, write_series, tmp_path):
    """TCIA's interface with two series, and the zip of the labels; ``store`` maps a label to its stored form."""

    def serve(store=lambda label, affine: (label, affine), count=2):
        labels, listed = {}, []
        for number in range(1, count + 1):
            name, uid = f"PANCREAS_{number:04d}", f"1.2.826.{number}"
            case = made("A", number, size=SIZE)
            series = write_series(tmp_path / "made" / name, case.image.astype(float), case.affine)
            slices = {f"1-{n:03d}.dcm": path.read_bytes() for n, path in enumerate(sorted(series.iterdir()), 1)}
            sums = "Filename,MD5Hash\n" + "".join(f"{n},{md5(content)}\n" for n, content in slices.items())
            packed = zipped({**slices, "LICENSE": b"CC BY 3.0", "md5hashes.csv": sums.encode()})
            server.files[f"/api/getImageWithMD5Hash?SeriesInstanceUID={uid}"] = packed
            listed.append({"PatientID": name, "SeriesInstanceUID": uid, "Modality": "CT"})
            organ, affine = store((case.label > 0).astype(np.uint8), case.affine)
            labels[f"label{number:04d}.nii.gz"] = gz(organ, affine, tmp_path)
        listed.append({"PatientID": "../../evil", "SeriesInstanceUID": "1.2"})
        server.files["/api/getSeries?Collection=Pancreas-CT&format=json"] = json.dumps(listed).encode()
        server.files["/labels-1.zip"] = zipped({f"TCIA_pancreas_labels-02-05-2017/{n}": c for n, c in labels.items()})
        return replace(
            sources()["nih"],
            cases=count,
            fetch={
                "api": f"{server.url}/api",
                "collection": "Pancreas-CT",
                "labels": f"{server.url}/labels-1.zip",
                "labels_checksum": "md5:" + md5(server.files["/labels-1.zip"]),
            },
        )

    return serve


def as_dicom_rows(label, affine):
    """A correct header, and voxels in the published order: towards the left, the front and the feet."""
    flipped = affine.copy()
    flipped[:3, 0], flipped[:3, 2] = -affine[:3, 0], -affine[:3, 2]
    flipped[:3, 3] = (affine @ [label.shape[0] - 1, 0, label.shape[2] - 1, 1])[:3]
    return label[::-1, :, ::-1], flipped


def without_origin(*axes):
    """A header with only the spacing, and voxels flipped along some axes of the RAS+ grid."""
    return lambda label, affine: (np.flip(label, axes), np.diag([*np.diag(affine)[:3], 1]))


@pytest.mark.parametrize(
    ("store", "flipped"),
    [(as_dicom_rows, []), (without_origin(), []), (without_origin(1), ["y"]), (without_origin(0, 2), ["x", "z"])],
)
def test_nih_labels_are_aligned_with_their_images(nih, tmp_path, store, flipped):
    source = nih(store)
    cases = get(source, tmp_path / "set")
    assert [case.id for case in cases] == ["PANCREAS_0001", "PANCREAS_0002"]
    for number, case in enumerate(cases, 1):
        phantom = made("A", number, size=SIZE)
        scan = case.load()
        assert np.array_equal(scan.volume, phantom.image)
        assert np.array_equal(scan.label, phantom.label > 0)
        assert check(case) == []
    placed = json.loads((tmp_path / "set" / "labels_on_images" / "placed.json").read_text())
    assert [one["flipped"] for one in placed.values()] == [flipped, flipped]
    assert all(one["header_fits"] == (store is as_dicom_rows) for one in placed.values())
    assert all(one["fit"] > one["next_fit"] + 0.05 for one in placed.values())


def test_nih_is_downloaded_and_prepared_once(nih, server, tmp_path):
    source = nih()
    get(source, tmp_path / "set")
    before, asked = {n: p.stat().st_mtime_ns for n, p in tree(tmp_path / "set").items()}, len(server.asked)
    get(source, tmp_path / "set")
    assert {n: p.stat().st_mtime_ns for n, p in tree(tmp_path / "set").items()} == before
    assert len(server.asked) == asked


def test_header_that_contradicts_the_image_is_refused(nih, tmp_path):
    source = nih(lambda label, affine: (label[:, ::-1], affine))
    with pytest.raises(DualTaskError, match=r"its orientation is not clear .*flipped along .*y"):
        get(source, tmp_path / "set")
    assert not (tmp_path / "set" / "labels_on_images" / "PANCREAS_0001.nii.gz").exists()


def test_unusable_label_is_refused(nih, tmp_path):
    rng = np.random.default_rng(0)
    source = nih(lambda label, affine: (rng.integers(0, 2, label.shape, np.uint8), affine))
    with pytest.raises(DualTaskError, match=r"outlines no organ|not clear"):
        get(source, tmp_path / "set")
    source = nih(lambda label, affine: (label[:, :, :-1], affine))
    with pytest.raises(DualTaskError, match=r"has the shape \(56, 48, 23\), its image \(56, 48, 24\)"):
        get(source, tmp_path / "other")
    label = tmp_path / "other" / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz"
    label.write_bytes(label.read_bytes()[:200])
    with pytest.raises(DualTaskError, match=r"label0001\.nii\.gz: is not a readable NIfTI file"):
        get(source, tmp_path / "other")


@pytest.mark.parametrize("fault", ["changed slice", "missing slice", "no sums"])
def test_series_that_differs_from_its_sums_is_refused(nih, server, tmp_path, fault):
    source = nih(count=1)
    (path,) = (path for path in server.files if "getImageWithMD5Hash" in path)
    with zipfile.ZipFile(io.BytesIO(server.files[path])) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    if fault == "changed slice":
        files["1-003.dcm"] = files["1-003.dcm"][:-2] + b"??"
    else:
        del files["1-003.dcm" if fault == "missing slice" else "md5hashes.csv"]
    server.files[path] = zipped(files)
    with pytest.raises(DualTaskError, match="TCIA"):
        get(source, tmp_path / "set")
    assert not [name for name in tree(tmp_path / "set") if name.endswith((".dcm", "PANCREAS_0001.zip"))]


def test_unusable_case_does_not_stop_the_others(nih, tmp_path):
    damaged = (made("A", 1, size=SIZE).label > 0).sum()
    source = nih(lambda label, affine: (label, affine) if label.sum() != damaged else (0 * label, affine))
    with pytest.raises(DualTaskError, match=r"1 of 2 cases have no usable label: .*label0001.* is empty") as caught:
        get(source, tmp_path / "set")
    assert "the other cases are ready" in caught.value.remedy
    assert [case.label is not None for case in find_cases(tmp_path / "set")] == [False, True]


def test_labels_that_an_interrupted_comparison_left_out_are_not_lost(nih, tmp_path):
    source, folder = nih(), tmp_path / "set"

    def killed(step, done, total):
        if step == "comparing labels with images":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(source, folder, progress=killed)
    assert [path.name for path in (folder / "labels_on_images").glob("*.nii.gz")] == ["PANCREAS_0001.nii.gz"]
    with pytest.raises(DualTaskError, match=r"have not been compared.*dualtask data get nih --out"):
        find_cases(folder)
    assert all(case.label for case in get(source, folder, offline=True))


def test_damaged_records_are_made_again(nih, server, tmp_path):
    source, folder = nih(), tmp_path / "set"
    get(source, folder)
    records = [folder / "labels_on_images" / "placed.json", folder / ".fetched.json"]
    whole = [json.loads(record.read_text()) for record in records]
    for record in records:
        record.write_bytes(record.read_bytes()[:20])
    assert all(case.label for case in find_cases(folder)), "its labels are there"
    assert all(case.label for case in get(source, folder))
    assert json.loads(records[0].read_text()) == whole[0]
    asked = len(server.asked)
    shutil.rmtree(folder / "TCIA_pancreas_labels-02-05-2017")
    assert all(case.label for case in get(source, folder))
    assert [path for path, _ in server.asked[asked:]] == ["/labels-1.zip"]
    assert json.loads(records[1].read_text())["labels-1.zip"] == whole[1]["labels-1.zip"]


def test_killed_download_of_nih_is_resumed(nih, server, tmp_path, monkeypatch):
    source = nih()

    def killed(step, done, total):
        if step == "unpacking PANCREAS_0002.zip" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(source, tmp_path / "set", progress=killed)
    assert [case.id for case in find_cases(tmp_path / "set" / "Pancreas-CT")] == ["PANCREAS_0001"]
    asked = len(server.asked)
    assert [case.id for case in get(source, tmp_path / "set")] == ["PANCREAS_0001", "PANCREAS_0002"]
    assert not [path for path, _ in server.asked[asked:] if path.endswith("UID=1.2.826.1")]


def test_withdrawn_cases_are_left_out(write_series, tmp_path):
    for name in ("PANCREAS_0002", "PANCREAS_0025", "PANCREAS_0070"):
        write_series(tmp_path / "X" / name / "study" / "series", np.zeros((4, 4, 2)), np.eye(4))
    (tmp_path / "X" / "PANCREAS_0003").mkdir()  # empty, as the retriever leaves it
    assert [case.id for case in find_cases(tmp_path / "X")] == ["PANCREAS_0002"]


def test_nih_by_hand_is_read_from_the_retrievers_folders(nih, server, write_series, tmp_path):
    source, folder = nih(), tmp_path / "set"
    for number in (1, 2):
        case = made("A", number, size=SIZE)
        where = folder / "manifest-1599750808610" / '"Pancreas-CT"' / f'"PANCREAS_{number:04d}"' / "study" / "series"
        write_series(where, case.image.astype(float), case.affine)
    (folder / "labels-1.zip").write_bytes(server.files["/labels-1.zip"])
    assert [case.id for case in find_cases(folder)] == ["PANCREAS_0001", "PANCREAS_0002"], (
        "images without labels can be predicted"
    )
    assert [case.label is not None for case in get(source, folder, offline=True)] == [True, True]
    assert server.asked == []
    (folder / "labels_on_images").rename(tmp_path / "away")
    with pytest.raises(DualTaskError, match=r"have not been compared.*dualtask data get nih --out"):
        find_cases(folder)


# panorama

STUDIES = {  # study: level in the table, folder of the label
    "100000_00001": ("radiology", "automatic_labels"),
    "100047_00001": ("pathology", "manual_labels"),
    "100047_00002": ("pathology", "automatic_labels"),
    "102000_00001": ("MSD_dataset", "manual_labels"),
    "102001_00001": ("NIH_dataset", "automatic_labels"),
}


def panorama_values(label):
    """Convert a label to PANORAMA's values: half of the gland as duct, vessels and bile duct beside it."""
    values = np.zeros_like(label)
    values[label == 1] = 4
    values[label == 2] = 1
    values[: label.shape[0] // 2][label[: label.shape[0] // 2] == 1] = 5
    values[:3, 0, 0] = 2, 3, 6
    return values


def table(studies=STUDIES, columns=("PANORAMA_patient_id", "PANORAMA_study_id", "patient_age", "label", "level")):
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.active.append(list(columns))
    for study, (level, _) in studies.items():
        book.active.append([int(study[:6]), study, "068Y", "PDAC", level])
    book.save(out)
    return out.getvalue()


@pytest.fixture
def panorama(server, tmp_path):
    """Zenodo's records with one batch each, and the repository of the labels at a commit."""
    commit, repository, batches = (
        "1c" * 20,
        {"README.md": b"labels", "clinical_information.xlsx": table()},
        {1: {}, 2: {}},
    )
    for number, (study, (_, kind)) in enumerate(STUDIES.items()):
        case = made("B", number, size=SMALL)
        batch, below = (1, "") if number < 3 else (2, "batch_2/")  # the batches differ in their folders
        batches[batch][f"{below}{study}_0000.nii.gz"] = gz(case.image, case.affine, tmp_path)
        repository[f"{kind}/{study}.nii.gz"] = gz(panorama_values(case.label), case.affine, tmp_path)
    tree_of = [
        {"path": n, "type": "blob", "sha": hashlib.sha1(b"blob %d\0" % len(c) + c).hexdigest()}
        for n, c in repository.items()
    ]
    serve = server.files
    serve["/repo/commits/main"] = json.dumps({"sha": commit}).encode()
    serve[f"/repo/git/trees/{commit}?recursive=1"] = json.dumps(
        {"tree": [*tree_of, {"path": "manual_labels", "type": "tree", "sha": "0"}]}
    ).encode()
    serve[f"/repo/zipball/{commit}"] = zipped(
        {f"DIAGNijmegen-panorama_labels-1c1c/{n}": c for n, c in repository.items()}
    )
    for record, batch in batches.items():
        packed = zipped(batch)
        serve[f"/records/{record}/files/batch_{record}.zip/content"] = packed
        file = {
            "key": f"batch_{record}.zip",
            "size": len(packed),
            "checksum": f"md5:{md5(packed)}",
            "links": {"self": f"{server.url}/records/{record}/files/batch_{record}.zip/content"},
        }
        serve[f"/records/{record}"] = json.dumps({"id": record, "files": [file]}).encode()
    fetched = {"zenodo": f"{server.url}/records", "records": [1, 2], "github": f"{server.url}/repo"}
    return replace(sources()["panorama"], cases=len(STUDIES), fetch=fetched)


def test_panorama_is_downloaded_mapped_and_its_origins_read(panorama, server, tmp_path):
    cases = get(panorama, tmp_path / "panorama")
    assert [case.id for case in cases] == list(STUDIES)
    assert [case.patient for case in cases] == [study[:6] for study in STUDIES]
    assert [case.origin for case in cases] == ["panorama", "panorama", "panorama", "msd", "nih"]
    for number, case in enumerate(cases):
        assert np.array_equal(case.load().label, made("B", number, size=SMALL).label)
        assert check(case) == []
    asked = len(server.asked)
    assert len(get(panorama, tmp_path / "panorama")) == 5
    assert len(server.asked) == asked


def test_panorama_is_downloaded_in_parts(panorama, server, tmp_path):
    assert [case.id for case in get(panorama, tmp_path / "set", parts=["batch_2"])] == ["102000_00001", "102001_00001"]
    assert len(get(panorama, tmp_path / "set", parts=["batch_1"])) == 5
    assert sum("zipball" in path for path, _ in server.asked) == 1
    with pytest.raises(DualTaskError, match=r"no part batch_9; choose from: batch_1\.zip, batch_2\.zip"):
        get(panorama, tmp_path / "set", parts=["batch_9"])


def test_panorama_labels_that_differ_from_git_are_refused(panorama, server, tmp_path):
    path = next(path for path in server.files if "zipball" in path)
    with zipfile.ZipFile(io.BytesIO(server.files[path])) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    name = next(name for name in files if name.endswith(".nii.gz"))
    for changed in ({**files, name: files[name] + b"?"}, {**files, "DIAGNijmegen-panorama_labels-1c1c/more": b"?"}):
        server.files[path] = zipped(changed)
        with pytest.raises(DualTaskError, match="git"):
            get(panorama, tmp_path / "set")
        assert not tree(tmp_path / "set")


def test_panorama_by_hand_needs_no_network(panorama, server, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    path = next(path for path in server.files if "zipball" in path)
    (folder / "panorama_labels-main.zip").write_bytes(server.files[path])
    for batch in (1, 2):
        (folder / f"batch_{batch}.zip").write_bytes(server.files[f"/records/{batch}/files/batch_{batch}.zip/content"])
    assert [case.label is not None for case in get(panorama, folder, offline=True)] == [True] * 5
    assert server.asked == []


@pytest.mark.parametrize("together", ["names", "folder"])
def test_cases_of_msd_and_nih_are_left_out_of_panorama(panorama, msd, nih, tmp_path, caplog, together):
    for source in (panorama, msd, nih()):
        get(source, tmp_path / "cache" / source.name)
    alone = find_cases("panorama")
    assert len(alone) == 5
    every = find_cases("msd, nih,panorama" if together == "names" else tmp_path / "cache")
    assert [case.id for case in every if case.centre == "panorama"] == [s for s in STUDIES if s < "102"]
    assert {case.centre for case in every} == {"msd", "nih", "panorama"}
    assert "1 cases of panorama are left out: msd holds them" in caplog.text
    assert "1 cases of panorama are left out: nih holds them" in caplog.text
    assert [case.id for case in find_cases("msd,panorama") if case.centre == "panorama"] == [
        *(study for study in STUDIES if study < "102"),
        "102001_00001",
    ]


def test_panorama_without_its_table_is_refused_beside_msd(panorama, msd, tmp_path):
    for source in (panorama, msd):
        get(source, tmp_path / "cache" / source.name)
    (tmp_path / "cache" / "panorama" / "panorama_labels" / "clinical_information.xlsx").unlink()
    assert len(find_cases("panorama")) == 5
    with pytest.raises(DualTaskError, match=r"without clinical_information\.xlsx"):
        find_cases("msd,panorama")


@pytest.mark.parametrize("content", [b"404: Not Found", table(columns=("a", "b", "c", "d", "e")), zipped({"x": b"y"})])
def test_unreadable_table_is_reported(panorama, tmp_path, content):
    get(panorama, tmp_path / "set")
    (tmp_path / "set" / "panorama_labels" / "clinical_information.xlsx").write_bytes(content)
    with pytest.raises(DualTaskError, match=r"clinical_information\.xlsx: is not a table with the columns"):
        find_cases(tmp_path / "set")
