"""What comes from data stays data: names of files reach no shell and no page, and no file executes anything."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import pytest
import torch

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.records import read_rows

HOSPITAL = "<img src=x onerror=alert(1)>"
NAMES = [
    """it's "two words" of Übersicht""",
    "; touch HACKED; $(touch HACKED) `touch HACKED` && touch HACKED | cat > HACKED",
    "<script>alert(1)<&script><img src=x onerror=alert(1)>",
    "[bold]CT[&bold] [link=x] {0} %s \\n",
]


@pytest.fixture
def hospital(phantom_folder, tmp_path, monkeypatch):
    """A folder in Task07 layout whose name, and whose cases' names, mean something to a shell, a page or a console."""
    if os.name == "nt":
        pytest.skip("Windows forbids such names")
    inside = tmp_path / "work"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for name, case in zip(NAMES, find_cases(phantom_folder / "C"), strict=True):
        for part, source in (("imagesTr", case.image), ("labelsTr", case.label)):
            (tmp_path / HOSPITAL / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / HOSPITAL / part / f"{name}.nii.gz").write_bytes(source.read_bytes())
    yield tmp_path / HOSPITAL
    assert not list(tmp_path.rglob("HACKED"))
    assert not list(inside.iterdir())


def test_a_name_too_long_for_its_results_is_to_be_shortened(typed, cascade, phantom_folder, tmp_path):
    ct = tmp_path / f"{'n' * 245}.nii.gz"
    shutil.copy(next((phantom_folder / "C" / "imagesTr").glob("*.nii.gz")), ct)
    code, output, err = typed("predict", cascade, ct, "-o", tmp_path / "out")
    assert code == 1
    assert "File name too long" in output + err
    assert "give the case or the folder a shorter name" in " ".join((output + err).split())
    assert ".tmp-" not in output + err


@pytest.mark.parametrize("length", [240, 245])
def test_a_name_too_long_stops_no_other_case(typed, cascade, phantom_folder, tmp_path, length):
    """Also where the folder of the results exists, so that files are looked for in it."""
    ct = next((phantom_folder / "C" / "imagesTr").glob("*.nii.gz"))
    (tmp_path / "cts").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("n" * length, "short"):
        shutil.copy(ct, tmp_path / "cts" / f"{name}.nii.gz")
    code, _, err = typed("predict", cascade, tmp_path / "cts", "-o", tmp_path / "out")
    assert code == 1
    assert "1 of 2 inputs could not be predicted" in err
    assert (tmp_path / "out" / "short_seg.nii.gz").exists()


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def check_harmless(page):
    """No element, attribute or code of a page comes from data."""
    read = Tags(page)
    assert all(given.get("src", "data:").startswith("data:") for _, given in read.found)
    assert not [name for _, given in read.found for name in given if name.startswith("on")]
    assert "alert(1)" not in "".join(scripts_of(page))
    return read


def scripts_of(page):
    """The content of each script of a page that is code, not data."""
    for part in page.split("<script")[1:]:
        kind, _, rest = part.partition(">")
        if "application/json" not in kind:
            yield rest.partition("</script>")[0]


