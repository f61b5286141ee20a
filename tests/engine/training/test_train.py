"""Training: it learns, it resumes to the bit, it stops well, it leaves a whole run folder."""

import copy
import csv
import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.digests import file_digests
from dualtask_lite.cases.splits import Split
from dualtask_lite.engine import records
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings, parse_assignments
from dualtask_lite.engine.inference import predict_region
from dualtask_lite.engine.training import devices, memory
from dualtask_lite.engine.training import step as engine
from dualtask_lite.engine.training import train as engine_train
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.engine.training.selection import checked_split
from dualtask_lite.engine.training.step import learning_rate, ramp
from dualtask_lite.engine.training.train import evenly, train
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import only_writer, whole_file
from dualtask_lite.method.losses import PAPER_WEIGHTS

TINY = {
    "stage": "tumour-coarse",
    "network.width": 8,
    "sample.patch": [16, 16, 16],
    "sample.spacing": [3, 3, 3],
    "optimiser.batch": 2,
    "optimiser.steps": 6,
    "machine.checkpoint_every": 2,
    "machine.validate_every": 3,
    "machine.device": "cpu",
}


def ball(name, centre="A", seed=0):
    rng = np.random.default_rng(seed)
    shape = (24, 22, 20)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    inside = ((grid - (12 + seed % 3, 11, 9)) ** 2).sum(-1) <= 25
    volume = np.where(inside, 120, 0) + rng.normal(0, 10, shape)
    return Case(name, centre, volume.astype(np.float32), (inside * 2).astype(np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))


def split(train_cases=2, validation=1):
    cases = [ball(f"case{i}", seed=i) for i in range(train_cases + validation)]
    return Split(train=tuple(cases[:train_cases]), validation=tuple(cases[train_cases:]), test=())


def weights(folder):
    return files.load_model(folder).net.state_dict()


def test_run_writes_all_of_its_files(tmp_path):
    run = train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)
    assert {f.name for f in run.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "model.safetensors",
        "last.ckpt",
        "manifest.json",
    }
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(float(row[term]) >= 0 for row in rows for term in ("seg", "dist", "conv_mask", "conv_distance"))
    assert [bool(row["val_dice"]) for row in rows] == [False, False, True, False, False, True]
    manifest = json.loads((run / "manifest.json").read_text())
    assert 0 <= manifest["dice"]["train"] <= 1
    assert manifest["dice"]["validation"] == float(rows[-1]["val_dice"])
    assert manifest["seed"] == 0
    assert manifest["seconds"] > 0
    assert manifest["peak_memory_mb"] > 0
    assert [(c["id"], c["role"]) for c in manifest["cases"]] == [
        ("case0", "train"),
        ("case1", "train"),
        ("case2", "validation"),
    ]
    model = files.load_model(run)
    assert model.settings == Settings.read(run / "config.yaml")
    assert [c.id for c in model.training_cases] == ["case0", "case1", "case2"]


@pytest.mark.parametrize("views", [1, 2])
def test_interrupted_run_resumes_to_identical_weights(tmp_path, views):
    """Also when it broke between two checkpoints: what came after the last one is done again."""
    weights_on = PAPER_WEIGHTS if views == 2 else {"out": 0, "feat": 0.1, "slice": 1}
    chosen = Settings.of("laptop", {**TINY, "views.count": views, "objective.weights": weights_on})

    def power_cut(row):
        if row["step"] == 5:
            raise OSError("power cut")

    straight = train(chosen, tmp_path / "straight", split=split(), progress=False)
    with pytest.raises(OSError, match="power cut"):
        train(chosen, tmp_path / "broken", split=split(), progress=False, callback=power_cut)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    broken = train(chosen, tmp_path / "broken", split=split(), progress=False, resume=True)
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(broken)[name]), name
    drop = {"seconds"}
    a, b = (
        [{k: v for k, v in row.items() if k not in drop} for row in records.read_rows(run / "metrics.csv")]
        for run in (straight, broken)
    )
    assert a == b


