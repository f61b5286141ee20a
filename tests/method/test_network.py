"""The network: golden forward pass, sizes and cost, invalid input, and heads that start unsaturated (trap 10)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dualtask_lite.method.network import STRIDE, DualTaskNet, Outputs, StandardisedConv3d


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(width=8, **options):
    torch.manual_seed(0)
    return DualTaskNet(width, **options)


def run_with_distance_head(net, x):
    """The features that enter the distance head, its output before tanh, and the outputs of the network."""
    calls = []
    hook = net.distance_head.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    outputs = net(x)
    hook.remove()
    (features, before_tanh), *_ = calls
    return features, before_tanh, outputs


# -- golden values; the axes x, y, z here are z, y, x there -----------------------------------------------


def golden_weight(weight, function=torch.sin):
    """w[o, c, a, b, d] = sin(1 + o + 2c + 3a + 5b + 7d), where a, b, d run along z, y, x."""
    steps = (1, 2, 7, 5, 3) if weight.ndim == 5 else (1, 2)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in weight.shape), indexing="ij")
    return function(1 + sum(step * axis for step, axis in zip(steps, axes, strict=True)))


@torch.no_grad()
def golden_net():
    net = DualTaskNet(32).double().eval()
    for module in net.modules():
        if isinstance(module, StandardisedConv3d):
            module.weight.copy_(golden_weight(module.weight))
        elif isinstance(module, nn.Conv3d | nn.Linear):
            function = torch.cos if module is net.distance_head else torch.sin
            module.weight.copy_(0.05 * golden_weight(module.weight, function))
            module.bias.zero_()
    return net


def golden_image():
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (32, 24, 16)), indexing="ij")
    return (0.5 + 0.5 * torch.sin(0.35 * z + 0.2 * y) * torch.cos(0.15 * x))[None, None]


@pytest.fixture(scope="module")
def golden():
    """Each head's output of the golden network: in float64, and in float32."""

    @torch.no_grad()
    def run(net, x):
        _, before_tanh, outputs = run_with_distance_head(net, x)
        torch.testing.assert_close(outputs.distance, torch.tanh(before_tanh))
        return {"seg": outputs.seg, "emb": outputs.embedding, "dis": before_tanh, "cls": outputs.slices}

    net = golden_net()
    exact = run(net, golden_image())
    return exact, run(net.float(), golden_image().float())


@pytest.mark.parametrize(
    ("head", "shape", "mean", "spread", "low", "high"),
    [
        ("seg", (1, 1, 32, 24, 16), -0.03107251628, 0.4940735028, -2.460256189, 2.177408793),
        ("emb", (1, 32, 4, 3, 2), 2.079482654, 3.767489681, 0.0, 24.56467403),
        ("dis", (1, 1, 32, 24, 16), -0.07658188947, 0.7385067302, -3.738956999, 3.013040443),
        ("cls", (1, 16), 0.01924106211, 0.2166186792, -0.1973776171, 0.2358597414),
    ],
)
def test_golden_forward(golden, head, shape, mean, spread, low, high):
    output = golden[0][head]
    assert output.shape == shape
    found = (output.mean(), output.std(unbiased=False), output.min(), output.max())
    assert [f.item() for f in found] == pytest.approx([mean, spread, low, high], rel=1e-8)


def test_golden_forward_voxels(golden):
    exact = golden[0]
    expected = {
        "seg": {(0, 0, 0): -0.6260023479, (8, 12, 16): 0.3909206251, (15, 23, 31): 0.152386215},
        "dis": {(0, 0, 0): -0.9646073488, (8, 12, 16): 0.5457574546, (15, 23, 31): 0.1732824585},
    }
    for head, voxels in expected.items():
        for (z, y, x), value in voxels.items():
            assert exact[head][0, 0, x, y, z].item() == pytest.approx(value, rel=1e-8)
    assert exact["emb"][0, 0, 0, 0, 0].item() == pytest.approx(10.19386873, rel=1e-8)
    assert exact["emb"][0, 16, 2, 1, 1] == exact["emb"][0, 31, 3, 2, 1] == 0
    assert exact["cls"][0, [0, 8, 15]].tolist() == pytest.approx([0.2358597414, -0.1973776171, -0.1973776171], rel=1e-8)