def test_any_name_goes_through_check_predict_evaluate_and_report(typed, hospital, cascade, tmp_path):
    code, out, err = typed("data", "check", hospital, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["cases"] == len(NAMES)

    code, out, _ = typed("predict", cascade, hospital, "-o", tmp_path / "out")
    assert code == 0
    assert all(name.strip() in out for name in NAMES)  # whole, whatever a console would make of it
    for name in NAMES:
        assert nib.load(tmp_path / "out" / f"{name}_seg.nii.gz").shape == (40, 40, 20)
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["case"] == name
        assert (tmp_path / "out" / f"{name}.png").is_file()

    run = tmp_path / f"run {NAMES[1]} {HOSPITAL}"
    shutil.copytree(cascade, run)
    code, _, _ = typed("evaluate", run, "--source", hospital, "--centre", HOSPITAL)
    assert code == 0
    assert {row["case"] for row in read_rows(run / "evaluation" / "cases.csv")} == set(NAMES)
    code, _, err = typed("report", run, "--source", hospital)
    assert (code, err) == (0, "")
    page = (run / "report.html").read_text()
    read = check_harmless(page)
    assert "".join(read.text).count(HOSPITAL) > 2
    assert NAMES[2] in "".join(read.text)


def test_a_page_of_a_case_holds_its_names_as_text(hospital, tmp_path):
    from dualtask_lite import show

    case = next(case for case in find_cases(hospital) if case.id.startswith("<script>"))
    page = show.page(case, None, tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSPITAL not in page
    assert "<script>alert(1)" not in page
    for shown in (show.slices(case), show.compare(case, {HOSPITAL: case.load().label})):
        part = shown._repr_mimebundle_()["text/html"]
        assert HOSPITAL not in part
        assert "<script>alert(1)" not in part


class Bomb:
    """What a pickle does that is loaded without care."""

    def __reduce__(self):
        return (Path.touch, (Path("HACKED"),))


def bombs():
    """Bytes that execute something where they are unpickled, as torch and pickle write them."""
    whole = io.BytesIO()
    torch.save({"state_dict": Bomb()}, whole)
    old = io.BytesIO()
    torch.save(Bomb(), old, _use_new_zipfile_serialization=False)
    return {"pickle": pickle.dumps(Bomb()), "torch": whole.getvalue(), "old torch": old.getvalue()}


@pytest.mark.parametrize("kind", bombs())
def test_a_pickle_given_as_a_model_is_refused_unread(typed, kind, phantom_folder, cascade, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ct = phantom_folder / "A" / "imagesTr" / "A_000.nii.gz"
    for name in ("model.pt", "model.safetensors", "model.ckpt", "ct.nii.gz", "config.yaml"):
        Path(name).write_bytes(bombs()[kind])
    run = tmp_path / "run"
    shutil.copytree(cascade / "tumour-coarse", run)
    (run / "model.safetensors").unlink()
    (run / "last.ckpt").write_bytes(bombs()[kind])
    for words in (
        ("predict", "model.pt", ct, "-o", "out"),
        ("predict", "model.safetensors", ct, "-o", "out"),
        ("evaluate", "model.ckpt"),
        ("export", "model.pt", "-o", "bundle"),
        ("predict", cascade, "ct.nii.gz", "-o", "out"),
        ("train", "config.yaml"),
        ("train", "--resume", run),
    ):
        code, _, err = typed(*words)
        assert code == 1, words
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert not Path("HACKED").exists()


PYTHON = "!!python/object/apply:os.system ['touch HACKED']"


def test_yaml_makes_no_objects(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(f"profile: {PYTHON}\n")
    for words in (["train", "config.yaml"], ["train", "--set", f"data.source={PYTHON}"]):
        code, _, err = typed(*words)
        assert code == 1
        assert "YAML" in err
        assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_case_list_with_parent_paths_writes_nothing_outside(typed, cascade, phantom_folder, tmp_path):
    """It may name any CT, also one elsewhere; what is predicted still goes to the folder that was asked for."""
    ct = phantom_folder / "A" / "imagesTr" / "A_000.nii.gz"
    (tmp_path / "set").mkdir()
    shutil.copy(ct, tmp_path / "outside.nii.gz")
    listed = [{"image": "../outside.nii.gz", "label": "../none.nii.gz"}]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"training": listed}))
    before = set(tmp_path.rglob("*"))
    code, _, _ = typed("predict", cascade, tmp_path / "set", "-o", tmp_path / "out")
    assert code == 0
    kinds = ("_seg.nii.gz", "_distance.nii.gz", ".json", ".png")
    new = {path.relative_to(tmp_path).as_posix() for path in set(tmp_path.rglob("*")) - before}
    assert new == {"out"} | {f"out/outside{kind}" for kind in kinds}


PATIENT = b"DOE^JANE 1950-01-02"
FIELDS = ("descrip", "aux_file", "db_name", "intent_name")


def test_patient_data_of_a_header_is_in_no_output(typed, cascade, phantom_folder, tmp_path):
    """Through predict, evaluate and report, also where a case is refused."""
    folder = tmp_path / "hospital"
    shutil.copytree(phantom_folder / "C", folder, ignore=shutil.ignore_patterns("C_002*", "C_003*"))
    for number, path in enumerate(sorted(folder.glob("imagesTr/*.nii.gz"))):
        image = nib.load(path)
        for field in FIELDS:
            image.header[field] = PATIENT[: image.header[field].dtype.itemsize - 1]
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT))
        nib.save(nib.Nifti1Image(image.get_fdata() * (number > 0), image.affine, image.header), path)
    assert PATIENT in gzip.decompress(path.read_bytes())
    run = tmp_path / "run"
    shutil.copytree(cascade, run)
    output = str(typed("data", "check", folder))
    output += str(typed("predict", cascade, folder, "-o", tmp_path / "out"))
    output += str(typed("evaluate", run, "--source", folder, "--centre", "hospital"))
    output += str(typed("report", run, "--source", folder))
    assert "every voxel is 0" in output
    check_no_patient_data(output, [tmp_path / "out", run], ["DOE^JANE", "1950-0"])


def check_no_patient_data(output, folders, secrets):
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        output += (gzip.decompress(content) if path.suffix == ".gz" else content).decode("latin-1")
    assert len(output) > 100_000
    assert not [secret for secret in secrets if secret in output]