@pytest.mark.parametrize("step_of_the_cut", [None, 3])
def test_the_model_has_the_moving_average_of_its_weights(tmp_path, step_of_the_cut):
    """As torch averages them; the training itself is the same, also when it is cut and resumed."""
    every_step = {**TINY, "machine.validate_every": 1}
    after_step = []

    def keep(net, *_):
        after_step.append(copy.deepcopy(net))

    def power_cut(row):
        if row["step"] == step_of_the_cut:
            raise OSError("power cut")

    how = {"split": split(), "progress": False}
    last = train(Settings.of("laptop", every_step), tmp_path / "last", **how, on_validation=keep)
    expected = AveragedModel(after_step[0], avg_fn=lambda mean, weight, _: mean + (weight - mean) / 4)
    for net in after_step:
        expected.update_parameters(net)
    averaged, run = Settings.of("laptop", {**every_step, "optimiser.average": 4}), tmp_path / "mean"
    if step_of_the_cut:
        with pytest.raises(OSError, match="power cut"):
            train(averaged, run, **how, callback=power_cut)
    train(averaged, run, **how, resume=True, on_validation=keep)
    shown = after_step[-1].state_dict()
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, expected.module.state_dict()[name], rtol=1e-5, atol=1e-7)
        assert torch.equal(tensor, shown[name]), "the Dice of the last step is that of the model"
    own = [files.build_network(averaged) for _ in range(2)]
    for net, folder in zip(own, (last, run), strict=True):
        files.load_checkpoint(folder / "last.ckpt", net, torch.optim.AdamW(net.parameters()))
    for a, b in zip(own[0].parameters(), own[1].parameters(), strict=True):
        assert torch.equal(a, b), "a longer run goes on from the last weights"


def test_an_average_may_begin_and_end_when_a_run_goes_on(tmp_path):
    def go_on(steps, average):
        chosen = Settings.of("laptop", {**TINY, "optimiser.steps": steps, "optimiser.average": average})
        return train(chosen, tmp_path / "run", split=split(), progress=False, resume=True)

    def own_weights(run):
        net = files.build_network(files.load_model(run).settings)
        files.load_checkpoint(run / "last.ckpt", net, torch.optim.AdamW(net.parameters()))
        return net.state_dict()

    for steps, average in ((2, 0), (2, 4), (4, 4), (6, 0)):
        run = go_on(steps, average)
        same = all(torch.equal(tensor, weights(run)[name]) for name, tensor in own_weights(run).items())
        assert same == (steps != 4), (steps, average)


def test_another_seed_gives_other_weights(tmp_path):
    runs = [
        train(
            Settings.of("laptop", {**TINY, "seed": seed, "optimiser.steps": 1}),
            tmp_path / str(seed),
            split=split(),
            progress=False,
        )
        for seed in (0, 1)
    ]
    assert not torch.equal(weights(runs[0])["seg_head.weight"], weights(runs[1])["seg_head.weight"])


def test_network_learns_a_ball(tmp_path):
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 60, "augment.elastic": 0, "machine.validate_every": 60})
    run = train(chosen, tmp_path / "run", split=split(2, 1), progress=False)
    rows = records.read_rows(run / "metrics.csv")
    assert float(rows[-1]["val_dice"]) > 0.7
    assert float(rows[-1]["dist"]) < 0.7 * float(rows[0]["dist"])


def test_a_callback_can_stop_the_run(tmp_path):
    run = train(
        Settings.of("laptop", TINY),
        tmp_path / "run",
        split=split(),
        progress=False,
        callback=lambda row: row["step"] == 3,
    )
    assert json.loads((run / "manifest.json").read_text())["steps"] == 3
    assert files.load_model(run)


def test_stopped_run_validates_the_weights_that_it_saves(tmp_path):
    """In a step that would not validate; a run that validates in each step says what is right."""

    def stop(row):
        return row["step"] == 4

    dice = []
    for every in (1, 3):
        chosen = Settings.of("laptop", {**TINY, "machine.validate_every": every})
        run = train(chosen, tmp_path / str(every), split=split(), progress=False, callback=stop)
        dice.append(json.loads((run / "manifest.json").read_text())["dice"])
    assert dice[1] == dice[0]
    assert dice[1]["validation"] == float(records.read_rows(tmp_path / "1" / "metrics.csv")[-1]["val_dice"])


def write_cases(folder, names):
    """A folder in Task07 layout, a ball for each name; the number at the end of the name says which."""
    for name in names:
        one = ball(name, seed=int(name[-1]))
        for part, voxels in (("imagesTr", one.image), ("labelsTr", one.label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, one.affine), folder / part / f"{name}.nii.gz")
    return folder


def rename(folder, old, new):
    for part in ("imagesTr", "labelsTr"):
        (folder / part / f"{old}.nii.gz").rename(folder / part / f"{new}.nii.gz")


