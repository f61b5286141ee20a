"""A folder of many cases with some that are broken: the good ones are done, the broken ones listed, the memory flat.

A dozen cases in the suite; ``DUALTASK_CASES`` asks for more (``make load``).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.records import read_rows
from dualtask_lite.show import figures

CASES = int(os.environ.get("DUALTASK_CASES", 12))
BROKEN = ("C_003", "C_005", "C_008")
WARM = min(20, CASES // 3)  # cases after which memory is not expected to grow
FINE = 3  # voxels for each of the phantom, so that what is kept of a case by mistake weighs something: 3.5 MB a volume
GROWTH_MB = 20  # from then on; a volume kept of each of the other cases would be more


@pytest.fixture(scope="module")
def folder(phantom_folder, tmp_path_factory):
    """One centre of many cases, three of which are cut off, a web page, and not finite."""
    folder = tmp_path_factory.mktemp("many") / "C"
    given = find_cases(phantom_folder / "C")
    for number in range(CASES):
        scan = given[number % len(given)].load()
        affine = scan.affine @ np.diag([1 / FINE] * 3 + [1])
        for part, voxels in (("imagesTr", scan.volume.astype(np.int16)), ("labelsTr", scan.label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            fine = voxels.repeat(FINE, 0).repeat(FINE, 1).repeat(FINE, 2)
            nib.save(nib.Nifti1Image(fine, affine), folder / part / f"C_{number:03d}.nii.gz")
    cut, page, odd = (folder / "imagesTr" / f"{name}.nii.gz" for name in BROKEN)
    cut.write_bytes(cut.read_bytes()[:3000])
    page.write_text("<html>not found</html>")
    image = nib.load(odd)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[5, 5, 5] = np.inf
    nib.save(nib.Nifti1Image(voxels, image.affine), odd)
    return folder


TOLD = dict(zip(BROKEN, ("damaged or cut off", "not a readable NIfTI", "not finite"), strict=True))


def test_check_lists_the_broken_cases(typed, folder):
    code, out, err = typed("data", "check", folder, "--json")
    assert code == 1
    assert err == f"error: found errors in 3 of {CASES} cases; repair or remove them, see the list above\n"
    output = json.loads(out)
    assert output["cases"] == CASES
    found = {one["case"]: one["finding"] for one in output["findings"] if one["level"] == "error"}
    assert found.keys() == TOLD.keys()
    assert all(words in found[name] for name, words in TOLD.items())


def test_evaluate_scores_the_good_cases_and_lists_the_broken_ones(typed, cascade, folder, tmp_path):
    code, out, err = typed("evaluate", cascade, "--source", folder, "--centre", "C", "-o", tmp_path, "--json")
    assert code == 1
    assert all(name in err and words in err for name, words in TOLD.items())
    output = json.loads(out)
    assert output["failed"].keys() == TOLD.keys()
    assert output["summary"]["pancreas"]["all"]["n_cases"] == CASES - 3
    assert len({row["case"] for row in read_rows(tmp_path / "cases.csv")}) == CASES - 3


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says here what a process holds")
def test_predict_continues_after_bad_cases_with_constant_memory(typed, cascade, folder, tmp_path, monkeypatch):
    held, real = [], figures.preview

    def looked_at(*args):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free, but not given back, is no leak
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
        return real(*args)

    monkeypatch.setattr(figures, "preview", looked_at)
    code, out, err = typed("predict", cascade, folder, "-o", tmp_path / "out", "--json")
    assert code == 1
    assert err == f"error: 3 of {CASES} inputs could not be predicted; see the list above\n"
    output = json.loads(out)
    assert output["failed"].keys() == TOLD.keys()
    assert all(words in output["failed"][name] for name, words in TOLD.items())
    names = {one["case"] for one in output["predicted"]}
    assert len(names) == CASES - 3
    kinds = ("_seg.nii.gz", "_distance.nii.gz", ".json", ".png")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name + kind for name in names for kind in kinds}
    assert max(held[WARM:]) - held[WARM - 1] < GROWTH_MB
