"""Processes that are killed at any moment: no half file bears its name, and the next run goes on to the same bits.

The kills are real (SIGKILL). A few run in the suite; ``DUALTASK_KILLS`` asks for more of each kind (``make fuzz``).
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine import records
from dualtask_lite.engine import run as files
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.judging.ablation import ablate
from dualtask_lite.engine.training.train import train

KILLS = int(os.environ.get("DUALTASK_KILLS", 0))
PATIENCE = 900  # s for what takes a few, so that a hang is a failure, and a busy machine none

BEGIN = """
import os, sys
os.environ.update(environment)
sys.stdout = sys.stderr = open(log, "a")
"""
TRAIN = """
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.training.train import train
train(Settings.read(settings), folder, resume=True, progress=False)
"""
# Kill it where a file takes its name: with half of its bytes still to come, before, or just after.
DIE = """
import signal
from dualtask_lite import files
real, calls = os.replace, 0
def replace(temporary, path):
    global calls
    calls += path.name == name
    if path.name != name or calls < call:
        return real(temporary, path)
    if moment == "half written":
        os.truncate(temporary, temporary.stat().st_size // 2)
    if moment == "renamed":
        real(temporary, path)
    os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = replace
"""
PREDICT = """
from dualtask_lite.cli import app
app(["predict", *words], standalone_mode=False)
"""
ABLATE = """
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.judging.ablation import ablate
ablate("laptop", overrides, find_cases(source), folder, **how, progress=False)
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory, phantom_folder, tiny_run):
    """Settings of a run of a second, and the run itself, which nothing broke."""
    where = tmp_path_factory.mktemp("kill")
    names = [case.id for case in find_cases(phantom_folder) if case.centre == "A"]
    changes = {
        "data.source": str(phantom_folder),
        "data.cases": names,
        "optimiser.batch": 2,
        "optimiser.steps": 16,
        "machine.checkpoint_every": 2,
        "machine.validate_every": 8,
    }
    settings = Settings.of("laptop", {**tiny_run, **changes})
    settings.write(where / "settings.yaml")
    for name, script in {"train": TRAIN, "die": DIE + TRAIN, "predict": PREDICT, "ablate": ABLATE}.items():
        (where / f"{name}.py").write_text(BEGIN + script)
    train(settings, where / "whole", progress=False)
    return where


@pytest.fixture
def begin(start, where, tmp_path):
    """Start one of the scripts; what it says goes to a file, which a failure shows."""

    def of(script, environment=None, **names):
        return start(where / f"{script}.py", environment=environment or {}, log=str(tmp_path / "log"), **names)

    return of


def end(process):
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def kill(processes, victim, reached, pause=0.0):
    """Kill one of some processes when a condition holds, and the others a little later, as torchrun would.

    Returns:
        Whether they still ran. What the condition counts is work and not time: no machine is too fast or too slow.
    """
    until = time.perf_counter() + PATIENCE
    while processes[0].exitcode is None and not reached():
        assert time.perf_counter() < until, "it hangs"
        time.sleep(0.002)
    ran = processes[0].exitcode is None
    victim.kill()
    time.sleep(pause)
    for one in processes:
        one.kill()
        end(one)
    return ran


def files_in(folder):
    """How many files lie in a folder and below; it may be written to meanwhile."""
    return sum(len(names) for _, _, names in os.walk(folder))


def check_same_run(run, whole):
    states = [files.load_model(folder).net.state_dict() for folder in (whole, run)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    rows = [records.read_rows(folder / "metrics.csv") for folder in (whole, run)]
    plain = [[{key: value for key, value in row.items() if key != "seconds"} for row in table] for table in rows]
    assert plain[0] == plain[1]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (whole, run)]
    assert [m["dice"] for m in manifests] == [manifests[0]["dice"]] * 2
    assert [m["steps"] for m in manifests] == [manifests[0]["steps"]] * 2
    assert sorted(file.name for file in run.iterdir()) == sorted(file.name for file in whole.iterdir())


MOMENTS = [
    ("last.ckpt", 3, "half written"),
    ("last.ckpt", 1, "before"),
    ("last.ckpt", 8, "renamed"),  # the last one: nothing is left to do but the rest of the run folder
    ("config.yaml", 1, "half written"),
    ("manifest.json", 1, "renamed"),
    ("model.safetensors", 1, "half written"),
]


@pytest.mark.parametrize(("name", "call", "moment"), MOMENTS)
def test_killed_training_resumes_after_a_partial_write(
    begin, where, tmp_path, check_complete_files, name, call, moment
):
    run = tmp_path / "run"
    given = {"settings": str(where / "settings.yaml"), "folder": str(run)}
    assert end(begin("die", name=name, call=call, moment=moment, **given)) == -signal.SIGKILL
    check_complete_files(run)
    assert not (run / "model.safetensors").exists()
    assert bool(list(run.glob(".tmp-*"))) == (moment != "renamed")
    assert end(begin("train", **given)) == 0, (tmp_path / "log").read_text()
    check_same_run(run, where / "whole")