CHANGES = {
    "added": lambda folder: write_cases(folder, ["a0", "b6", "case7"]),
    "renamed": lambda folder: rename(folder, "case1", "z1"),
    "moved away": lambda folder: (folder / "imagesTr" / "case1.nii.gz").unlink(),
    "changed": lambda folder: (write_cases(folder, ["x9"]), rename(folder, "x9", "case1")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_resumed_run_keeps_its_training_cases(tmp_path, change):
    """Whatever comes to the folder or gets another name; where one of them is gone, it is refused."""
    source = write_cases(tmp_path / "A", [f"case{number}" for number in range(1, 6)])
    chosen = Settings.of("laptop", {**TINY, "data.source": str(source)})

    def power_cut(row):
        if row["step"] == 5:
            raise OSError("power cut")

    straight = train(chosen, tmp_path / "straight", progress=False)
    with pytest.raises(OSError, match="power cut"):
        train(chosen, tmp_path / "broken", progress=False, callback=power_cut)
    CHANGES[change](source)
    if change in ("moved away", "changed"):
        with pytest.raises(DualTaskError, match="began with case case1 of A, which is not among the available"):
            train(chosen, tmp_path / "broken", progress=False, resume=True)
        return
    broken = train(chosen, tmp_path / "broken", progress=False, resume=True)
    used = [[(case.digest, case.role) for case in files.load_model(run).training_cases] for run in (straight, broken)]
    assert used[0] == used[1]
    assert all(torch.equal(tensor, weights(broken)[name]) for name, tensor in weights(straight).items())


def test_every_image_is_compared_under_the_bar(tmp_path):
    """Hashing many CTs takes minutes the first time, and nobody waits that long without a sign."""
    source, compared = write_cases(tmp_path / "A", [f"case{number}" for number in range(1, 6)]), []

    def track(cases):
        for case in cases:
            yield case
            compared.append((case.id, file_digests.cache_info().misses))

    found = checked_split(Settings.of("laptop", {**TINY, "data.source": str(source)}), tmp_path / "run", track=track)
    assert [name for name, _ in compared] == sorted(case.id for case in (*found.train, *found.validation))
    misses = [number for _, number in compared]
    assert np.diff(misses).tolist() == [1] * 4, "each image is hashed when the bar is at its case"
    assert file_digests.cache_info().misses == misses[-1], "and none after it"


def test_cases_without_a_label_are_named_when_they_are_left_out(tmp_path):
    source = write_cases(tmp_path / "A", [f"case{number}" for number in range(1, 7)])
    for number in (2, 3, 4, 5):
        (source / "labelsTr" / f"case{number}.nii.gz").unlink()
    words = r"4 of 6 cases have no label and are left out: case2, case3, case4, \.\.\.$"
    with pytest.warns(UserWarning, match=words):
        found = checked_split(Settings.of("laptop", {**TINY, "data.source": str(source)}), tmp_path / "run")
    assert {case.id for case in (*found.train, *found.validation)} == {"case1", "case6"}


def test_a_run_is_not_resumed_with_another_split(tmp_path):
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 1})
    train(chosen, tmp_path, split=split(2, 1), progress=False)
    before = (tmp_path / "model.safetensors").read_bytes()
    for other in (split(3, 0), split(2, 0), split(3, 1)):
        with pytest.raises(DualTaskError, match="began with"):
            train(chosen, tmp_path, split=other, progress=False, resume=True)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "change", ["stage=pancreas-coarse", "seed=1", "network.width=16", "sample.spacing=[4, 4, 4]", "objective.band=10"]
)
def test_a_run_is_not_resumed_under_another_name(tmp_path, change):
    """A finished model would only get the new settings as its label."""
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 1})
    train(chosen, tmp_path, split=split(), progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DualTaskError, match=f"holds a run with {change.partition('=')[0]}"):
        train(chosen.changed(parse_assignments([change])), tmp_path, split=split(), progress=False, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_whose_settings_were_edited_is_not_resumed(tmp_path, typed):
    """The file in which the steps are raised does not say what the weights mean: the checkpoint does."""
    train(Settings.of("laptop", {**TINY, "optimiser.steps": 1}), tmp_path, split=split(), progress=False)
    config = tmp_path / "config.yaml"
    edited = Settings.read(config).changed({"optimiser.steps": 2, "objective.band": 10.0})
    edited.write(config)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = r"holds a run with objective.band 20.0, not 10.0; .* or correct its config.yaml"
    with pytest.raises(DualTaskError, match=words):
        train(edited, tmp_path, split=split(), progress=False, resume=True)
    code, _, error = typed("train", "--resume", tmp_path)
    assert code == 1
    assert re.search(words, " ".join(error.split()))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "value"), [("step", "-1"), ("cases", '[{"id":"a","centre":"A","digest":"","role":"test"}]')]
)
def test_a_checkpoint_with_impossible_records_is_refused(tmp_path, name, value):
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 1})
    train(chosen, tmp_path, split=split(), progress=False)
    checkpoint = tmp_path / "last.ckpt"
    with safe_open(checkpoint, "pt") as file:
        tensors, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, checkpoint, about | {name: value})
    with pytest.raises(DualTaskError, match=r"last.ckpt: (does not fit|is damaged)"):
        train(chosen.changed({"optimiser.steps": 2}), tmp_path, split=split(), progress=False, resume=True)


