"""What several test modules share."""

from __future__ import annotations

import contextlib
import os
import sys

import pytest
from hypothesis import settings

from dualtask_lite.cases.phantom import make_phantom
from dualtask_lite.cli import main

# No test may fail because a machine is busy, or because of the draw of the day; `make fuzz` is where new inputs are.
settings.register_profile("the same everywhere", deadline=None, derandomize="DUALTASK_FUZZ" not in os.environ)
settings.load_profile("the same everywhere")

#: As command-line assignments: a run of seconds, in which only what the numbers are differs from a real one.
TINY_RUN = {
    "sample.patch": [16, 16, 16],
    "sample.spacing": [8, 8, 8],
    "optimiser.steps": 3,
    "optimiser.batch": 1,
    "machine.device": "cpu",
}


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory):
    """Three centres of four small cases."""
    return make_phantom(tmp_path_factory.mktemp("phantom"), cases=4, size=(40, 40, 20))


@pytest.fixture(scope="session")
def tiny_run():
    """Settings by dotted name for a training of seconds."""
    return dict(TINY_RUN)


@pytest.fixture(scope="session")
def cascade(phantom_folder, tmp_path_factory, tiny_run):
    """A trained cascade of two stages; it knows nothing, but it is whole."""
    from typer.testing import CliRunner

    from dualtask_lite.cli import app

    folder = tmp_path_factory.mktemp("runs") / "cascade"
    words = ["train", "--stage", "pancreas-coarse", "--stage", "tumour-coarse", "--held-out", "C"]
    words += [word for key, value in tiny_run.items() for word in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, [*words, "--source", str(phantom_folder), "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def typed(monkeypatch, capsys):
    """Run a command as the installed script does: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dualtask", *map(str, words)])
        monkeypatch.delenv("DUALTASK_DEBUG", raising=False)
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def small_files():
    """A context in which no file grows beyond some bytes: a disk that fills up, without the rights to make one."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of a file")

    @contextlib.contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def transfers():
    """Count the values that an action reads from a tensor: on a card each waits for all work before it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.values += func.name() == "aten::_local_scalar_dense"
            return func(*args, **(kwargs or {}))

    def count(action):
        with Count() as mode:
            action()
        return mode.values

    return count


@pytest.fixture(scope="session")
def run_report():
    """Everything that the page of a run shows, made up; names hold what HTML would take for its own."""
    import numpy as np

    from dualtask_lite.cases.case import Case
    from dualtask_lite.show.report.contents import Doubts, Example, Report, Stage

    nasty = '<script>alert("x")</script>&'
    label = np.zeros((40, 50, 20), np.uint8)
    label[10:26, 10:30, 5:15] = 1
    label[14:22, 14:26, 8:12] = 2
    grey = np.random.default_rng(0).uniform(-90, 230, label.shape).astype(np.float32)
    scan = Case(f"C_{nasty}", "C", grey, label, np.diag([2.0, 1.0, 4.0, 1.0])).load()
    mask = np.roll(label, 2, axis=0)
    error = np.where((mask == 2) & (label != 2), 4.0, np.nan).astype(np.float32)
    distance = np.where(mask == 2, -3.0, 9.0).astype(np.float32)
    row = {"case": scan.id, "centre": "C", "target": "tumour", "dice": "0.75", "hd95_mm": "", "detected": "True"}
    dice = {"mean": 0.75, "sd": 0.1, "n": 3}
    settings = {"profile": "laptop", "seed": 3, "data": {"held_out": "C", "source": nasty}, "optimiser": {"lr": 1e-4}}
    manifest = {
        "command": nasty,
        "seconds": 12.5,
        "cases": [{"id": "A_001", "centre": "A", "digest": "0123456789abcdef0123", "role": "train"}],
    }
    curves = [{"step": str(i), "seg": str(2 / i), "val_dice": "0.4" if i == 5 else ""} for i in range(1, 11)]
    risks = [0.25, 0.5, 0.9]
    doubted = [{"case": f"C_{i}", "centre": "C", "risk": r, "heads_mm": 2 * r} for i, r in enumerate(risks)]
    perfect = np.cumsum(risks) / np.arange(1, 4)
    return Report(
        title=f"Run {nasty}",
        stages=[Stage("tumour-coarse", settings, curves, manifest)],
        rows=[row | {"case": f"C_{i}", "dice": str(1 - r)} for i, r in enumerate(risks)],
        summary={"tumour": {"all": {"dice": dice}, "C": {"dice": dice}}},
        failed={"C_9": f"damaged {nasty}"},
        examples=[Example(role, row, scan, mask, distance, error, np.abs(distance)) for role in ("best", "worst")],
        doubts=Doubts(
            target="tumour",
            rows=doubted,
            summary=[{"warning": "heads differ (mm)", "spearman": 1.0, "aurc": 0.5, "gain": 1.0}],
            shown=("heads_mm", "difference of the heads (mm)"),
            correlation=1.0,
            curves={"heads_mm": perfect.tolist()},
            perfect=perfect.tolist(),
            voxels=0.31,
        ),
        missing={"manifest": f"nothing of {nasty}"},
        made="Made by a test.",
    )
