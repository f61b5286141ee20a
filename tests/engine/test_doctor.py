"""What the doctor finds on machines that are missing something."""

from __future__ import annotations

import builtins
import importlib.metadata
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dualtask_lite import machine as probes
from dualtask_lite.engine import doctor
from dualtask_lite.engine.doctor import diagnose
from dualtask_lite.viewers.extension import Status

GIB = 2**30
JUPYTER = ("IPython", "ipykernel", "ipywidgets", "jupyterlab", "ipyniivue", "itkwidgets", "monai")


def check(name):
    (found,) = [check for check in diagnose().checks if check.name == name]
    return found


def remove(monkeypatch, *names):
    """Let a package look as if it was never installed."""
    version = importlib.metadata.version

    def without(name):
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.installed, "version", without)


def card(monkeypatch, name, memory, capability, count=1):
    properties = SimpleNamespace(name=name, total_memory=memory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up Linux: writes files of /proc and of the control groups; sizes in GiB."""
    monkeypatch.setattr(probes, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(probes, "_CGROUPS", tmp_path / "cgroup")

    def write(file, text):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)

    write("proc/meminfo", f"MemTotal:  {16 * 2**20} kB\nMemFree:  1 kB\nMemAvailable:  {12 * 2**20} kB\nHuge: 0\n")
    return write


def test_a_diagnosis_is_plain_json():
    found = diagnose()
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert found.as_dict()["ok"] == found.ok
    assert found.machine["profile"] in ("laptop", "colab", "gpu")


def test_the_text_has_an_aligned_line_for_each_check():
    found = diagnose()
    lines = found.as_text().splitlines()
    assert len(lines) == len(found.checks)
    column = {line.index(check.found, 6 + len(check.name)) for line, check in zip(lines, found.checks, strict=True)}
    assert len(column) == 1
    for line, check in zip(lines, found.checks, strict=True):
        assert line.split()[0] == check.status
        assert check.status in ("OK", "WARN", "FAIL")
        assert line.endswith(check.remedy)
        assert bool(check.remedy) == (check.status != "OK")


def test_every_dependency_is_looked_at_once():
    names = [check.name for check in diagnose().checks]
    assert len(names) == len(set(names))
    assert {"Python", "torch", "monai", "numpy", "nibabel", "processor", "memory", "disk"} <= set(names)
    assert {"jupyterlab", "ipywidgets", "ipyniivue", "itkwidgets"} <= set(names)
    assert not {"pytest", "ruff"} & set(names)


def test_command_line_imports_neither_jupyter_nor_viewers():
    code = f"""
import sys
from dualtask_lite.engine.doctor import diagnose
assert not ({{"torch", *{JUPYTER!r}}} & sys.modules.keys())
diagnose()
assert not (set({JUPYTER!r}) & sys.modules.keys())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "extra"), [("jupyterlab", "notebooks"), ("itkwidgets", "viewers")])
def test_a_missing_optional_package_is_a_warning(monkeypatch, name, extra):
    remove(monkeypatch, name)
    found = check(name)
    assert (found.status, found.found) == ("WARN", "not installed")
    assert f"pip install 'dualtask-lite[{extra}]'" in found.remedy


def test_the_core_alone_is_ok(monkeypatch):
    remove(monkeypatch, *JUPYTER[:-1], "papermill", "jupytext", "nbconvert", "ngff-zarr", "zarr")
    found = diagnose()
    assert found.ok
    assert sum(check.status == "WARN" for check in found.checks) >= 6


def test_a_missing_core_package_fails(monkeypatch):
    remove(monkeypatch, "nibabel")
    assert check("nibabel").status == "FAIL"
    assert "pip install 'nibabel>=" in check("nibabel").remedy
    assert not diagnose().ok


def test_a_package_that_is_too_old_or_too_new(monkeypatch):
    old = {"numpy": "1.20.0", "zarr": "3.1.0"}
    version = importlib.metadata.version
    monkeypatch.setattr(doctor.installed, "version", lambda name: old.get(name) or version(name))
    assert check("numpy").status == "FAIL"
    assert check("numpy").found.startswith("1.20.0 does not fit")
    assert check("zarr").status == "WARN"


def test_a_clone_that_is_not_installed(monkeypatch):
    remove(monkeypatch, "dualtask-lite")
    found = check("dualtask-lite")
    assert found.status == "FAIL"
    assert "pip install -e ." in found.remedy


@pytest.mark.parametrize(("version", "status"), [("3.9.18", "FAIL"), ("3.10.0", "OK"), ("3.14.0rc1", "OK")])
def test_the_python_version(monkeypatch, version, status):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)
    assert check("Python").status == status


# -- device -------------------------------------------------------------------------------------------------


def test_a_machine_without_a_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    found = diagnose()
    assert check("graphics card").status == "OK"
    assert (found.machine["gpu"], found.machine["bf16"], found.machine["profile"]) == (None, None, "laptop")
    assert found.machine["cpu_cores"] >= 1
    assert found.machine["cpu_threads"] == torch.get_num_threads()


def test_a_card_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    found = check("graphics card")
    assert found.status == "WARN"
    assert torch.__version__ in found.found


