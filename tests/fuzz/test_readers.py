"""Readers on damaged files: a correct result or a ``DualTaskError``, never another exception, a hang or a flood.

A few hundred inputs run in the suite; ``make fuzz`` runs more than 20,000 (``DUALTASK_FUZZ`` is the number for each
reader). What the longer runs found has a test of its own beside the reader's other tests.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import signal
import tarfile
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.download import unpack
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import (
    TrainingCase,
    build_network,
    cases_of_checkpoint,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from dualtask_lite.engine.training.step import make_optimiser
from dualtask_lite.errors import DualTaskError

from .mutations import mutate, mutations

INPUTS = int(os.environ.get("DUALTASK_FUZZ", 60))  # for each reader
SECONDS, MEMORY = 60, 2 * 2**30  # of one input

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no alarm to stop a hang with")


@contextlib.contextmanager
def bounded():
    """Let the block end in time and in memory; whoever asks for more gets a MemoryError."""

    def hang(*_):
        raise AssertionError(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def nifti():
    """A small CT as the bytes of an uncompressed NIfTI file."""
    volume = np.random.default_rng(0).normal(0, 300, (9, 8, 7)).astype(np.int16)
    return nib.Nifti1Image(volume, np.diag([1.0, 1.0, 2.5, 1.0])).to_bytes()


def read_case(path):
    scan = Case("case", "A", path).load()
    assert np.isfinite(scan.volume).all()
    assert scan.volume.ndim == 3
    assert all(0.05 <= size <= 30 for size in scan.spacing)


def read_as_label(path):
    image = path.with_name("ct.nii")
    image.write_bytes(nifti())
    scan = Case("case", "A", image, path).load()
    assert scan.label is None or set(np.unique(scan.label)) <= {0, 1, 2}


def dicom_slice(index):
    """One slice of a small series as the bytes of a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.{index}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"1.2.{index}"
    data.Modality, data.SeriesInstanceUID, data.PatientName = "CT", "1.2.3", "Doe^Jane"
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2.5 * index]
    data.PixelSpacing, data.SliceThickness = [1, 1], 2.5
    data.Columns, data.Rows = 9, 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = np.random.default_rng(index).integers(0, 2000, (8, 9), np.uint16).tobytes()
    written = io.BytesIO()
    pydicom.dcmwrite(written, data, enforce_file_format=True)
    return written.getvalue()


def read_dicom(path):
    """The damaged slice lies between two whole ones."""
    for index in (0, 2):
        path.with_name(f"slice{index}.dcm").write_bytes(dicom_slice(index))
    read_case(path.parent)


def packed(kind):
    """A small archive: ``zip``, or a mode of ``tarfile``."""
    members = {"Task07/dataset.json": b"{}", "Task07/imagesTr/a.nii": nifti(), "Task07/empty": b""}
    written = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return written.getvalue()
    with tarfile.open(fileobj=written, mode=kind, format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"comment": "a header that may be damaged too"}
            archive.addfile(info, io.BytesIO(content))
    return written.getvalue()


def read_archive(path):
    out = path.with_name("out")
    try:
        sizes = unpack(path, out)
        assert all((out / name).stat().st_size == size for name, size in sizes.items())
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read_dataset(path):
    for case in find_cases(path.parent):
        assert case.image.is_file()


def read_settings(path):
    assert isinstance(Settings.read(path), Settings)


def read_model(path):
    assert load_model(path).net is not None


def read_checkpoint(path):
    chosen = small_settings()
    net = build_network(chosen)
    assert load_checkpoint(path, net, make_optimiser(net, chosen)) >= 0
    assert all(case.role for case in cases_of_checkpoint(path))


def small_settings():
    return Settings.of("laptop", {"network.width": 8, "objective.weights": {"seg": 1.0}, "views.count": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undamaged file of each reader: its name, its bytes, who reads it, and how the bytes are packed."""
    folder = tmp_path_factory.mktemp("whole")
    chosen = small_settings()
    net = build_network(chosen)
    optimiser = make_optimiser(net, chosen)
    save_model(folder / "model.safetensors", net, chosen, [])
    save_checkpoint(folder / "last.ckpt", net, optimiser, 3, cases=[TrainingCase("a", "A", "0" * 64, "train")])
    chosen.write(folder / "config.yaml")
    label = nib.Nifti1Image(np.full((9, 8, 7), 2, np.uint8), np.diag([1.0, 1.0, 2.5, 1.0]))
    listed = {
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "labels": {"0": "background", "1": "tumour"},
    }
    files = {
        "nifti": ("ct.nii", nifti(), read_case, bytes),
        "nifti-packed": ("ct.nii.gz", nifti(), read_case, gzip.compress),  # damaged before it is packed
        "gzip": ("ct.nii.gz", gzip.compress(nifti(), mtime=0), read_case, bytes),
        "label": ("label.nii", label.to_bytes(), read_as_label, bytes),
        "dataset": ("dataset.json", json.dumps(listed).encode(), read_dataset, bytes),
        "settings": ("config.yaml", (folder / "config.yaml").read_bytes(), read_settings, bytes),
        "model": ("model.safetensors", (folder / "model.safetensors").read_bytes(), read_model, bytes),
        "checkpoint": ("last.ckpt", (folder / "last.ckpt").read_bytes(), read_checkpoint, bytes),
        "dicom": ("slice1.dcm", dicom_slice(1), read_dicom, bytes),
        "zip": ("set.zip", packed("zip"), read_archive, bytes),
        "tar": ("set.tar", packed("w"), read_archive, bytes),
        "tar-packed": ("set.tar.gz", packed("w"), read_archive, gzip.compress),  # damaged before it is packed
    }
    assert yaml.safe_load(files["settings"][1])
    return files


READERS = ["nifti", "nifti-packed", "gzip", "label", "dataset", "settings", "model", "checkpoint"]
READERS += ["dicom", "zip", "tar", "tar-packed"]


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_refused(reader, whole, tmp_path):
    name, data, read, pack = whole[reader]
    folder = tmp_path / "in"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "a.nii.gz").write_bytes(gzip.compress(nifti()))
    file = folder / name
    file.write_bytes(pack(data))
    read(file)  # the undamaged one is no error
    before = {path for path in tmp_path.rglob("*") if path.parent != folder}

    @settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutations)
    def damaged(changes):
        file.write_bytes(pack(mutate(data, changes)))
        with bounded(), contextlib.suppress(DualTaskError):
            read(file)

    damaged()
    assert {path for path in tmp_path.rglob("*") if path.parent != folder} == before, "a reader wrote a file"
