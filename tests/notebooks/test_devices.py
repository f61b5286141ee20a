"""No lesson keeps a network on a fixed device: each uses the card where there is one."""

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "notebooks" / "source").glob("0*.py"))
MOVES = {"to", "cuda", "cpu", "device", "load_model", "load_models", "pick_device", "set_default_device"}
NETWORKS = {"build_network", "DualTaskNet"}


def name_of(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def fixed_devices(source):
    """What in a lesson chooses a device by name, or gives a name to a network that was not moved to a device."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            values = [*node.args, *(word.value for word in node.keywords)]
            named = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
            if name_of(node) in MOVES and any(name.partition(":")[0] in ("cpu", "cuda") for name in named):
                yield ast.unparse(node)
            if name_of(node) == "cuda":
                yield ast.unparse(node)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and name_of(node.value) in NETWORKS:
            yield ast.unparse(node)
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if "machine.device" in keys:
                yield ast.unparse(node)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem.partition("_")[0])
def test_no_lesson_fixes_the_device_of_a_network(source):
    assert list(fixed_devices(source.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "fixed",
    [
        "network = build_network(settings)",
        "model = load_model(run, 'cpu')",
        "network = build_network(settings).to('cuda:0')",
        "network.cuda()",
        "settings.changed({'machine.device': 'cpu'})",
    ],
)
def test_a_fixed_device_is_found(fixed):
    assert list(fixed_devices(fixed))


def test_a_network_on_a_chosen_device_is_accepted():
    assert not list(fixed_devices("network = build_network(settings).to(device)\nmodel = load_model(run)"))