@pytest.mark.parametrize(
    ("name", "memory", "capability", "profile", "bf16"),
    [
        ("Tesla T4", 15_835_660_288, (7, 5), "colab", False),
        ("NVIDIA GeForce RTX 3090", 25_438_126_080, (8, 6), "gpu", True),
        ("NVIDIA H200", 150_110_011_392, (9, 0), "gpu", True),
    ],
)
def test_a_card_chooses_the_profile(monkeypatch, name, memory, capability, profile, bf16):
    card(monkeypatch, name, memory, capability, count=2)
    found = diagnose()
    assert (found.machine["gpu"], found.machine["profile"], found.machine["bf16"]) == (name, profile, bf16)
    assert found.machine["gpu_memory_gb"] == pytest.approx(memory / 1e9, abs=0.05)
    assert check("graphics card").found.startswith(f"2 x {name}")
    assert ("fp16" in check("graphics card").found) is not bf16
    assert profile in check("profile").found


def test_a_torch_that_cannot_be_imported(monkeypatch):
    load = builtins.__import__

    def broken(name, *rest):
        if name == "torch":
            raise OSError("libcudart.so: cannot open shared object file")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    found = diagnose()
    assert not found.ok
    assert found.machine["profile"] == "laptop"
    assert "libcudart" in check("graphics card").found


# -- memory and disk ----------------------------------------------------------------------------------------


def memory():
    found = diagnose().machine
    return found["memory_gb"], found["memory_available_gb"]


def gb(gib):
    return pytest.approx(gib * GIB / 1e9, abs=0.051)


def test_memory_of_the_whole_machine(machine):
    assert memory() == (gb(16), gb(12))
    assert check("memory").status == "OK"


def test_container_memory_is_limited_by_its_control_group(machine):
    machine("proc/self/cgroup", "0::/\n")
    machine("cgroup/memory.max", f"{4 * GIB}\n")
    machine("cgroup/memory.current", f"{3 * GIB}\n")
    machine("cgroup/memory.stat", f"anon {GIB}\ninactive_file {2 * GIB}\n")
    assert memory() == (gb(4), gb(3))


def test_the_narrowest_of_nested_groups_counts(machine):
    machine("proc/self/cgroup", "0::/hub/learner\n")
    for group, limit in (("hub", f"{8 * GIB}"), ("hub/learner", "max")):
        machine(f"cgroup/{group}/memory.max", f"{limit}\n")
        machine(f"cgroup/{group}/memory.current", f"{GIB}\n")
    assert memory() == (gb(8), gb(7))


def test_control_groups_of_the_first_version(machine):
    machine("proc/self/cgroup", "5:cpu:/job\n4:memory:/job\n0::/\n")
    machine("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # no limit
    machine("cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    machine("cgroup/memory/job/memory.limit_in_bytes", f"{GIB}\n")
    machine("cgroup/memory/job/memory.usage_in_bytes", "0\n")
    assert memory() == (gb(1), gb(1))
    assert check("memory").status == "WARN"
    assert "2 GB" in check("memory").remedy


def test_memory_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(probes, "_PROC", tmp_path)
    total, available = memory()
    assert total > 0.1
    assert available is None
    assert "available unknown" in check("memory").found
    monkeypatch.delattr(probes.os, "sysconf")
    assert memory() == (None, None)
    assert check("memory").status == "OK"


@pytest.mark.parametrize("status", [None, "VmSize: 9 kB\nVmRSS: 8 kB\n", "VmHWM:   2048 kB\n"])
def test_peak_memory_where_a_sandbox_reports_less(monkeypatch, tmp_path, status):
    pytest.importorskip("resource", reason="Windows does not report the memory of a process in this way")
    monkeypatch.setattr(probes, "_PROC", tmp_path)
    if status:
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "status").write_text(status)
    assert (probes.peak_memory_mb() == 2.0) == (status is not None and "VmHWM" in status)
    assert probes.peak_memory_mb() > 0
    assert probes.processor()


def test_little_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=3e8, place=place))
    found = check("disk")
    assert (found.status, found.found) == ("WARN", f"0.3 GB free for {tmp_path / 'not' / 'yet'}")
    assert "DUALTASK_DATA" in found.remedy
    assert not (tmp_path / "not").exists()


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert check("disk").status == "WARN"


# -- viewers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ("local", "OK", "itkwidgets works without network"),
        ("network", "OK", "from the network"),
        ("undone", "WARN", "installed again"),
        ("missing", "OK", "is not installed"),
    ],
)
def test_doctor_lists_working_viewers(monkeypatch, state, status, words):
    monkeypatch.setattr(doctor, "itk_source", lambda: Status(state))
    assert check("viewers").status == status
    assert "niivue and html draw without network" in check("viewers").found
    assert words in check("viewers").found
    assert ("dualtask viewers install" in check("viewers").remedy) == (state == "undone")


def test_itkwidgets_may_be_missing(monkeypatch):
    remove(monkeypatch, "itkwidgets")
    assert "itkwidgets is not installed" in check("viewers").found


def test_no_viewer(monkeypatch):
    remove(monkeypatch, "ipyniivue")
    assert check("viewers").status == "WARN"
    assert "pip install 'dualtask-lite[viewers]'" in check("viewers").remedy
