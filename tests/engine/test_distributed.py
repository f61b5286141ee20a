"""Several processes do what one does: the same samples, losses, gradients and predictions, whoever computes them.

Each test starts two CPU processes with torchrun, as a user would.
"""

import json
import os
import subprocess
import sys

import pytest

from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings

# What differs between one process and two: the order of sums in float32, which Adam's division lets grow from step
# to step (measured over these 4 steps, see each test), and dropout, whose mask no two batches can share.
CLOSE = {"rel": 2e-3, "abs": 2e-4}
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
from dualtask_lite.engine.train import train
torch.nn.Dropout3d.forward = lambda self, x: x
stop = int(sys.argv[3])
train(Settings.read(sys.argv[1]), sys.argv[2], resume=True, callback=lambda row: row["step"] == stop)
"""


def launch(processes, *words, ok=True):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command if processes > 1 else [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
        check=False,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory, phantom_folder):
    """The same run by one process, by two, and begun by either and ended by the other."""
    where = tmp_path_factory.mktemp("distributed")
    Settings.of("laptop", {**PAIR, "data.source": str(phantom_folder)}).write(where / "settings.yaml")
    (where / "train.py").write_text(TRAIN)

    def run(name, processes, stop=4):
        launch(processes, str(where / "train.py"), str(where / "settings.yaml"), str(where / name), str(stop))

    run("one", 1)
    run("two", 2)
    run("one-two", 1, stop=2)
    run("one-two", 2)
    run("two-one", 2, stop=2)
    run("two-one", 1)
    return where


def numbers(folder):
    rows = files.read_rows(folder / "metrics.csv")
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0] if name != "seconds"}


@pytest.mark.parametrize("name", ["two", "one-two", "two-one"])
def test_the_loss_curve_does_not_depend_on_the_processes(runs, name):
    one, other = numbers(runs / "one"), numbers(runs / name)
    assert one.keys() == other.keys()
    for column, values in one.items():
        assert other[column] == pytest.approx(values, nan_ok=True, **CLOSE), column
    weights = [files.load_model(runs / run).net.state_dict() for run in ("one", name)]
    moved = [(weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]]
    assert max(moved) < 1e-3  # a step of Adam is at most the learning rate, 1e-3


def test_one_process_writes_for_all(runs):
    assert sorted(file.name for file in (runs / "two").iterdir()) == sorted(
        file.name for file in (runs / "one").iterdir()
    )
    manifests = [json.loads((runs / run / "manifest.json").read_text()) for run in ("one", "two")]
    assert [manifest["processes"] for manifest in manifests] == [1, 2]
    assert manifests[0]["cases"] == manifests[1]["cases"]
    assert manifests[0]["dice"] == pytest.approx(manifests[1]["dice"], abs=0.01)
