"""The MONAI bundle: MONAI's command gives the same voxels as predict, and the bundle names no case."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from monai.bundle.properties import InferProperties
from monai.bundle.utils import DEFAULT_METADATA

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.export import Evaluator, export_bundle
from dualtask_lite.engine.predict import Prediction, TargetPrediction, predict_scan
from dualtask_lite.engine.run import TrainingCase, build_network, load_models, save_model
from dualtask_lite.errors import DualTaskError

PATIENT, FOLDER = "patient_0815", "/archive/hospital"


def run_folder(folder, stage, seed):
    """An untrained model, with heads spread so that its mask is neither empty nor full."""
    import torch

    torch.manual_seed(seed)
    values = {"stage": stage, "sample.patch": [16, 16, 16], "sample.spacing": [8, 8, 8], "data.source": FOLDER}
    settings = Settings.of("laptop", {**values, "data.cases": [PATIENT], "augment.flip": 0.5, "prediction.flips": 2})
    net = build_network(settings)
    torch.nn.init.normal_(net.seg_head.weight)
    folder.mkdir(parents=True)
    save_model(folder / "model.safetensors", net, settings, [TrainingCase(PATIENT, "A", "0" * 64, "train")])


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A file whose voxel order is not RAS."""
    case = make_case("B", 0, size=(40, 40, 20))
    path = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(case.image[::-1], case.affine @ np.diag([-1, 1, 1, 1])), path)
    return path


@pytest.mark.parametrize("stages", [["tumour-coarse"], ["pancreas-coarse", "tumour-coarse", "tumour-fine"]])
def test_bundle_gives_the_mask_of_predict(tmp_path, ct, stages):
    for seed, stage in enumerate(stages):
        run_folder(tmp_path / "runs" / stage, stage, seed)
    models = load_models(tmp_path / "runs")
    bundle = export_bundle(models, tmp_path / "bundle")
    words = ["run", "--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    words += ["--bundle_root", ".", "--dataset_dir", str(ct), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    scan = find_cases(str(ct))[0].load()
    prediction = predict_scan(models, scan)
    assert 0 < (prediction.mask > 0).mean() < 1
    for kind, voxels in (("seg", prediction.mask), ("distance", prediction.distance_mm)):
        written = nib.load(tmp_path / "out" / f"ct_{kind}.nii.gz")
        expected = nib.load(scan.save(voxels, tmp_path / f"{kind}.nii.gz"))
        assert np.array_equal(written.affine, nib.load(ct).affine)
        assert written.get_data_dtype() == voxels.dtype
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(expected.dataobj))


def a_prediction(scan):
    mask = (scan.volume > 0).astype(np.uint8)
    stage = {"stage": "tumour-fine", "volume_ml": 1.0, "seconds": 0.1}
    return Prediction(
        {"tumour": TargetPrediction(mask > 0, mask.astype(np.float32), mask.astype(np.float32), {})}, [stage]
    )


@pytest.fixture
def evaluator(tmp_path, ct):
    """Of a folder with two CTs, one of them damaged, into a folder below it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a_damaged.nii.gz").write_bytes(ct.read_bytes()[:2000])
    shutil.copyfile(ct, tmp_path / "in" / "ct.nii.gz")

    def make():
        return Evaluator(
            lambda scan: a_prediction(scan), find_cases(str(tmp_path / "in")), str(tmp_path / "in" / "out")
        )

    return make


def test_bundle_predicts_the_other_cases_and_not_its_own_results(evaluator, tmp_path):
    for _ in range(2):
        with pytest.raises(DualTaskError, match="1 of 2 inputs could not be predicted: a_damaged"):
            evaluator().run()
        names = {path.name for path in (tmp_path / "in" / "out").iterdir()}
        assert names == {"ct_seg.nii.gz", "ct_distance.nii.gz", "ct.json"}


@pytest.mark.parametrize("corrected", [True, False], ids=["corrected", "of another program"])
def test_bundle_replaces_no_mask_that_it_did_not_write(evaluator, tmp_path, corrected):
    if corrected:
        with pytest.raises(DualTaskError, match="could not be predicted"):
            evaluator().run()
    mask = tmp_path / "in" / "out" / "ct_seg.nii.gz"
    mask.parent.mkdir(exist_ok=True)
    mask.write_bytes(b"by hand")
    with pytest.raises(DualTaskError, match="was changed after" if corrected else "is not a result"):
        evaluator().run()
    assert mask.read_bytes() == b"by hand"


@pytest.fixture
def bundle(tmp_path):
    run_folder(tmp_path / "run", "tumour-fine", 0)
    return export_bundle(load_models(tmp_path / "run"), tmp_path / "bundle")


def test_metadata_has_the_fields_of_monais_specification(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert set(DEFAULT_METADATA) | {"schema"} <= set(metadata)
    assert all(metadata[key] for key in DEFAULT_METADATA)
    formats = metadata["network_data_format"]
    assert set(formats["inputs"]) == {"image"}
    for tensor in [*formats["inputs"].values(), *formats["outputs"].values()]:
        required = "type format num_channels spatial_shape dtype value_range is_patch_data channel_def"
        assert set(required.split()) <= set(tensor)
        assert set(tensor["channel_def"]) == {str(c) for c in range(tensor["num_channels"])}
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files == {
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "docs/license.txt",
        "models/model.safetensors",
    }
    assert "not for diagnosis" in (bundle / "docs" / "README.md").read_text()


def test_monai_finds_the_required_properties(bundle, ct):
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(ct),
    )
    workflow.initialize()
    assert not workflow.check_properties()
    for name, definition in InferProperties.items():
        assert getattr(workflow, name) is not None or not definition["required"]


def test_bundle_keeps_digests_but_no_case_names(bundle):
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert PATIENT.encode() not in content
            assert FOLDER.encode() not in content
    (used,) = load_models(bundle / "models")[0].training_cases
    assert used == replace(used, digest="0" * 64, role="train")


def test_existing_folder_is_not_changed(bundle):
    before = (bundle / "configs" / "metadata.json").stat().st_mtime_ns
    with pytest.raises(DualTaskError, match="exists already"):
        export_bundle(load_models(bundle / "models"), bundle)
    with pytest.raises(DualTaskError, match="no model"):
        export_bundle([], bundle.parent / "none")
    assert (bundle / "configs" / "metadata.json").stat().st_mtime_ns == before
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []
