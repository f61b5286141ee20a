"""Imaging views: golden values, the identity, replay, and views that show no anatomy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dualtask_lite.method import views
from dualtask_lite.method.views import View, apply_view, draw_view, random_view, saturation, shows_anatomy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(*shape):
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")


def textured(seed=0, shape=(16, 16, 12)):
    x, y, z = grid(*shape)
    waves = 0.5 + 0.25 * torch.sin(0.6 * x) * torch.cos(0.4 * y) + 0.2 * torch.sin(0.5 * z + 0.3 * x)
    noise = 0.03 * torch.randn(shape, generator=generator(seed), dtype=torch.float64)
    return (waves + noise).clamp(0, 1).float()[None]


def test_golden_mix():
    """Golden `randconv_mix`; its (z, y, x) is our (x, y, z) reversed, also in the kernel."""
    x, y, z = grid(32, 24, 16)
    image = (0.5 + 0.5 * torch.sin(0.35 * z + 0.2 * y) * torch.cos(0.15 * x))[None]
    c, b, a = grid(3, 3, 3)
    view = View(0.3 * torch.sin(1 + a + 2 * b + 3 * c), bias=0.05, blend=0.7)
    clipped = views._convolve(image, view).clamp(0, 1)
    assert clipped.mean().item() == pytest.approx(0.1616391636, abs=1e-9)
    assert (clipped == 0).double().mean().item() == pytest.approx(0.02937825521, abs=1e-9)
    viewed = apply_view(image, view)[0]
    assert viewed.mean().item() == pytest.approx(0.3410210268, abs=1e-9)
    assert viewed[0, 0, 0].item() == pytest.approx(0.3379158085, abs=1e-9)
    assert viewed[16, 12, 8].item() == pytest.approx(0.5442146317, abs=1e-9)


def test_blend_of_zero_is_the_identity():
    image = 0.2 + 0.5 * textured()  # does not span [0, 1], so a rescaling would change it
    for seed in range(5):
        assert torch.equal(apply_view(image, draw_view(generator(seed), max_blend=0)), image)
    assert torch.equal(random_view(image[None], generator(), max_blend=0)[0], image)


def test_same_seed_draws_the_same_views():
    first, second = draw_view(generator(3)), draw_view(generator(3))
    assert torch.equal(first.kernel, second.kernel)
    assert first[1:] == second[1:]
    batch = torch.stack([textured(seed) for seed in range(3)])
    assert torch.equal(random_view(batch, generator(5)), random_view(batch, generator(5)))
    assert not torch.equal(random_view(batch, generator(5)), random_view(batch, generator(6)))


def test_views_follow_the_distributions_of_the_method():
    source = generator()
    drawn = [draw_view(source) for _ in range(1500)]
    for size in (3, 5, 7):
        of_size = [view for view in drawn if view.kernel.shape == (size,) * 3]
        assert 420 < len(of_size) < 580  # a third each: 500, standard deviation 18
        weights = torch.cat([view.kernel.flatten() for view in of_size])
        assert weights.std().item() == pytest.approx((2 / size**3) ** 0.5, rel=0.03)
        bias = torch.tensor([view.bias for view in of_size]) * size**1.5
        assert bias.abs().max() <= 1
        assert bias.std().item() == pytest.approx(3**-0.5, rel=0.1)
    blend = torch.tensor([view.blend for view in drawn])
    assert blend.min() >= 0
    assert blend.max() <= 1
    assert blend.mean().item() == pytest.approx(0.5, abs=0.03)
    gentle = torch.tensor([draw_view(source, max_blend=0.3).blend for _ in range(200)])
    assert 0.25 < gentle.max() <= 0.3


def test_each_sample_gets_its_own_view():
    viewed = random_view(textured().expand(4, 1, -1, -1, -1), generator())
    assert all(not torch.equal(viewed[i], viewed[j]) for i in range(4) for j in range(i))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), blend=st.floats(0.05, 1))
def test_views_are_never_flat_saturated_or_out_of_range(seed, blend):
    batch = torch.stack([textured(seed), textured(seed + 1)])
    viewed = random_view(batch, generator(seed), max_blend=blend)
    assert viewed.shape == batch.shape
    assert viewed.dtype == batch.dtype
    assert torch.isfinite(viewed).all()
    assert viewed.min() >= 0
    assert viewed.max() <= 1
    assert (viewed.flatten(1).std(1) >= views.FLATTEST).all()
    for before, after in zip(batch, viewed, strict=True):
        had_contrast = (before > 0) & (before < 1)
        assert ((after <= 0) | (after >= 1))[had_contrast].double().mean() <= views.MOST_SATURATED + 0.01


def test_unchecked_views_are_often_saturated():
    """Trap 11: of 600 unchecked views 19 % were more than half saturated; the share is similar here."""
    source, image = generator(), textured()
    unchecked = torch.tensor([saturation(image, draw_view(source)) for _ in range(300)])
    assert 0.1 < (unchecked > 0.5).double().mean() < 0.4


def test_saturation_counts_voxels_lost_to_the_clip():
    bright = View(torch.zeros(3, 3, 3), bias=2.0, blend=1.0)  # every voxel becomes 2
    image = textured()
    assert saturation(image, bright) == 1
    assert not shows_anatomy(image, bright)
    assert saturation(image.round(), bright) == 0  # air and bone only: no contrast to lose


@pytest.mark.parametrize(("share", "shown"), [(0.45, True), (0.55, False)])
def test_view_may_saturate_up_to_half_of_the_voxels(share, shown):
    """Trap 11: a view that adds a constant; the grey values are spread evenly over 0.05 to 0.95."""
    kernel = torch.zeros(3, 3, 3)
    kernel[1, 1, 1] = 1
    image = torch.linspace(0.05, 0.95, 1000).reshape(1, 10, 10, 10)
    brighter = View(kernel, bias=0.05 + 0.9 * share, blend=1.0)
    assert saturation(image, brighter) == pytest.approx(share, abs=0.01)
    assert shows_anatomy(image, brighter) is shown


def test_random_view_draws_with_the_given_settings():
    image, own = textured(), {"kernel_sizes": (5,), "max_blend": 0.2}
    for seed in range(5):
        view = draw_view(generator(seed), **own)
        assert shows_anatomy(image, view)
        assert torch.equal(random_view(image[None], generator(seed), **own)[0], apply_view(image, view))


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_constant_image_is_unchanged(value):
    image = torch.full((1, 1, 8, 8, 8), value)
    assert torch.equal(random_view(image, generator()), image)
    none = View(torch.zeros(3, 3, 3), bias=0.1, blend=1.0)
    assert torch.isfinite(apply_view(image[0], none)).all()


def test_non_finite_sample_is_unchanged_and_others_are_viewed():
    batch = torch.stack([textured(), textured(1)])
    batch[0, 0, 0, 0, 0] = float("nan")
    viewed = random_view(batch, generator())
    assert torch.equal(viewed[0].nan_to_num(), batch[0].nan_to_num())
    assert torch.isfinite(viewed[1]).all()
    assert not torch.equal(viewed[1], batch[1])


def test_number_of_draws_is_bounded(monkeypatch):
    calls = []
    real = views.draw_view
    monkeypatch.setattr(views, "draw_view", lambda *a, **k: calls.append(1) or real(*a, **k))
    random_view(torch.zeros(1, 1, 8, 8, 8), generator())
    assert len(calls) == views.TRIES


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match="odd"):
        draw_view(generator(), kernel_sizes=(3, 4))
    for blend in (-0.1, 1.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            draw_view(generator(), max_blend=blend)


# -- one convolution and one transfer a draw ------------------------------------------------------------------


def three_convolutions(images, draws):
    """The plain way: check a view, then apply it, each from the image anew."""

    def blend(image, view):
        convolved = F.conv3d(image[None], view.kernel.to(image)[None, None], padding="same")[0] + view.bias
        return view.blend * convolved + (1 - view.blend) * image

    def apply(image, view):
        if view.blend == 0:
            return image
        shown = blend(image, view).clamp(0, 1)
        low, high = shown.amin(), shown.amax()
        return (shown - low) / (high - low) if high > low else shown

    def is_good(image, view):
        contrast = torch.minimum(image.std(), apply(image, view).std())
        had_contrast, blended = (image > 0) & (image < 1), blend(image, view)
        lost = had_contrast & ((blended <= 0) | (blended >= 1))
        clipped = float(lost.sum() / had_contrast.sum().clamp_min(1))
        return bool(contrast >= views.FLATTEST) and clipped <= views.MOST_SATURATED

    def view_of(image):
        for _ in range(views.TRIES):
            view = draw_view(draws)
            if is_good(image, view):
                return apply(image, view)
        return image

    return torch.stack([view_of(image) for image in images])


@pytest.mark.parametrize("seed", range(6))
def test_one_convolution_gives_the_bits_of_three(seed):
    images = torch.stack([textured(seed), 0.3 + 0.2 * textured(seed + 10), torch.full((1, 16, 16, 12), 0.5)])
    images = torch.cat([images, torch.full_like(images[:1], torch.nan)])
    ours, drawn, again = random_view(images, generator(seed)), generator(seed), generator(seed)
    plain = three_convolutions(images, drawn)
    random_view(images, again)
    assert ours.numpy().tobytes() == plain.numpy().tobytes()
    assert torch.equal(drawn.get_state(), again.get_state())


def test_a_draw_costs_one_convolution_and_one_transfer(monkeypatch, transfers):
    drawn, draw = [], views.draw_view
    monkeypatch.setattr(views, "draw_view", lambda *args, **options: drawn.append(0) or draw(*args, **options))
    drawing = transfers(lambda: [draw(generator(seed)) for seed in range(8)]) // 8
    monkeypatch.setattr(views, "_convolve", lambda *args, of=views._convolve: convolved.append(0) or of(*args))
    convolved = []
    found = transfers(lambda: random_view(torch.stack([textured(seed) for seed in range(4)]), generator(2)))
    assert len(convolved) == len(drawn) > 4
    assert found == (1 + drawing) * len(drawn)