def test_a_model_without_its_checkpoint_is_not_trained_anew(tmp_path):
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 1})
    train(chosen, tmp_path, split=split(), progress=False)
    (tmp_path / "last.ckpt").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DualTaskError, match=r"holds a model without last\.ckpt"):
        train(chosen.changed({"optimiser.steps": 2}), tmp_path, split=split(), progress=False, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_lost_checkpoint_of_a_cascade_is_found_before_any_stage_goes_on(tmp_path, typed):
    for stage in ("pancreas-coarse", "tumour-coarse"):
        chosen = Settings.of("laptop", {**TINY, "stage": stage, "optimiser.steps": 1})
        train(chosen, tmp_path / stage, split=split(), progress=False)
        chosen.changed({"optimiser.steps": 2}).write(tmp_path / stage / "config.yaml")
    (tmp_path / "tumour-coarse" / "last.ckpt").unlink()
    code, _, error = typed("train", "--resume", tmp_path)
    assert code == 1
    assert "tumour-coarse: holds a model without last.ckpt" in error
    assert "tumour-coarse is finished with 1 steps; continues" not in error
    assert [files.steps_of_model(tmp_path / stage) for stage in ("pancreas-coarse", "tumour-coarse")] == [1, 1]


def test_checkpoint_of_an_older_version_resumes(tmp_path):
    net = torch.nn.Linear(2, 1)
    files.save_checkpoint(tmp_path / "last.ckpt", net, torch.optim.Adam(net.parameters()), 2)
    assert files.cases_of_checkpoint(tmp_path / "last.ckpt") == ()


def test_resumed_run_counts_all_its_seconds_and_keeps_its_columns(tmp_path):
    chosen = Settings.of("laptop", {**TINY, "machine.gradients_every": 1})
    train(chosen, tmp_path, split=split(), progress=False, callback=lambda row: row["step"] == 2)
    assert files.steps_of_model(tmp_path) == 2
    before = records.read_rows(tmp_path / "metrics.csv")
    before[-1]["seconds"] = "1000"
    records.write_rows(tmp_path / "metrics.csv", before)
    train(chosen.changed({"machine.gradients_every": 0}), tmp_path, split=split(), progress=False, resume=True)
    rows = records.read_rows(tmp_path / "metrics.csv")
    assert [row["grad_seg"] for row in rows] == [row["grad_seg"] for row in before] + [""] * 4
    assert float(rows[-1]["seconds"]) > 1000
    assert json.loads((tmp_path / "manifest.json").read_text())["seconds"] > 1000
    assert files.steps_of_model(tmp_path) == 6


@pytest.mark.parametrize("name", ["banana", "cuda:1", "mps"])
def test_unknown_device_is_refused(name):
    with pytest.raises(DualTaskError, match=f"no device '{name}'; choose one of: auto, cpu, cuda"):
        pick_device(name)


def test_a_finished_run_trains_on_when_its_steps_are_raised(tmp_path):
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 2})
    run = train(chosen, tmp_path, split=split(), progress=False)
    before = weights(run)["seg_head.weight"]
    train(chosen.changed({"optimiser.steps": 4}), run, split=split(), progress=False, resume=True)
    assert json.loads((run / "manifest.json").read_text())["steps"] == 4
    assert [int(row["step"]) for row in records.read_rows(run / "metrics.csv")] == [1, 2, 3, 4]
    assert not torch.equal(weights(run)["seg_head.weight"], before)


def test_run_keeps_the_absolute_path_of_its_cases(tmp_path, monkeypatch):
    write_cases(tmp_path / "A", ["case1", "case2"])
    monkeypatch.chdir(tmp_path)
    run = train(Settings.of("laptop", {**TINY, "optimiser.steps": 1, "data.source": "A"}), tmp_path / "run")
    assert Settings.read(run / "config.yaml").data.source == str(tmp_path / "A")
    assert files.load_model(run).settings.data.source == str(tmp_path / "A")