def ranks(processes):
    """The environment that torchrun gives to each of several processes."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "kill"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    each = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    return [{name: str(value) for name, value in one.items()} for one in each]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_that_was_killed_at_random(begin, where, tmp_path, check_complete_files, processes):
    """One process after the other is killed, until the run is finished; then the next run, until all kills are done."""
    draw, kills, wanted = random.Random(processes), 0, KILLS or 4 - processes

    def go_on(run):
        given = {"settings": str(where / "settings.yaml"), "folder": str(run)}
        return [begin("train", environment, **given) for environment in ranks(processes)]

    assert [end(one) for one in go_on(tmp_path / "whole")] == [0] * processes, (tmp_path / "log").read_text()
    if processes == 1:
        check_same_run(tmp_path / "whole", where / "whole")  # the same seed in a fresh process
    steps = len(records.read_rows(tmp_path / "whole" / "metrics.csv"))
    for number in itertools.count():
        run = tmp_path / str(number)
        while kills < wanted and not (run / "model.safetensors").exists():
            done = len(records.read_rows(run / "metrics.csv"))
            step = draw.randint(done and done - 1, steps)  # a resumed run begins with the rows of its checkpoint
            group, log = go_on(run), run / "metrics.csv"
            moment = draw.uniform(0, 0.05)
            kills += kill(
                group,
                draw.choice(group),
                lambda log=log, step=step, moment=moment: (
                    log.exists() and log.read_text().count("\n") > step and not time.sleep(moment)
                ),
                draw.choice([0, 0.1]),
            )
            check_complete_files(run)
        assert [end(one) for one in go_on(run)] == [0] * processes, (tmp_path / "log").read_text()
        check_same_run(run, tmp_path / "whole")
        if kills == wanted:
            break


def test_a_prediction_that_was_killed_at_random(begin, cascade, phantom_folder, tmp_path, check_complete_files):
    cts = tmp_path / "cts"
    cts.mkdir()
    for case in find_cases(phantom_folder)[:3]:
        (cts / case.image.name).write_bytes(case.image.read_bytes())
    draw, kills, wanted = random.Random(0), 0, KILLS or 2

    def go_on(folder):
        return begin("predict", words=[str(cascade), str(cts), "-o", str(folder)])

    whole = tmp_path / "whole"
    assert end(go_on(whole)) == 0, (tmp_path / "log").read_text()
    for number in itertools.count():
        out, written = tmp_path / str(number), draw.randrange(files_in(whole))

        def reached(out=out, written=written):
            check_complete_files(out)  # at any moment, not only when it is over
            return files_in(out) >= written

        process = go_on(out)
        kills += kill([process], process, reached)
        check_complete_files(out)
        assert end(go_on(out)) == 0, (tmp_path / "log").read_text()
        seen = [path for path in out.iterdir() if not path.name.startswith(".")]
        assert sorted(path.name for path in seen) == sorted(path.name for path in whole.iterdir())
        for path in seen:
            check_same_result(path, whole / path.name)
        if kills == wanted:
            break


def check_same_result(path: Path, whole: Path) -> None:
    if path.name.endswith(".nii.gz"):
        assert np.array_equal(nib.load(path).get_fdata(), nib.load(whole).get_fdata())
    elif path.suffix == ".json":
        contents = [json.loads(file.read_text()) for file in (path, whole)]
        assert contents[0]["volume_ml"] == contents[1]["volume_ml"]
    else:
        assert path.read_bytes() == whole.read_bytes()


def children_of(pid):
    """The processes that a process started; none where the system does not say."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        found += [int(stat.parent.name)] * (parent == pid)
    return found


def test_an_ablation_that_was_killed_at_random(begin, phantom_folder, tiny_run, tmp_path, check_complete_files):
    """The processes of its cells end with it, and the next run gives the same table."""
    how = {"stages": ["tumour-coarse"], "arms": ["segmentation"], "protocols": ["cross-validation"], "folds": 2}
    how["seeds"] = [0]
    source, overrides = str(phantom_folder / "A"), {**tiny_run, "machine.checkpoint_every": 1}
    draw, kills, wanted = random.Random(0), 0, KILLS or 1

    def go_on(folder):
        return begin("ablate", overrides=overrides, source=source, folder=folder, how=how)

    whole = tmp_path / "whole"
    ablate("laptop", overrides, find_cases(source), whole, **how, progress=False)
    for number in itertools.count():
        out, written = tmp_path / str(number), draw.randrange(files_in(whole))
        process = go_on(out)
        workers: set[int] = set()

        def reached(out=out, written=written, process=process, workers=workers):
            workers.update(children_of(process.pid))
            return files_in(out) >= written

        kills += kill([process], process, reached)
        until = time.perf_counter() + PATIENCE
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.perf_counter() < until, "a cell outlives the ablation"
            time.sleep(0.1)
        check_complete_files(out)
        assert end(go_on(out)) == 0, (tmp_path / "log").read_text()
        assert records.read_rows(out / "cases.csv") == records.read_rows(whole / "cases.csv")
        contents = [json.loads((folder / "summary.json").read_text()) for folder in (out, whole)]
        assert contents[0]["results"] == contents[1]["results"]
        if kills == wanted:
            break
