"""The measurements: complete, plausible, written as they go, and gone on with; no test depends on speed."""

import json
import multiprocessing
import time
from types import SimpleNamespace

import pytest
import torch

from dualtask_lite import machine
from dualtask_lite.engine import bench as engine
from dualtask_lite.engine.bench import PARTS, bench, card, rows, timing
from dualtask_lite.engine.bench.samples import CALLS, synthetic_region
from dualtask_lite.engine.bench.step import LAYERS, matrix_rate, step_flop
from dualtask_lite.engine.bench.timing import repeat
from dualtask_lite.engine.bench.whole_case import compare_with_monai
from dualtask_lite.engine.config import Settings
from dualtask_lite.errors import DualTaskError

TINY = {"sample.patch": [16, 24, 8], "machine.device": "cpu", "optimiser.batch": 1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.05)
    monkeypatch.setattr("dualtask_lite.engine.bench.whole_case.CASE", (40, 32, 20))


def test_all_parts_of_a_profile_with_every_term(tmp_path):
    report = bench(list(engine.ALL), "gpu", TINY | {"network.width": 8, "machine.workers": 1}, tmp_path / "b.json")
    assert report == json.loads((tmp_path / "b.json").read_text())
    results = report["results"]
    assert list(results) == [name for part in engine.ALL for name in engine.PARTS[part]]
    assert report["settings"]["stage"] == "tumour-fine"
    for name in ("pipeline", "step, fp32 eager", "step, tuned"):
        assert results[name]["repeats"] >= 3
        assert 0 < results[name]["seconds_min"] <= results[name]["seconds"]
        assert sum(results[name]["share"].values()) == pytest.approx(1, abs=1e-3)
    assert results["pipeline"]["distance_bit_equal_to_scipy"] is True
    assert results["pipeline"]["loader_samples_per_second"] > 0
    assert set(results["pipeline"]["share"]) == {*CALLS, "rest"}
    assert all(share > 0 for share in results["pipeline"]["share"].values())
    tuned = results["step, tuned"]
    assert tuned["voxels"] == 2 * 16 * 24 * 8
    assert tuned["voxels_per_second"] == pytest.approx(tuned["voxels"] / tuned["seconds"], rel=0.01)
    assert set(results["layers"]["share"]) == set(LAYERS)
    assert results["predict"]["voxels"] == 40 * 32 * 20
    assert results["predict"]["flips"] == 8
    assert {row["measure"] for row in rows(report)} == set(results)
    assert 0 <= results["waiting for data"]["share_waiting_for_data"] < 1
    for name, flips in (("windows beside MONAI", 8), ("reference model beside MONAI", 1)):
        assert results[name]["flips"] == flips
        assert results[name]["dice_of_masks"] > 0.9
    assert results["windows beside MONAI"]["mask_voxels"] > 0


def test_one_flip_gives_the_mask_of_monai():
    found = compare_with_monai(Settings.of("laptop", TINY | {"prediction.flips": 1}))
    assert found["mask_voxels"] > 0
    assert found["dice_of_masks"] == 1
    assert found["largest_difference"] < 1e-4


def test_a_start_in_two_processes_and_again(phantom_folder):
    found = PARTS["start"]["start"](Settings.of("laptop", TINY | {"data.source": str(phantom_folder)}))
    assert found.pop("cases") == 12
    assert list(found) == [f"{name}, {count} processes" for count in (1, 2) for name in ("first", "again")]
    for name, of in found.items():
        assert of["seconds_to_first_step"] > 0
        assert len(of["peak_memory_mb"]) == int(name.split()[1])


