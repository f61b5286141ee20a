"""What only a CUDA card can show; skipped by name elsewhere. ``pytest -m gpu`` takes minutes."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dualtask_lite.cases.masks import dice
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine.bench.samples import synthetic_region
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.export import Evaluator, export_bundle
from dualtask_lite.engine.inference import predict_region
from dualtask_lite.engine.judging.disagreement import disagreement
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.records import read_rows
from dualtask_lite.engine.run import Model, build_network, load_model, load_models
from dualtask_lite.engine.training.devices import make_fabric, set_up
from dualtask_lite.engine.training.memory import MARGIN, release_memory, step_bytes
from dualtask_lite.engine.training.step import Steps, make_optimiser
from dualtask_lite.engine.training.train import train
from dualtask_lite.machine import has_bf16
from dualtask_lite.method.contrast import core_and_shell
from dualtask_lite.method.distance import signed_distance
from dualtask_lite.method.losses import feat_term
from dualtask_lite.method.views import random_view

CARD = torch.device("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]
PRECISIONS = [
    "32-true",
    "16-mixed",
    pytest.param("bf16-mixed", marks=pytest.mark.skipif(not has_bf16(), reason="needs a card with bf16")),
]
SMALL = {
    "stage": "tumour-fine",
    "network.width": 8,
    "sample.patch": [32, 32, 32],
    "sample.spacing": [4, 4, 4],
    "optimiser.batch": 2,
    "optimiser.steps": 4,
    "machine.workers": 0,
    "machine.checkpoint_every": 2,
    "machine.device": "cuda",
    "machine.cache_regions": False,
}


def settings(**changes):
    return Settings.of("gpu", {**SMALL, **changes})


@pytest.fixture(scope="module")
def split(phantom_folder):
    cases = [case for case in find_cases(phantom_folder) if case.load().has_tumour]
    return Split(train=tuple(cases[:3]), validation=tuple(cases[3:4]), test=())


def steps_of(chosen):
    torch.manual_seed(0)
    fabric, net = make_fabric(chosen), build_network(chosen)
    model, optimiser = set_up(fabric, net, make_optimiser(net, chosen), chosen)
    return Steps(fabric, net, model, optimiser, chosen, [synthetic_region(chosen)])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_interrupted_run_resumes(precision, split, tmp_path):
    chosen = settings(**{"machine.precision": precision})
    run = train(chosen, tmp_path / "run", split=split, progress=False, callback=lambda row: row["step"] == 2)
    train(chosen, run, split=split, progress=False, resume=True)
    rows = read_rows(run / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(float(row["total"])) for row in rows)
    assert next(load_model(run).net.parameters()).is_cuda


@pytest.mark.parametrize(
    "change", [{"machine.compile": True}, {"machine.recompute": True}], ids=["compile", "recompute"]
)
def test_a_tuned_step_has_the_loss_of_a_plain_one(change):
    chosen = settings(**{"machine.precision": "32-true", "optimiser.steps": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a network that cannot be compiled is only warned of
        losses = [next(iter(steps_of(one).run(0)))["total"] for one in (chosen, chosen.changed(change))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_views_on_a_card_are_those_of_a_cpu():
    image = torch.stack([synthetic_region(settings()).image] * 2)
    views = [random_view(image.to(device), torch.Generator().manual_seed(1)).cpu() for device in ("cpu", CARD)]
    assert torch.allclose(*views, atol=1e-2)  # convolutions in tf32


def test_the_contrast_reads_the_card_once():
    region = synthetic_region(settings())
    mask = region.mask[None].float()
    distance = signed_distance(mask, region.spacing)
    embedding = torch.randn(1, 8, *(side // 8 for side in mask.shape[2:]), generator=torch.Generator().manual_seed(0))
    assert all(part.any() for part in core_and_shell(mask, distance, generator=torch.Generator().manual_seed(2)))
    on_cpu = feat_term(embedding, mask, distance, generator=torch.Generator().manual_seed(2))
    moved = [tensor.to(CARD) for tensor in (embedding, mask, distance)]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            on_card = feat_term(*moved, generator=torch.Generator().manual_seed(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert on_card.item() == pytest.approx(on_cpu.item(), rel=1e-4)
    assert len(waits) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prediction_agrees_with_that_of_a_cpu(precision):
    chosen = settings(**{"machine.precision": precision, "prediction.flips": 2})
    net, image = build_network(chosen).eval(), synthetic_region(chosen).image
    on_cpu, on_card = (predict_region(copy.deepcopy(net).to(device), image, chosen).cpu() for device in ("cpu", CARD))
    assert torch.allclose(on_cpu[0], on_card[0], atol=0.02)
    assert dice((on_cpu[0] >= 0.5).numpy(), (on_card[0] >= 0.5).numpy()) > 0.98


def test_the_opinions_on_a_case_agree_with_those_of_a_cpu(split):
    scan = split.validation[0].load()
    chosen = settings(**{"stage": "pancreas-coarse", "machine.precision": "32-true"})
    torch.manual_seed(0)
    net, by_device = build_network(chosen).eval(), []
    for device in ("cpu", CARD):
        model = Model(copy.deepcopy(net).to(device), chosen, (), Path("untrained"))
        by_device.append(disagreement([model], scan, predict_scan([model], scan)).warnings)
    assert by_device[1] == pytest.approx(by_device[0], abs=0.05)


def test_a_cascade_trains_predicts_and_exports_in_one_process(split, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*of memory, but the device has")
        for stage in ("pancreas-coarse", "tumour-fine"):
            chosen = Settings.of("gpu", {**SMALL, "stage": stage, "optimiser.steps": 2})
            train(chosen, tmp_path / "runs" / stage, split=split, progress=False)
    models, case = load_models(tmp_path / "runs"), split.validation[0]
    mask = predict_scan(models, case.load()).mask
    bundle = export_bundle(models, tmp_path / "bundle")
    loaded = load_models(bundle / "models")
    Evaluator(lambda scan: predict_scan(loaded, scan), [case], str(tmp_path / "out")).run()
    assert (tmp_path / "out" / f"{case.id}_seg.nii.gz").exists()
    assert mask.shape == case.load().shape


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_estimated_memory_covers_the_measured_peak(precision, recompute):
    changes = {"network.width": 32, "sample.patch": [96, 96, 64], "optimiser.batch": 1, "optimiser.steps": 2}
    chosen = settings(**changes, **{"machine.precision": precision, "machine.recompute": recompute})
    release_memory(CARD)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    list(steps_of(chosen).run(0))
    measured = torch.cuda.max_memory_allocated() - held
    assert measured <= MARGIN * step_bytes(chosen, "cuda") <= 2 * measured
