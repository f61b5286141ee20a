"""The reference models: what they score is what the table says, and each command takes their names."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dualtask_lite import resources
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine import reference
from dualtask_lite.engine.judging.evaluation import refuse_training_cases, score
from dualtask_lite.engine.predict import in_cascade_order, predict_scan
from dualtask_lite.engine.records import read_rows
from dualtask_lite.engine.run import load_model, load_models
from dualtask_lite.errors import DualTaskError
from dualtask_lite.resources import CASCADES, data_file, run_folder
from dualtask_lite.rows import number

FEW = (1, 4, 9)  # cases of the held-out hospital
APART = 0.02  # Dice by which another processor may differ


@pytest.mark.parametrize("name", CASCADES)
def test_its_scores_are_those_of_the_table(name):
    models = in_cascade_order(load_models(name, "cpu"))
    arm = json.loads((data_file(f"models/{CASCADES[name][-1]}") / "manifest.json").read_text())["arm"]
    table = [row for row in read_rows(data_file("results/reference/cases.csv")) if row["arm"] == arm]
    table = {(r["case"], r["target"]): r["dice"] for r in table if (r["part"], r["seed"]) == ("C", "0")}
    for patient in FEW:
        scan = make_case("C", patient).load()
        # The rows are by the segmentation head, as all arms are compared.
        for row in score(scan, predict_scan(models, scan), ["pancreas", "tumour"]):
            assert row["dice"] == pytest.approx(
                float(table[row["case"], row["target"]] or "nan"), abs=APART, nan_ok=True
            )


@pytest.mark.parametrize("name", CASCADES)
def test_reference_model_has_no_held_out_training_case(name):
    models = load_models(name, "cpu")
    assert {case.centre for model in models for case in model.training_cases} == {"A", "B"}
    assert {model.settings.data.held_out for model in models} == {"C"}
    with pytest.raises(DualTaskError):
        refuse_training_cases(models, [make_case("A", patient) for patient in range(20)])


def test_reference_models_are_small():
    files = [
        file
        for stage in {s for stages in CASCADES.values() for s in stages}
        for file in data_file(f"models/{stage}").iterdir()
    ]
    assert sum(file.stat().st_size for file in files) < 12e6


def test_models_table_gives_their_scores():
    for row in reference.model_rows():
        manifest = json.loads((data_file(f"models/{CASCADES[row['name']][-1]}") / "manifest.json").read_text())
        rows = read_rows(data_file("results/reference/cases.csv"))
        of_model = {"arm": manifest["arm"], "part": "C", "seed": "0", "target": "tumour"}
        dices = [number(r["dice"]) for r in rows if of_model.items() <= r.items()]
        assert row["tumour Dice on C"] == pytest.approx(np.nanmean(dices), abs=1e-3)


def test_pancreas_stage_is_scored_by_its_own_rows():
    """Those of the training runs that stood behind it, not of another training run of the stage."""
    scores = json.loads((data_file("models/pancreas-coarse") / "manifest.json").read_text())["scores"]["C"]
    assert scores == {"pancreas": pytest.approx(reference.model_rows()[0]["pancreas Dice on C"], abs=1e-3)}


def test_the_commands_take_its_name(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    scan = make_case("C", 3).load()
    ct = scan.save(scan.volume, tmp_path / "ct.nii.gz")
    code, out, err = typed("predict", "reference", ct, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    assert "made-up cases" in err
    assert (tmp_path / "out" / "ct_seg.nii.gz").exists()
    assert typed("export", "reference", "-o", tmp_path / "bundle")[0] == 0
    code, out, _ = typed("models", "--json")
    assert {row["name"] for row in json.loads(out)["models"]} == set(CASCADES)
    run = run_folder("reference")
    assert run_folder("reference") == run
    assert typed("report", "reference")[0] == 0
    assert (run / "report.html").stat().st_size > 1000


def test_results_beside_the_input_do_not_hide_the_model(typed, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    scan = make_case("C", 3, size=(24, 24, 12)).load()
    scan.save(scan.volume, tmp_path / "ct.nii.gz")
    for _ in range(2):
        code, _, err = typed("predict", "reference", "ct.nii.gz", "-o", "reference")
        assert code == 0, err
        assert "made-up cases" in err
    assert "write ./reference for the folder" in caplog.text
    code, _, err = typed("predict", "./reference", "ct.nii.gz", "-o", "out")
    assert (code, "made-up cases" in err) == (1, False)
    assert "there is no such model" in err


def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "data_file", lambda name: tmp_path / name)
    with pytest.raises(DualTaskError, match="make models"):
        run_folder("reference")


@pytest.mark.parametrize("stage", sorted({stage for stages in CASCADES.values() for stage in stages}))
def test_only_large_tensors_are_in_half_precision(stage):
    tensors = load_file(data_file(f"models/{stage}/model.safetensors"))
    halves = {name for name, tensor in tensors.items() if tensor.dtype == torch.float16}
    assert halves == {name for name, tensor in tensors.items() if tensor.numel() > reference.LARGE}
    net = load_model(data_file(f"models/{stage}"), "cpu").net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    again = reference.halved(net).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())


def test_half_precision_that_changes_a_mask_is_refused():
    model = load_model(data_file("models/pancreas-coarse"), "cpu")
    reference.check_same_masks(model, replace(model, net=copy.deepcopy(model.net).half().float()), cases=1)
    broken = copy.deepcopy(model.net)
    broken.seg_head.bias.data += 1
    with pytest.raises(DualTaskError, match="half precision"):
        reference.check_same_masks(model, replace(model, net=broken), cases=1)
