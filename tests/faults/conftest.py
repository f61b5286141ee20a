"""What is needed to break things: a command as its user types it, a full disk, processes that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import runpy

import nibabel as nib
import pytest
from PIL import Image
from safetensors import safe_open


@pytest.fixture(scope="session")
def start():
    """Start a Python script, with given global names, in a process forked from one that has imported torch already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("Windows has no SIGKILL")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dualtask_lite.engine.judging.ablation", "dualtask_lite.show.figures"])

    def begin(script, **names):
        process = context.Process(target=runpy.run_path, args=(str(script), names))
        process.start()
        return process

    return begin


def read_whole(path):
    """Read a file that the package writes to its end; fails on half of one."""
    if path.name.endswith(".nii.gz"):
        nib.load(path).get_fdata()
    elif path.suffix in (".safetensors", ".ckpt"):
        with safe_open(path, framework="pt") as file:
            assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".json":
        json.loads(path.read_text())


@pytest.fixture(scope="session")
def check_complete_files():
    """Read every file of a folder that a user would see, to its end."""

    def check(folder):
        for path in sorted(folder.rglob("*")) if folder.exists() else ():
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden:
                read_whole(path)

    return check
