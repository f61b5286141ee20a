"""The cases of a lesson: whatever folder is given, one sentence says what is needed and what is there."""

import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.lesson_cases import lesson_cases


def cohort(folder, **hospitals):
    """A hospital for each name: a letter a case, ``t`` with tumour, ``p`` with pancreas, ``u`` without label."""
    for number, (name, cases) in enumerate(hospitals.items()):
        for place, kind in enumerate(cases):
            voxels = np.random.default_rng([number, place]).integers(-1000, 500, (8, 8, 8)).astype(np.int16)
            label = np.resize(np.uint8([0, 1, 2 if kind == "t" else 1]), (8, 8, 8))
            parts = {"imagesTr": voxels} | ({} if kind == "u" else {"labelsTr": label})
            for part, array in parts.items():
                (folder / name / part).mkdir(parents=True, exist_ok=True)
                nib.save(
                    nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), folder / name / part / f"{name}{place}.nii.gz"
                )
    return str(folder)


def test_enough_hospitals_are_taken_as_they_are(tmp_path, capsys):
    source = cohort(tmp_path, A="tp", B="ptu", C="pp", D="t")
    found = lesson_cases(source, hospitals=2, cases=2, tumours=1)
    assert [case.id for case in found] == ["A0", "A1", "B0", "B1"]
    printed = capsys.readouterr().out
    assert printed.startswith("This lesson needs 2 hospitals, each with 2 labelled cases and a tumour in one of them; ")
    assert printed.endswith("holds 7 labelled cases (A 2, B 2, C 2, D 1); too little is in C, D.\n")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(("cases", "hospitals"), [("tttt", 2), ("ttttt", 3), ("pptt", 1)])
def test_one_hospital_is_split_into_parts(tmp_path, capsys, cases, hospitals):
    source = cohort(tmp_path, A=cases) + "/A"
    found = lesson_cases(source, hospitals=hospitals, cases=1, tumours=int(hospitals > 1))
    assert sorted(case.id for case in found) == [f"A{place}" for place in range(len(cases))]
    names = {case.centre for case in found}
    assert names == ({"A"} if hospitals == 1 else {f"A-{number}" for number in range(1, hospitals + 1)})
    assert ("split into" in capsys.readouterr().out) == (hospitals > 1)
    assert [case.id for case in lesson_cases(source, hospitals=hospitals)] == [case.id for case in found]


def test_a_patient_is_in_one_part(tmp_path):
    source = cohort(tmp_path, A="tttt") + "/A"
    for part in ("imagesTr", "labelsTr"):
        shutil.copy(f"{source}/{part}/A1.nii.gz", f"{source}/{part}/twin.nii.gz")
    centres = {case.id: case.centre for case in lesson_cases(source, hospitals=2)}
    assert centres["twin"] == centres["A1"]


def test_so_many_tumours_are_asked_for(tmp_path, capsys):
    source = cohort(tmp_path, A="ttp", B="tpp")
    assert {case.centre for case in lesson_cases(source, tumours=2)} == {"A"}
    assert "and a tumour in 2 of them; " in capsys.readouterr().out


def test_cases_that_a_model_has_learned_from_are_left_out(tmp_path, capsys):
    source = cohort(tmp_path, A="tt", B="t")
    learned = {case.digest() for case in lesson_cases(source + "/A")}
    assert [case.id for case in lesson_cases(source, learned=learned)] == ["B0"]
    assert capsys.readouterr().out.endswith("holds 1 labelled case (B 1), and 2 that the model has learned from.\n")
    with pytest.raises(DualTaskError, match="holds 0 labelled cases, and 2 that the model has learned from"):
        lesson_cases(source + "/A", learned=learned)


@pytest.mark.parametrize(
    ("hospitals", "message"),
    [
        ({"A": "uu"}, "holds 0 labelled cases"),
        ({"A": "t"}, "holds 1 labelled case (A 1); too little is in A"),
        ({"A": "pppp"}, "split into 2 parts that differ by chance only; too little is in A-1, A-2"),
        ({"A": "tt", "B": "pp"}, "holds 4 labelled cases (A 2, B 2); too little is in B"),
        ({"A": "tt", "B": "t"}, "holds 3 labelled cases (A 2, B 1); too little is in B"),
    ],
)
def test_too_little_is_one_sentence_with_needs_and_findings(tmp_path, capsys, hospitals, message):
    with pytest.raises(DualTaskError, match=re.escape(message)) as error:
        lesson_cases(cohort(tmp_path, **hospitals), hospitals=2, cases=2, tumours=1)
    assert error.value.what.startswith("This lesson needs 2 hospitals, each with 2 labelled cases and a tumour in one")
    assert "data_dir" in error.value.remedy
    assert capsys.readouterr().out == ""
