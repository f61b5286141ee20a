"""A diagram of a network: its stages with the measured shapes of their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from dualtask_lite.method.network import DualTaskNet
from dualtask_lite.show import palette
from dualtask_lite.show.figures.parts import join_sides
from dualtask_lite.show.picture import Picture, new_figure

_POSITIONS = {  # column and row of each stage; the U runs down on the left and up on the right
    "stem": (0, 0), "encoder1": (1, 0), "encoder2": (1, 1), "encoder3": (1, 2), "encoder4": (1, 3),
    "context": (2, 3), "fuse": (3, 3), "decoder3": (3, 2), "decoder2": (3, 1), "decoder1": (3, 0),
    "seg_head": (4, 0), "distance_head": (4, 1), "projector": (2, 4), "slice_head": (1, 4),
}  # fmt: skip
_ARROWS = (
    ("stem", "encoder1"), ("encoder1", "encoder2"), ("encoder2", "encoder3"), ("encoder3", "encoder4"),
    ("encoder4", "context"), ("context", "fuse"), ("fuse", "decoder3"), ("decoder3", "decoder2"),
    ("decoder2", "decoder1"), ("decoder1", "seg_head"), ("decoder1", "distance_head"), ("context", "projector"),
    ("context", "slice_head"),
)  # fmt: skip
_SKIPS = (("encoder1", "decoder1"), ("encoder2", "decoder2"), ("encoder3", "decoder3"))
_HEADS = {
    "seg_head": "segmentation logit",
    "distance_head": "distance",
    "projector": "embedding",
    "slice_head": "tumour in slice?",
}
_WIDE, _HIGH = 0.8, 0.62


def network_diagram(net: DualTaskNet, sides: Sequence[int] = (64, 64, 32)) -> Picture:
    """Draw a network with the output shapes of its stages for one input.

    Args:
        net: the network; it is run once on zeros.
        sides: of the input, each a multiple of 8.
    """
    shapes = stage_shapes(net, sides)
    figure = new_figure(height=470)
    axes = figure.subplots()
    for name, shape in shapes.items():
        _draw_stage(axes, name, shape)
    for start, end in _ARROWS:
        if start in shapes and end in shapes:
            _draw_arrow(axes, start, end, palette.ink(), "-")
    for start, end in _SKIPS:
        _draw_arrow(axes, start, end, palette.GREY, "--")
    axes.set(xlim=(-0.5, 4.5), ylim=(4.5, -0.6))
    axes.set_axis_off()
    size = sum(weights.numel() for weights in net.parameters())
    axes.set_title(
        f"{size:,} weights; channels @ sides of one input of {join_sides(sides)}; dashed: skips, which are added",
        fontsize=10,
    )
    stages = "; ".join(f"{_title(name)} {_shape(shape)}" for name, shape in shapes.items())
    return Picture.of(
        figure, f"Dual-task U-Net, {size:,} weights, for an input of {join_sides(sides)} voxels: {stages}."
    )


def stage_shapes(net: DualTaskNet, sides: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Run a network on zeros and record the output shape of each stage and head, without the batch axis."""
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = []
    for name in _POSITIONS:
        stage = getattr(net, name)
        if stage is not None:
            hooks.append(
                stage.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out.shape[1:]}))
            )
    device = next(net.parameters()).device
    was_training = net.training
    try:
        net.eval()
        with torch.no_grad():
            net(torch.zeros(1, 1, *sides, device=device))
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    return {name: tuple(shapes[name]) for name in _POSITIONS if name in shapes}


def _draw_stage(axes: Axes, name: str, shape: tuple[int, ...]) -> None:
    x, y = _POSITIONS[name]
    colour = palette.ORANGE if name in _HEADS else palette.SKY
    corner = (x - _WIDE / 2, y - _HIGH / 2)
    axes.add_patch(Rectangle(corner, _WIDE, _HIGH, facecolor=colour, alpha=0.35, edgecolor="none"))
    axes.add_patch(Rectangle(corner, _WIDE, _HIGH, fill=False, edgecolor=colour, lw=1.5))
    axes.text(x, y, f"{_title(name)}\n{_shape(shape)}", ha="center", va="center", fontsize=9)


def _draw_arrow(axes: Axes, start: str, end: str, colour: str, style: str) -> None:
    """Connect two boxes: side to side, but bottom to top within a column and for the heads below."""
    (x, y), (u, v) = _POSITIONS[start], _POSITIONS[end]
    vertical = x == u or v == 4
    dx, dy = (0.0 if vertical else _WIDE / 2), ((_HIGH / 2 if v > y else -_HIGH / 2) if vertical else 0.0)
    tail, tip = (x + dx, y + dy), (u - dx, v - dy)
    axes.add_patch(FancyArrowPatch(tail, tip, arrowstyle="-|>", mutation_scale=12, color=colour, ls=style, lw=1.2))


def _title(name: str) -> str:
    return _HEADS.get(name, name)


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} @ {join_sides(shape[1:])}" if len(shape) > 1 else f"{shape[0]} slices"