@pytest.mark.parametrize(
    ("head", "deviation"),
    [("seg", 0.002901208301), ("emb", 0.001041690616), ("dis", 0.004392047863), ("cls", 3.215171553e-05)],
)
def test_golden_float32_deviation(golden, head, deviation):
    """At most twice that of the published network: rounding differs between machines, its size does not."""
    exact, rounded = golden
    assert (rounded[head] - exact[head]).abs().max() < 2 * deviation


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "shape", "mean", "spread", "voxels"),
    [
        (
            1,
            1,
            1,
            (6, 5, 4),
            -1.170772488,
            2.367236447,
            {(0, 0, 0, 0): -0.3606654556, (1, 2, 2, 3): -2.090242549, (2, 3, 4, 5): -1.50276292},
        ),
        (
            2,
            1,
            1,
            (3, 3, 2),
            -0.1488399007,
            2.193969124,
            {(0, 0, 0, 0): -0.3606654556, (1, 1, 1, 1): -2.257639648, (2, 1, 2, 2): -4.508861031},
        ),
        (
            1,
            2,
            2,
            (6, 5, 4),
            -1.475859644,
            3.318194443,
            {(0, 0, 0, 0): -0.698773798, (1, 2, 2, 3): -8.679662833, (2, 3, 4, 5): -1.919876551},
        ),
    ],
)
def test_golden_standardised_convolution(stride, padding, dilation, shape, mean, spread, voxels):
    conv = StandardisedConv3d(2, 3, 3, stride, padding, dilation, bias=False).double()
    conv.weight.data = golden_weight(conv.weight)
    c, x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (2, 6, 5, 4)), indexing="ij")
    output = conv((torch.sin(0.7 * c + 0.5 * z) + torch.cos(0.3 * y) * torch.sin(0.4 * x + 0.1))[None])[0]
    assert output.shape == (3, *shape)
    assert [output.mean().item(), output.std(unbiased=False).item()] == pytest.approx([mean, spread], rel=1e-9)
    for (o, k, j, i), value in voxels.items():
        assert output[o, i, j, k].item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("heads", "parameters"),
    [
        ({"distance_head": False, "slice_head": False}, 18_966_049),  # pancreas
        ({"slice_head": False}, 18_966_082),  # tumour-coarse
        ({}, 18_999_619),  # tumour-fine
    ],
)
def test_golden_number_of_parameters(heads, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in DualTaskNet(32, **heads).parameters()) == parameters


def test_golden_shapes_and_cost():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        outputs = DualTaskNet(32)(torch.empty(2, 1, 64, 64, 32))
    assert counter.get_total_flops() == 132_066_066_432
    assert counter.get_total_flops() / (2 * 64 * 64 * 32) == pytest.approx(504e3, rel=1e-3)  # FLOP a voxel
    assert outputs.seg.shape == outputs.distance.shape == (2, 1, 64, 64, 32)
    assert outputs.embedding.shape == (2, 32, 8, 8, 4)
    assert outputs.slices.shape == (2, 32)


# -- standardised weights -----------------------------------------------------------------------------------