@pytest.mark.parametrize(("value", "labels"), [(1, r"they hold 0 \(background\), 1 \(pancreas\)"), (0, "they hold 0")])
def test_labels_without_the_target_are_refused_before_anything_is_written(tmp_path, value, labels):
    cases = [replace(case, label=np.minimum(case.label, value)) for case in split().train]
    with pytest.raises(DualTaskError, match=f"none of the 2 labels to train on holds the target, tumour; {labels}"):
        train(Settings.of("laptop", TINY), tmp_path / "run", split=Split(tuple(cases), (), ()), progress=False)
    assert not (tmp_path / "run").exists()


def test_looking_at_the_gradients_changes_nothing(tmp_path):
    """Also with dropout, two views and every term; and the shares are those of an independent calculation."""
    chosen = Settings.of("laptop", {**TINY, "views.count": 2, "objective.weights": PAPER_WEIGHTS})
    looked = chosen.changed({"machine.gradients_every": 2})
    plain = train(chosen, tmp_path / "plain", split=split(), progress=False)
    rows = []
    run = train(looked, tmp_path / "looked", split=split(), progress=False, callback=rows.append)
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(run)[name]), name
    written = records.read_rows(run / "metrics.csv")
    shares = [f"grad_{term}{part}" for term in PAPER_WEIGHTS for part in ("", "_seg_head", "_distance_head")]
    assert [name for name in written[0] if name.startswith("grad_")] == shares
    assert [bool(row["grad_seg"]) for row in written] == [False, True] * 3
    assert rows[1]["grad_seg"] == float(written[1]["grad_seg"]) > 0
    assert rows[1]["lr"] == float(written[1]["lr"]) > 0
    assert rows[1]["grad_dist_seg_head"] == rows[1]["grad_seg_distance_head"] == rows[1]["grad_slice_seg_head"] == 0
    assert rows[1]["grad_conv_mask_distance_head"] > 0


def test_gradient_of_a_term_equals_training_on_it_alone(tmp_path, monkeypatch):
    """With one term on, the norms are those of the gradient that reaches the optimiser; a ramp scales them."""
    chosen = Settings.of(
        "laptop", {**TINY, "objective.weights": {"seg": 0.5, "dist": 0, "conv_mask": 0, "conv_distance": 0}}
    )
    chosen = chosen.changed({"machine.gradients_every": 1, "optimiser.steps": 1, "optimiser.clip": 1e9})
    found = {}
    real = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        found.update(norm=torch.stack([p.grad.norm() for p in self.param_groups[0]["params"]]).norm().item())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    (row,) = records.read_rows(train(chosen, tmp_path / "run", split=split(), progress=False) / "metrics.csv")
    assert np.hypot(float(row["grad_seg"]), float(row["grad_seg_seg_head"])) == pytest.approx(found["norm"], rel=1e-4)


def test_gradients_are_measured_in_mixed_precision_too(tmp_path):
    larger = {**TINY, "sample.patch": [32, 32, 32], "optimiser.steps": 1, "machine.gradients_every": 1}
    (exact,), (rounded,) = (
        records.read_rows(
            train(
                Settings.of("laptop", {**larger, "machine.precision": precision}),
                tmp_path / precision,
                split=split(),
                progress=False,
            )
            / "metrics.csv"
        )
        for precision in ("32-true", "bf16-mixed")
    )
    for column in ("grad_seg", "grad_dist", "grad_seg_seg_head"):
        assert float(rounded[column]) == pytest.approx(float(exact[column]), rel=0.1)


def test_monitor_predicts_at_validation_without_changing_the_run(tmp_path):
    shown = []

    def show(net, regions, settings):
        shown.append(predict_region(net, regions[0].image, settings).shape)

    chosen = Settings.of("laptop", TINY)
    plain = train(chosen, tmp_path / "plain", split=split(), progress=False)
    run = train(chosen, tmp_path / "shown", split=split(), progress=False, on_validation=show)
    assert shown == [(2, 22, 22, 20)] * 2
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(run)[name]), name


def test_failed_compilation_warns_and_trains_without_it(tmp_path, monkeypatch):
    def refuses(net, **options):
        def call(*args):
            raise RuntimeError("no C++ compiler\nlong story")

        module = torch.nn.Identity()
        module.weight = next(net.parameters())
        module.forward = call
        return module

    monkeypatch.setattr(torch, "compile", refuses)
    chosen = Settings.of("laptop", TINY)
    with pytest.warns(UserWarning, match=r"not compiled \(no C\+\+ compiler\)"):
        run = train(chosen.changed({"machine.compile": True}), tmp_path / "refused", split=split(), progress=False)
    plain = weights(train(chosen, tmp_path / "plain", split=split(), progress=False))
    assert plain.keys() == weights(run).keys()
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in plain.items())


