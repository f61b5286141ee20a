"""A model that is loaded computes where the machine is fastest."""

import shutil

import pytest
import torch

from dualtask_lite.engine import run
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.records import read_json, read_rows, seconds_until
from dualtask_lite.engine.run import (
    CONFIG,
    MANIFEST,
    MODEL,
    build_network,
    load_model,
    load_models,
    save_model,
    steps_of_model,
)
from dualtask_lite.errors import DualTaskError


@pytest.fixture
def saved(tmp_path, monkeypatch):
    settings = Settings.of("laptop", {"network.width": 8})
    save_model(tmp_path / "stage" / MODEL, build_network(settings), settings, [])
    monkeypatch.setattr(run, "pick_device", lambda wanted: "meta")  # a card that every machine has
    return tmp_path


def device_of(model):
    return next(model.net.parameters()).device.type


def test_a_loaded_model_is_on_the_card_by_default(saved):
    assert device_of(load_model(saved / "stage")) == "meta"
    assert [device_of(model) for model in load_models(saved)] == ["meta"]


def test_a_cascade_with_a_stage_to_come_is_refused(saved):
    """Its finished stages alone would predict masks without the target of the others."""
    later = saved / "tumour-coarse"
    Settings.of("laptop").write(later / CONFIG)
    with pytest.raises(DualTaskError, match=r"tumour-coarse is not finished; finish it with dualtask train --resume"):
        load_models(saved)
    assert len(load_models(saved / "stage")) == 1
    shutil.copyfile(saved / "stage" / MODEL, later / MODEL)
    assert len(load_models(saved)) == 2


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_loaded_model_is_on_the_requested_device(saved, device):
    assert device_of(load_model(saved / "stage", device)) == "cpu"


def test_processors_of_one_name_and_other_instructions_are_told_apart(monkeypatch):
    """They round differently, so the same training ends elsewhere."""
    devices = set()
    for instructions in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=instructions: found)
        devices.add(run.provenance("cpu")["device"])
    assert len(devices) == 2


@pytest.mark.parametrize("text", ["\ufeffstep,seconds\r\n1,0.5\r\n", "step,seconds\n1,0.5\n"])
def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    assert read_rows(tmp_path / "metrics.csv", ["step"]) == [{"step": "1", "seconds": "0.5"}]


@pytest.mark.parametrize("text", ["step;seconds\n1;0.5\n", "case,dice\none,0.5\n"])
def test_a_table_with_other_columns_is_refused(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(DualTaskError, match=r"metrics\.csv: has no column step"):
        seconds_until(tmp_path / "metrics.csv", 3)


@pytest.mark.parametrize("numbers", [["dice"], None])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('2,"0,5"', r"line 3, column dice: '0,5' is not a number; .*decimal point"),
        ("2,0,5", "line 3 has more fields than there are columns"),
        ("2,good", "line 3, column dice: 'good' is not a number"),
    ],
)
def test_a_number_that_a_spreadsheet_wrote_with_a_comma_is_named(tmp_path, row, message, numbers):
    (tmp_path / "cases.csv").write_text(f"step,dice\n1,0.5\n{row}\n3,0.7\n")
    with pytest.raises(DualTaskError, match=rf"cases\.csv: {message}"):
        read_rows(tmp_path / "cases.csv", ["dice"], numbers=numbers)


def test_every_value_that_the_kit_writes_for_a_number_is_one(tmp_path):
    (tmp_path / "cases.csv").write_text("step,dice\n1,nan\n2,\n3,True\n4,-1e-05\n5\n")
    found = read_rows(tmp_path / "cases.csv", ["step"], numbers=None)
    assert [row["dice"] for row in found] == ["nan", "", "True", "-1e-05"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no JSON object"),
        ("null", "holds no JSON object"),
        ("3", "holds no JSON object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"steps": ' * 100_000, "cannot be read"),
        ("{}", "its entry steps is missing"),
        ('{"steps": "4"}', "its entry steps is not as dualtask writes it"),
        ('{"steps": null}', "its entry steps is not as dualtask writes it"),
        ('{"steps": [4]}', "its entry steps is not as dualtask writes it"),
    ],
    ids=lambda value: value[:20],
)
def test_a_manifest_of_another_shape_is_named(saved, content, message):
    file = saved / "stage" / MANIFEST
    file.write_text(content)
    with pytest.raises(DualTaskError, match=rf"manifest\.json: {message}"):
        steps_of_model(file.parent)


def test_an_entry_that_may_be_missing_may_be(tmp_path):
    (tmp_path / "summary.json").write_text('{"failed": null}')
    wanted = {"failed": dict[str, str] | None, "models": list[str] | None}
    assert read_json(tmp_path / "summary.json", wanted) == {"failed": None}
