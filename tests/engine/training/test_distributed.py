"""Several processes do what one does: the same samples, losses, gradients and predictions, whoever computes them.

Each test starts two CPU processes with torchrun or fabric, as a user would.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine import records
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.training.train import train

# What differs between one process and two is the order of sums in float32 (measured over these 4 steps: 2e-7 of a loss,
# 1e-3 of the smallest gradient norm), and dropout, whose mask no two batches can share: it is off here. So is the
# feature contrast, which compares the voxels of the samples that a process has.
LOSSES, NORMS = {"rel": 1e-4, "abs": 1e-5}, {"rel": 1e-2, "abs": 1e-4}
PAIR = {
    "stage": "tumour-coarse",
    "network.width": 8,
    "network.standardise": False,
    "sample.patch": [16, 16, 16],
    "sample.spacing": [8, 8, 8],
    "views.count": 2,
    "objective.weights": {"out": 1, "slice": 1},
    "objective.ramp": 0,
    "optimiser.batch": 2,
    "optimiser.steps": 4,
    "optimiser.lr": 1e-3,
    "machine.checkpoint_every": 2,
    "machine.validate_every": 2,
    "machine.gradients_every": 2,
    "machine.device": "cpu",
}
TRAIN = """
import sys, torch
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.training.train import train
torch.nn.Dropout3d.forward = lambda self, x: x
stop = int(sys.argv[3])
train(Settings.read(sys.argv[1]), sys.argv[2], resume=True, callback=lambda row: row["step"] == stop)
"""


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def fabric_launcher():
    """With a port of its own: the default of ``fabric run`` is one for all, and these tests may run side by side."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fabric = str(Path(sys.executable).with_name("fabric"))
    return (fabric, "run", "--accelerator=cpu", "--devices=2", f"--main-port={port}")


def two_processes(*words, ok=True, launcher=TORCHRUN):
    command = [*launcher, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode == 0) == ok, done.stderr
    assert "Warning" not in done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory, phantom_folder):
    """The same run by one process, by two, and begun by either and ended by the other."""
    where = tmp_path_factory.mktemp("distributed")
    Settings.of("laptop", {**PAIR, "data.source": str(phantom_folder)}).write(where / "settings.yaml")
    (where / "train.py").write_text(TRAIN)

    settings = Settings.read(where / "settings.yaml")

    def one(name, stop=4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Dropout3d, "forward", lambda self, x: x)
            train(settings, where / name, resume=True, progress=False, callback=lambda row: row["step"] == stop)

    def two(name, stop=4, launcher=TORCHRUN):
        two_processes(where / "train.py", where / "settings.yaml", where / name, stop, launcher=launcher)

    one("one")
    two("two")
    two("fabric", launcher=fabric_launcher())
    one("one-two", stop=2)
    two("one-two")
    two("two-one", stop=2)
    one("two-one")
    return where


def numbers(folder):
    rows = records.read_rows(folder / "metrics.csv")
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0] if name != "seconds"}


@pytest.mark.parametrize("name", ["two", "fabric", "one-two", "two-one"])
def test_the_loss_curve_does_not_depend_on_the_processes(runs, name):
    one, other = numbers(runs / "one"), numbers(runs / name)
    assert one.keys() == other.keys()
    for column, values in one.items():
        close = NORMS if column.startswith("grad_") or column == "val_dice" else LOSSES
        assert other[column] == pytest.approx(values, nan_ok=True, **close), column
    weights = [files.load_model(runs / run).net.state_dict() for run in ("one", name)]
    moved = [(weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]]
    assert max(moved) < 1e-3  # a step of Adam is at most the learning rate, 1e-3


def test_one_process_writes_for_all(runs):
    assert sorted(file.name for file in (runs / "two").iterdir()) == sorted(
        file.name for file in (runs / "one").iterdir()
    )
    manifests = [json.loads((runs / run / "manifest.json").read_text()) for run in ("one", "two", "fabric")]
    assert [manifest["processes"] for manifest in manifests] == [1, 2, 2]
    assert manifests[0]["cases"] == manifests[1]["cases"]
    assert manifests[0]["dice"] == pytest.approx(manifests[1]["dice"], abs=0.01)


def test_processes_share_inputs_and_one_prints(runs, phantom_folder, tmp_path):
    """A bad input among them is listed, whichever process met it."""
    ct = next(case.image for case in find_cases(phantom_folder))
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"<html>" if name == "b" else Path(ct).read_bytes())
    inputs = [tmp_path / f"{name}.nii.gz" for name in ("a", "b", "c")]
    done = two_processes("-m", "dualtask_lite", "predict", runs / "one", *inputs, "-o", tmp_path / "out", ok=False)
    assert "1 of 3 inputs could not be predicted" in done.stderr
    assert done.stdout.count("failed b") == 1
    assert sorted(file.name for file in (tmp_path / "out").glob("*.json")) == ["a.json", "c.json"]
    same = [(tmp_path / "out" / f"{name}_seg.nii.gz").stat().st_size for name in ("a", "c")]
    assert same[0] == same[1]


def test_an_error_in_one_process_ends_all(runs, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os\nfrom dualtask_lite.engine.training import step as engine\nreal = engine.draw_views\n"
        "def views(image, settings, numbers):\n"
        "    if os.environ['RANK'] == '1' and 5 in numbers:\n        raise OSError('process 1 is broken')\n"
        "    return real(image, settings, numbers)\nengine.draw_views = views\n" + TRAIN
    )
    done = two_processes(script, runs / "settings.yaml", tmp_path / "run", 9, ok=False)
    assert "OSError: process 1 is broken" in done.stderr
    assert [row["step"] for row in records.read_rows(tmp_path / "run" / "metrics.csv")] == ["1", "2"]  # it had begun
    assert not (tmp_path / "run" / "model.safetensors").exists()