def test_recomputing_gives_the_same_weights(tmp_path):
    chosen = Settings.of("laptop", {**TINY, "optimiser.steps": 2, "machine.gradients_every": 1})
    runs = [
        train(chosen.changed({"machine.recompute": on}), tmp_path / str(on), split=split(), progress=False)
        for on in (False, True)
    ]
    for name, tensor in weights(runs[0]).items():
        assert torch.equal(tensor, weights(runs[1])[name]), name


def test_too_little_memory_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: (10**9, 10**6))
    with pytest.raises(DualTaskError, match=r"the device has 0\.0 GB free; lower sample"):
        train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)
    assert not (tmp_path / "run").exists()


def test_out_of_memory_in_training_names_a_helpful_setting(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(engine, "draw_views", full)
    with pytest.raises(DualTaskError, match=r"ran out of memory in training; .*--set machine\.recompute=true"):
        train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)


@pytest.fixture
def begin(phantom_folder, tiny_run):
    """The words of a command that trains for seconds."""
    words = [word for name, value in tiny_run.items() for word in ("--set", f"{name}={value}")]
    return ["train", "--source", phantom_folder / "A", *words]


def test_a_run_without_memory_starts_again_as_its_message_says(typed, begin, tmp_path, monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "draw_views", full)
        code, _, error = typed(*begin, "--out", tmp_path / "run")
    assert code == 1
    added = error.partition("; start again with another --out and ")[2].split()
    assert added == ["--set", "machine.recompute=true"]
    assert typed(*begin, "--out", tmp_path / "other", *added)[0] == 0


def test_a_run_with_a_damaged_checkpoint_starts_again_as_its_message_says(typed, begin, tmp_path):
    (tmp_path / "run").mkdir()
    Settings.of("laptop", TINY).write(tmp_path / "run" / "config.yaml")
    (tmp_path / "run" / "last.ckpt").write_bytes(b"damaged")
    code, _, error = typed("train", "--resume", tmp_path / "run")
    assert code == 1
    assert error.endswith("start the run again with another --out\n")
    assert typed("train", tmp_path / "run" / "config.yaml", *begin[1:], "--out", tmp_path / "other")[0] == 0


