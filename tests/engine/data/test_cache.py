"""Regions on disk: the same as those in memory, cut once, and anew when anything that they depend on changes."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dualtask_lite.cases import digests
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.nifti import on_ras_grid
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.data import cache
from dualtask_lite.engine.data.cache import mapped_region, training_regions
from dualtask_lite.engine.data.dataset import Samples, training_region
from dualtask_lite.engine.run import load_model
from dualtask_lite.engine.training.train import train
from dualtask_lite.errors import DualTaskError

SMALL = {"sample.spacing": [8, 8, 8], "sample.patch": [16, 16, 16], "machine.cache_regions": True}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    digests.file_digests.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def case(phantom_folder, tmp_path):
    first = find_cases(phantom_folder)[0]
    copied = {name: Path(shutil.copy(getattr(first, name), tmp_path / f"{name}.nii.gz")) for name in ("image", "label")}
    return replace(first, **copied)


def settings(**changes):
    return Settings.of("laptop", {**SMALL, **changes})


def made(side=40, seed=0):
    ball = np.add.reduce([(axis - side / 2) ** 2 for axis in np.mgrid[:side, :side, :side]]) < side
    volume = np.random.default_rng(seed).normal(0, 50, ball.shape).astype(np.float32)
    return Case(f"made{seed}", "A", volume, ball.astype(np.uint8) * 2, np.diag([2.0, 2, 2, 1]))


def files_of(folder):
    return sorted((folder / "regions").glob("*"))


def test_a_mapped_region_is_the_one_that_was_cut(case):
    cut, mapped = training_region(case, settings()), mapped_region(case, settings())
    assert torch.equal(cut.image, mapped.image)
    assert torch.equal(cut.mask, mapped.mask)
    assert (cut.case_id, cut.spacing, cut.box) == (mapped.case_id, mapped.spacing, mapped.box)
    ours, theirs = (Samples([region], settings(), range(6)) for region in (mapped, cut))
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("image", "mask", "distance_mm"))


def test_a_second_run_reads_no_ct(case, monkeypatch):
    mapped_region(case, settings())
    digests.file_digests.cache_clear()  # a new process

    def read(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(cache, "training_region", read)
    monkeypatch.setattr(digests, "open_image", read)
    assert mapped_region(case, settings(**{"seed": 3, "optimiser.steps": 7})).mask.any()
    assert case.digest()


def test_an_image_is_decoded_once_for_both_of_its_digests(case, monkeypatch):
    decoded = []
    monkeypatch.setattr(digests, "on_ras_grid", lambda *given: decoded.append(given) or on_ras_grid(*given))
    stat = case.image.stat()
    assert digests.file_digests(case.image, stat.st_mtime_ns, stat.st_size)[0] == case.digest()
    assert len(decoded) == 1


def test_a_copy_of_the_files_needs_no_new_region(case, folder, tmp_path):
    mapped_region(case, settings())
    copied = replace(case, id="other", image=Path(shutil.copy(case.image, tmp_path / "moved.nii.gz")))
    assert mapped_region(copied, settings()).case_id == "other"
    assert len(files_of(folder)) == 1


@pytest.mark.parametrize(
    "what", ["stage", "spacing", "label", "affine", "label_map", "volume", "dataset", "grid", "masks"]
)
def test_a_region_is_cut_anew_when_its_origin_changes(what, folder, monkeypatch, tmp_path):
    case, chosen = made(), settings()
    mapped_region(case, chosen)
    if what == "stage":
        chosen = settings(stage="pancreas-coarse")
    elif what == "spacing":
        chosen = settings(**{"sample.spacing": [8, 8, 6]})
    elif what in ("dataset", "grid", "masks"):  # the code
        (tmp_path / "other.py").write_text("another way to cut")
        monkeypatch.setattr(getattr(cache, what), "__file__", str(tmp_path / "other.py"))
    else:
        changes = {
            "label": np.roll(case.label, 1, 0),
            "affine": np.diag([2.0, 2, 3, 1]),
            "label_map": {2: 1},
            "volume": made(seed=1).image,
        }
        case = replace(case, **{"image" if what == "volume" else what: changes[what]})
    mapped_region(case, chosen)
    assert len(files_of(folder)) == 2


def test_a_file_that_was_written_again_is_hashed_again(case, folder):
    before = case.digest()
    scan = case.load()
    scan.save(np.roll(scan.volume, 3, 0), case.image)
    os.utime(case.image, ns=(1, 1))
    assert case.digest() != before
    assert len(list((folder / "digests").glob("*"))) == 2


def test_a_damaged_region_is_cut_again(folder):
    whole = mapped_region(made(), settings())
    image = whole.image.clone()
    (file,) = files_of(folder)
    file.unlink()  # the pages of the first are still mapped
    file.write_bytes(b"no region")
    assert torch.equal(mapped_region(made(), settings()).image, image)


def test_digests_need_no_folder_that_can_be_written(case, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "file"))
    assert case.digest()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_regions_take_no_memory_of_their_own():
    def anonymous_mb():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**10

    fine = settings(**{"stage": "pancreas-coarse", "sample.spacing": [1, 1, 1]})
    one = made()  # made again for each region, it would fragment the heap
    mapped_region(one, fine)
    before = anonymous_mb()
    regions = [mapped_region(one, fine) for _ in range(40)]
    assert sum(region.image.nbytes for region in regions) > 80e6
    assert sum(float(region.image.sum()) for region in regions) > 0
    assert anonymous_mb() - before < 40


def test_regions_that_do_not_fit_into_memory_name_the_setting(monkeypatch):
    monkeypatch.setattr(cache, "host_memory", lambda: (10**9, 10**5))
    kept = settings(**{"machine.cache_regions": False})
    assert len(training_regions([made()], kept)) == 1
    with pytest.raises(DualTaskError, match=r"1000 cases take about .*cache_regions=true"):
        training_regions([made()] * 1000, kept)


def test_regions_that_fill_the_memory_but_fit_are_read(monkeypatch):
    """What has been read no longer counts as available: of three equal regions two remain after the first."""
    kept, read = settings(**{"machine.cache_regions": False}), []
    region = training_region(made(), kept)
    size = region.image.nbytes + region.mask.nbytes

    def counted(case, settings):
        read.append(case)
        return region

    monkeypatch.setattr(cache, "training_region", counted)
    monkeypatch.setattr(cache, "host_memory", lambda: (10 * size, (3 - len(read)) * size))
    assert len(training_regions([made()] * 3, kept)) == 3
    read.clear()
    with pytest.raises(DualTaskError, match="4 cases"):
        training_regions([made()] * 4, kept)


def test_a_training_learns_the_same_from_mapped_regions(phantom_folder, tmp_path):
    cases = find_cases(phantom_folder)
    split = Split(train=tuple(cases[:3]), validation=tuple(cases[3:4]), test=())
    few = {"optimiser.steps": 2, "optimiser.batch": 1, "machine.device": "cpu"}
    runs = [
        train(settings(**few, **{"machine.cache_regions": on}), tmp_path / str(on), split=split, progress=False)
        for on in (False, True)
    ]
    one, other = (load_model(run, "cpu").net.state_dict() for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