def test_standardised_filters_have_mean_zero_and_deviation_one():
    conv = StandardisedConv3d(4, 6, 3, bias=False)
    nn.init.uniform_(conv.weight, 3, 9)
    ones = torch.eye(4 * 27).reshape(4 * 27, 4, 3, 3, 3)  # each reads one weight of each filter
    filters = conv(ones).reshape(4 * 27, 6)
    torch.testing.assert_close(filters.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(filters.std(0), torch.ones(6))


def test_standardised_convolution_ignores_scale_and_offset_of_its_weights():
    conv, x = StandardisedConv3d(2, 3, 3, bias=False), image(1, 2, 6, 6, 6)
    before = conv(x)
    conv.weight.data = 7 * conv.weight.data + 2
    torch.testing.assert_close(conv(x), before, atol=1e-4, rtol=1e-4)


def test_filter_of_equal_weights_stays_finite():
    conv = StandardisedConv3d(2, 3, 3, bias=False)
    nn.init.ones_(conv.weight)
    output = conv(image(1, 2, 6, 6, 6))
    output.sum().backward()
    assert output.abs().max() < 1e-3
    assert torch.isfinite(conv.weight.grad).all()


def test_standardisation_can_be_switched_off():
    plain = fresh(standardise=False)
    assert not any(isinstance(module, StandardisedConv3d) for module in plain.modules())
    assert plain.state_dict().keys() == fresh().state_dict().keys()
    plain.load_state_dict(fresh().state_dict())
    x = image(1, 1, 16, 16, 16)
    assert not torch.allclose(plain.eval()(x).embedding, fresh().eval()(x).embedding)


# -- trap 10 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("width", [8, 32])
def test_heads_start_unsaturated(width, standardise):
    """No voxel of tanh is saturated, and every voxel and channel of the features has a gradient."""
    net = fresh(width, standardise=standardise)
    features, before_tanh, outputs = run_with_distance_head(net, image(1, 1, 32, 32, 16))
    assert outputs.distance.abs().max() < 0.9
    assert outputs.seg.abs().max() < 2
    assert not net.distance_head.bias.any()
    assert not net.seg_head.bias.any()
    (gradient,) = torch.autograd.grad(outputs.distance.sum(), before_tanh, retain_graph=True)
    assert gradient.min() > 0.2
    for head in (outputs.distance, outputs.seg):
        (gradient,) = torch.autograd.grad(head.sum(), features, retain_graph=True)
        assert (gradient != 0).all()


def test_heads_with_default_initialisation_would_start_saturated():
    """The trap itself, at the paper's width: most voxels are saturated, half of them without any gradient."""
    net = fresh(32)
    net.distance_head.reset_parameters()
    _, before_tanh, outputs = run_with_distance_head(net, image(1, 1, 32, 32, 32))
    (gradient,) = torch.autograd.grad(outputs.distance.sum(), before_tanh)
    assert 0.7 < (outputs.distance.abs() > 0.999).double().mean() < 0.9
    assert 0.5 < (gradient == 0).double().mean() < 0.7
    assert 12 < before_tanh.std() < 22


@pytest.mark.parametrize("standardise", [True, False])
def test_every_parameter_gets_a_gradient(standardise):
    net = fresh(standardise=standardise)
    outputs = net(image(2, 1, 16, 16, 16))
    sum((output**2).mean() for output in outputs).backward()
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("task", ["seg", "distance"])
def test_each_task_alone_trains_the_whole_body(task):
    """Including the bottleneck, without the projector and the slice head."""
    net = fresh(projector=False, slice_head=False)
    (getattr(net(image(1, 1, 16, 16, 16)), task) ** 2).mean().backward()
    other = "distance_head" if task == "seg" else "seg_head"
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == name.startswith(other), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


# -- heads, sizes, determinism -------------------------------------------------------------------------------


def test_head_that_is_not_built_outputs_none():
    outputs = fresh(projector=False, distance_head=False, slice_head=False)(image(1, 1, 8, 8, 8))
    assert isinstance(outputs, Outputs)
    assert outputs.seg.shape == (1, 1, 8, 8, 8)
    assert outputs[1:] == (None, None, None)


@torch.no_grad()
def test_slice_head_classifies_slices_of_the_last_axis():
    """The 8 slices of one coarse slice share a logit; positions within the slice do not matter."""
    head, bottleneck = fresh().slice_head, image(1, 64, 2, 3, 4)
    slices = head(bottleneck)
    assert torch.equal(slices.reshape(1, 4, 8), slices[:, ::8, None].expand(1, 4, 8))
    assert slices.unique().numel() == 4
    torch.testing.assert_close(head(bottleneck.flip(2, 3)), slices)
    torch.testing.assert_close(head(bottleneck.flip(4)), slices.flip(1))


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 8, 40)])
def test_any_multiple_of_eight_is_accepted(shape):
    outputs = fresh()(image(2, 1, *shape))
    assert outputs.seg.shape == outputs.distance.shape == (2, 1, *shape)
    assert outputs.embedding.shape == (2, 32, *(n // STRIDE for n in shape))
    assert outputs.slices.shape == (2, shape[2])
    assert outputs.distance.abs().max() <= 1
    assert outputs.embedding.min() >= 0


@pytest.mark.parametrize("shape", [(12, 16, 16), (16, 20, 16), (16, 16, 17)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=r"pad each to a multiple of 8"):
        fresh()(image(1, 1, *shape))


@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 16, 16, 16), (1, 2, 16, 16, 16)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"give \(B, 1, X, Y, Z\)"):
        fresh()(image(*shape))


@pytest.mark.parametrize("width", [0, -8, 4, 12])
def test_other_widths_are_refused(width):
    with pytest.raises(ValueError, match="multiple of 8"):
        DualTaskNet(width)


def test_samples_of_a_batch_are_independent():
    net, x = fresh().double().eval(), image(3, 1, 16, 16, 8).double()
    with torch.no_grad():
        for together, alone in zip(net(x), net(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone)


def test_same_seed_gives_the_same_network_and_result():
    first, second = fresh(), fresh()
    x = image(1, 1, 16, 16, 8)
    torch.manual_seed(1)
    a = first(x)
    torch.manual_seed(1)
    b = second(x)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_dropout_acts_only_in_training():
    net, x = fresh(), image(1, 1, 16, 16, 8)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout3d) and m.p] == [0.1]
    assert not torch.equal(net(x).seg, net(x).seg)
    net.eval()
    assert torch.equal(net(x).seg, net(x).seg)


# -- ready for faster execution ------------------------------------------------------------------------------


def test_compiles_into_one_graph():
    net, x = fresh().eval(), image(1, 1, 16, 16, 8)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        for found, expected in zip(compiled(x), net(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_channels_last_is_the_same_function():
    net, x = fresh().double().eval(), image(2, 1, 16, 16, 8).double()
    last = copy.deepcopy(net).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        found, expected = last(x.to(memory_format=torch.channels_last_3d)), net(x)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_runs_in_bfloat16_autocast():
    net, x = (
        fresh(),
        image(1, 1, 32, 32, 32),
    )  # smaller ones hit a bug of torch: uninitialised memory in the gradient
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(x)
    sum(output.float().sum() for output in outputs).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