def test_a_run_whose_loss_is_not_finite_goes_on_as_its_message_says(typed, begin, tmp_path, monkeypatch):
    """Before its first checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(engine, "draw_views", lambda image, *_: image * float("nan"))
        code, _, error = typed(*begin, "--out", tmp_path / "run")
    assert code == 1
    assert "lower optimiser.lr in the config.yaml of the run and go on with --resume" in error
    config = tmp_path / "run" / "config.yaml"
    Settings.read(config, {"optimiser.lr": 1e-5}).write(config)
    assert typed("train", "--resume", tmp_path / "run")[0] == 0


def test_fp16_scaler_resumes(tmp_path):
    """Otherwise a resumed run starts with a scale that overflows, and skips its first steps."""
    net = torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(net.parameters())
    scaler, fresh = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 65536.0))
    for bad in (False, True):  # the second step overflows and halves the scale
        scaler.scale(net(torch.ones(1, 2)).sum() * (float("inf") if bad else 1)).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
    files.save_checkpoint(tmp_path / "last.ckpt", net, optimiser, 2, scaler)
    assert files.load_checkpoint(tmp_path / "last.ckpt", net, optimiser, fresh) == 2
    assert fresh.get_scale() == 4


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "16-mixed"), ((8, 0), "bf16-mixed")])
def test_an_old_card_gets_fp16_and_a_new_one_bf16(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert devices.resolve_precision("auto", "cuda") == precision
    assert devices.resolve_precision("auto", "cpu") == "32-true"
    assert devices.resolve_precision("32-true", "cuda") == "32-true"


def test_more_processes_than_cards_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(DualTaskError, match="2 processes share 1 CUDA devices; use --nproc-per-node=1"):
        pick_device("auto")


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(DualTaskError, match=r"set optimiser\.batch to a multiple of 4"):
        devices.make_fabric(Settings.of("laptop", TINY))


def test_non_finite_loss_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    real = engine.draw_views

    def poisoned(image, settings, numbers):
        poisoned.calls += 1
        return real(image, settings, numbers) * (float("nan") if poisoned.calls == 4 else 1)

    poisoned.calls = 0
    monkeypatch.setattr(engine, "draw_views", poisoned)
    with pytest.raises(DualTaskError, match=r"step 4: term seg is not finite on case case\d"):
        train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)
    monkeypatch.undo()
    train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False, resume=True)


def test_a_gradient_that_is_not_finite_is_never_written(tmp_path, monkeypatch):
    """All terms are finite, and one gradient of the last step is not: its weights must not become the model."""
    real, steps = Fabric.backward, []

    def poisoned(fabric, loss, *more, **options):
        real(fabric, loss, *more, **options)
        steps.append(loss)
        if len(steps) == TINY["optimiser.steps"]:
            gradients = [group["params"][0].grad for group in optimisers[0].param_groups]
            gradients[0].view(-1)[0] = float("inf")

    optimisers = []
    made = engine.make_optimiser
    monkeypatch.setattr(engine_train, "make_optimiser", lambda *given: optimisers.append(made(*given)) or optimisers[0])
    monkeypatch.setattr(Fabric, "backward", poisoned)
    with pytest.raises(DualTaskError, match=r"step 6: the gradient is not finite on case case\d.*checkpoint is kept"):
        train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.undo()
    train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False, resume=True)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_the_kernels_of_the_views_are_those_of_the_settings():
    """A kernel of one voxel can only map each intensity to another; a larger one mixes neighbours."""
    image = (torch.arange(16**3) % 5).reshape(1, 1, 16, 16, 16) / 4  # five intensities, no two neighbours alike
    kinds = {}
    for size in (1, 3):
        settings = Settings.of("laptop", {"views.count": 2, "views.kernel_sizes": [size]})
        kinds[size] = engine.draw_views(image, settings, torch.tensor([7])).unique().numel()
    assert kinds[1] <= 2 * 5 < kinds[3]


LESIONS = {
    "one voxel": (slice(7, 8), slice(9, 10), slice(4, 5)),
    "one voxel thin": (slice(7, 8), slice(4, 16), slice(4, 16)),
    "at the border": (slice(0, 4), slice(0, 4), slice(0, 4)),
    "everywhere": (slice(None),) * 3,
    "nowhere": (slice(0, 0),) * 3,
}


def test_a_lesion_of_any_shape_trains_every_term(tmp_path):
    """A finite loss in each step, of each case by itself and of all of them."""
    grey = ball("grey").image
    labels = {name: np.zeros(grey.shape, np.uint8) for name in LESIONS}
    for name, where in LESIONS.items():
        labels[name][where] = 2
    cases = [
        Case(name, "A", grey + i, label, np.diag([3.0, 3.0, 3.0, 1.0]))
        for i, (name, label) in enumerate(labels.items())
    ]
    changes = {"views.count": 2, "objective.weights": PAPER_WEIGHTS, "objective.ramp": 0, "optimiser.steps": 5}
    for stage in ("pancreas-coarse", "tumour-coarse", "tumour-fine"):
        chosen = Settings.of("laptop", {**TINY, **changes, "stage": stage})
        run = train(chosen, tmp_path / stage, split=Split(tuple(cases), (), ()), progress=False)
        assert all(np.isfinite(float(row["total"])) for row in records.read_rows(run / "metrics.csv"))


def test_a_taken_folder_is_not_overwritten(tmp_path):
    train(Settings.of("laptop", {**TINY, "optimiser.steps": 1}), tmp_path, split=split(), progress=False)
    with pytest.raises(DualTaskError, match="holds a run already"):
        train(Settings.of("laptop", TINY), tmp_path, split=split(), progress=False)


@pytest.mark.parametrize("left", ["metrics.csv", "last.ckpt"])
def test_a_part_of_a_run_is_not_continued_with_other_settings(tmp_path, left):
    train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)
    (tmp_path / "rest").mkdir()
    shutil.copy(tmp_path / "run" / left, tmp_path / "rest")
    with pytest.raises(DualTaskError, match="holds a run already"):
        train(Settings.of("laptop", {**TINY, "objective.tau": 9}), tmp_path / "rest", split=split(), progress=False)
    assert [file.name for file in (tmp_path / "rest").iterdir()] == [left]


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_another_process_trains_in_is_left_alone(tmp_path, resume):
    run = tmp_path / "run"
    if resume:
        train(Settings.of("laptop", {**TINY, "optimiser.steps": 1}), run, split=split(), progress=False)
    with only_writer(run):
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(DualTaskError, match="run: another process writes to it; wait until"):
            train(Settings.of("laptop", TINY), run, split=split(), progress=False, resume=resume)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    train(Settings.of("laptop", TINY), run, split=split(), progress=False, resume=resume)


def test_a_run_that_begins_while_another_reads_its_cases_is_not_overwritten(tmp_path, monkeypatch):
    real = engine_train._prepare

    def overtaken(*given, **options):
        prepared = real(*given, **options)
        monkeypatch.undo()
        train(Settings.of("laptop", {**TINY, "seed": 5}), tmp_path / "run", split=split(), progress=False)
        return prepared

    monkeypatch.setattr(engine_train, "_prepare", overtaken)
    with pytest.raises(DualTaskError, match="holds a run already"):
        train(Settings.of("laptop", TINY), tmp_path / "run", split=split(), progress=False)
    assert files.load_model(tmp_path / "run").settings.seed == 5


def test_a_source_with_a_name_that_is_no_utf8_trains_and_loads(tmp_path):
    """As old archives have them. The file system of a Mac does not."""
    try:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/CT_\xfcber"))
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    write_cases(folder, ["ball1", "ball2"])
    settings = Settings.of("laptop", {**TINY, "optimiser.steps": 1, "data.source": str(folder), "data.validation": 0.0})
    train(settings, tmp_path / "run", progress=False)
    assert files.load_model(tmp_path / "run").settings.data.source == str(folder)
    assert Settings.read(tmp_path / "run" / "config.yaml").data.source == str(folder)


def test_missing_training_cases_are_reported(tmp_path):
    with pytest.raises(DualTaskError, match="no labelled case"):
        train(Settings.of("laptop", TINY), tmp_path, split=Split((), (), ()), progress=False)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x04K\x01.", None])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    file = tmp_path / "model.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DualTaskError, match=r"model\.safetensors"):
        files.load_model(tmp_path)


def test_safetensors_of_something_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(DualTaskError, match="not a model of this kit"):
        files.load_model(tmp_path)
    save_file({"net.a": torch.zeros(1)}, tmp_path / "last.ckpt", {"step": "1"})
    net = files.build_network(Settings.of("laptop"))
    with pytest.raises(DualTaskError, match="does not fit"):
        files.load_checkpoint(tmp_path / "last.ckpt", net, torch.optim.Adam(net.parameters()))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "x"
    file.write_text("old")

    def half_a_write():
        with whole_file(file) as temporary:
            temporary.write_text("ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DualTaskError, match=r"x: the disk is full; make room, then run it again"):
        half_a_write()
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_the_polynomial_schedule_is_golden():
    settings = Settings.of("paper", {"optimiser.steps": 1000})
    golden = {0: 1e-4, 1: 9.99099955e-05, 250: 7.718895067e-05, 500: 5.358867313e-05, 999: 1.995262315e-07}
    for step, value in golden.items():
        assert learning_rate(step, settings) == pytest.approx(value, rel=1e-8)


def test_the_ramp_rises_over_its_share_of_the_run():
    settings = Settings.of("laptop", {"optimiser.steps": 100, "objective.ramp": 0.3})
    assert [ramp(step, settings) for step in (0, 15, 30, 99)] == [0, 0.5, 1, 1]
    assert ramp(0, settings.changed({"objective.ramp": 0})) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a CUDA card: asking for it is no error")
def test_missing_card_is_reported():
    with pytest.raises(DualTaskError, match="no CUDA device"):
        pick_device("cuda")


def test_validation_watches_evenly_spread_cases_without_flips(tmp_path, monkeypatch):
    flips, shown = set(), []
    predict = engine_train.predict_region

    def count(net, image, settings):
        flips.add(settings.prediction.flips)
        return predict(net, image, settings)

    monkeypatch.setattr(engine_train, "predict_region", count)
    chosen = {**TINY, "augment.flip": 0.5, "prediction.flips": 8, "machine.validate_cases": 1, "optimiser.steps": 1}
    train(
        Settings.of("laptop", chosen),
        tmp_path,
        split=split(validation=3),
        progress=False,
        on_validation=lambda net, regions, settings: shown.append(len(regions)),
    )
    assert flips == {1}
    assert shown == [1]
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly(range(3), 4) == [0, 1, 2]


def test_the_training_dice_of_the_manifest_is_of_evenly_spread_cases(tmp_path, monkeypatch):
    scored, region_scores = [], engine_train.region_scores

    def note(net, regions, settings):
        scored.append([region.case_id for region in regions])
        return region_scores(net, regions, settings)

    monkeypatch.setattr(engine_train, "region_scores", note)
    monkeypatch.setattr(engine_train, "_FINAL_CASES", 2)
    train(Settings.of("laptop", {**TINY, "optimiser.steps": 1}), tmp_path, split=split(3, 0), progress=False)
    assert scored[-1] == ["case0", "case2"]