def test_half_an_hour_with_a_card_rehearsed_without_one(phantom_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "TESTS", tmp_path / "not-there")
    monkeypatch.setattr(card, "PARTS", {"step": {"step, tuned": PARTS["step"]["step, tuned"]}})
    monkeypatch.setattr(card, "ALL", ("step",))
    monkeypatch.setattr(card, "FEWEST_STEPS", 1)
    tiny = TINY | {"sample.patch": [16, 16, 16], "sample.spacing": [12, 12, 12], "network.width": 8}
    tiny |= {"optimiser.batch": 2, "optimiser.steps": 2, "machine.workers": 0, "prediction.flips": 1}
    options = {"arms": ["segmentation"], "seeds": 1, "source": str(phantom_folder), "exam_cases": 1}
    cut = card.measure_card("gpu", tiny, tmp_path / "card", minutes=1e-3, **options)
    assert "table" not in cut["results"]
    ended = card.measure_card("gpu", tiny, tmp_path / "card", minutes=60, **options)
    assert ended == json.loads((tmp_path / "card" / "card.json").read_text())
    assert ended["bench"]["results"].keys() == {"step, tuned"}
    assert ended["results"]["table"]["cells_done"] == ended["results"]["table"]["cells"] == 1
    assert "not_run" in ended["results"]["tests"]
    assert set(ended["results"]["memory"]) == {"laptop", "colab", "gpu", "paper"}


def test_the_table_of_a_card_leaves_out_what_each_of_its_cells_sets(tmp_path, monkeypatch):
    """Settings of the other measurements; ablate would refuse them."""
    monkeypatch.setattr(card.subprocess, "run", lambda words, **_: SimpleNamespace(returncode=0))
    overrides = {"seed": 7, "views.count": 1, "views.max_blend": 0.5, "objective.weights.out": 0}
    command = card.train_table("gpu", overrides, tmp_path, "phantom", ["full"], 1, 60)["command"]
    assert command.count("--set") == 1
    assert "--set views.max_blend=0.5" in command


def test_interrupted_benchmark_continues_and_keeps_finished_parts(tmp_path, monkeypatch):
    def fails(settings):
        raise KeyboardInterrupt

    path = tmp_path / "b.json"
    monkeypatch.setattr(engine, "PARTS", {"step": {"one": lambda settings: {"seconds": 1.0}, "two": fails}})
    with pytest.raises(KeyboardInterrupt):
        bench(["step"], "laptop", TINY, path)
    assert json.loads(path.read_text())["results"] == {"one": {"seconds": 1.0}}
    again = {"one": fails, "two": lambda settings: {"seconds": 2.0}}
    monkeypatch.setattr(engine, "PARTS", {"step": again})
    assert bench(["step"], "laptop", TINY, path)["results"] == {"one": {"seconds": 1.0}, "two": {"seconds": 2.0}}
    with pytest.raises(DualTaskError, match="of other settings"):
        bench(["step"], "laptop", TINY | {"network.width": 16}, path)


@pytest.mark.parametrize("content", ["garbage", "[]"])
def test_file_that_holds_no_benchmark_is_refused(tmp_path, content):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(DualTaskError, match=r"b\.json"):
        bench(["step"], "laptop", TINY, tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == content


def test_flop_of_a_step_match_the_paper_network():
    """METHOD: 1.51 MFLOP a voxel, forward and backward, at width 32."""
    assert step_flop(Settings.of("gpu", {"stage": "tumour-fine"})) == pytest.approx(1.51e6, rel=0.01)


def test_timer_counts_waiting_as_wall_but_not_cpu_time():
    found = repeat(lambda: time.sleep(0.02), CPU)
    assert 0.02 <= found["seconds_min"] < 1
    assert found["cpu_seconds"] < found["seconds"]
    assert matrix_rate(CPU, torch.float32) > 1e8


def test_the_made_region_has_a_ball_in_its_middle():
    region = synthetic_region(Settings.of("laptop", TINY))
    assert region.image.shape == region.mask.shape == (1, 24, 36, 12)
    middle = torch.nonzero(region.mask[0]).float().mean(0)
    assert torch.allclose(middle, torch.tensor([12.0, 18.0, 6.0]), atol=0.6)
    assert region.image[region.mask > 0].mean() > region.image[region.mask == 0].mean() + 0.1


def test_the_memory_of_a_process_is_its_own():
    ballast = torch.ones(200, 2**20 // 4)  # 200 MB here must not count there
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        child = pool.apply(machine.peak_memory_mb)
    assert machine.peak_memory_mb() > ballast.nbytes / 2**20
    del ballast
    mine = machine.peak_memory_mb()
    assert child < mine - 100
