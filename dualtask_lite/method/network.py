"""The dual-task U-Net: one encoder and decoder, a head for each task (METHOD, section Network)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

STRIDE = 8  # the encoder halves each axis three times
EMBEDDING = 32  # channels of the projector
_GROUPS = 8
_HEAD_SPREAD = 1e-3  # initial standard deviation of the weights of the two voxel heads


class Outputs(NamedTuple):
    """The outputs of the network for a batch; ``None`` for a head that was not built."""

    seg: torch.Tensor  # (B, 1, X, Y, Z) logit
    distance: torch.Tensor | None  # (B, 1, X, Y, Z) distance / band, in [-1, 1]
    embedding: torch.Tensor | None  # (B, 32, X/8, Y/8, Z/8), never negative
    slices: torch.Tensor | None  # (B, Z) logit: does this axial slice contain tumour?


class StandardisedConv3d(nn.Conv3d):
    """Convolution whose weights have zero mean and unit standard deviation for each output filter.

    The variance is unbiased, with 1e-12 added under the root, so that a filter of equal weights becomes 0.

    Source: weight standardisation, Qiao et al. 2019, arXiv 1903.10520.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, X, Y, Z) -> (B, out, X', Y', Z')."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3, 4), keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-12)
        return F.conv3d(x, weight, self.bias, self.stride, self.padding, self.dilation)


def _conv(
    in_channels: int, out_channels: int, *, standardise: bool, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Conv3d:
    layer = StandardisedConv3d if standardise else nn.Conv3d
    padding = dilation * (kernel // 2)  # keeps the size at stride 1
    return layer(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)


class _Norm(nn.GroupNorm):
    """GroupNorm whose output has the data type of its input, also under autocast.

    On CUDA, autocast would make the output float32, which nearly doubles the memory of a step (1.75 times, counted
    for a patch of 32 x 32 x 32). The mean and variance of a half-precision input are still computed in float32.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same shape and data type."""
        if x.dtype == self.weight.dtype:
            if x.device.type == "cpu" and self.num_groups == self.num_channels and torch.is_grad_enabled():
                # One channel a group: PyTorch's backward pass in channels-last takes twice as long as these copies.
                return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last_3d)
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class _Activated(nn.Sequential):
    """GroupNorm, ReLU, then a convolution: the pre-activation order."""

    def __init__(self, in_channels: int, conv: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(_Norm(_GROUPS, in_channels), nn.ReLU(inplace=True), nn.Dropout3d(dropout), conv)


class Block(nn.Module):
    """A residual block: two convolutions, and a shortcut that is the identity or a 1x1x1 projection."""

    def __init__(self, in_channels: int, out_channels: int, *, standardise: bool, dilation: int = 1) -> None:
        super().__init__()
        conv1 = _conv(in_channels, out_channels, standardise=standardise, dilation=dilation)
        conv2 = _conv(out_channels, out_channels, standardise=standardise, dilation=dilation)
        self.first = _Activated(in_channels, conv1)
        self.second = _Activated(out_channels, conv2)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            projection = _conv(in_channels, out_channels, standardise=standardise, kernel=1)
            self.shortcut = _Activated(in_channels, projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, X, Y, Z) -> (B, out, X, Y, Z)."""
        return self.second(self.first(x)) + self.shortcut(x)


class SliceHead(nn.Module):
    """Classifies each axial slice as with or without tumour: (B, C, X/8, Y/8, Z/8) -> (B, Z) logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.GroupNorm(_GROUPS, channels), nn.ReLU())
        self.judge = nn.Sequential(nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, 1))

    def forward(self, bottleneck: torch.Tensor) -> torch.Tensor:
        """Average each coarse slice, repeat it for the 8 slices that it covers, and classify these."""
        mean = self.activate(bottleneck).mean((2, 3))  # (B, C, Z/8)
        fine = mean.repeat_interleave(STRIDE, dim=2)  # (B, C, Z)
        return self.judge(fine.transpose(1, 2)).squeeze(-1)  # (B, Z)


class DualTaskNet(nn.Module):
    """A U-Net that predicts segmentation and distance from the same features.

    Args:
        width: channels after the stem; 32 is the paper's, 8 runs on a laptop. A multiple of 8.
        standardise: standardise the weights of the encoder's and decoder's convolutions.
        projector: build the head for feature contrast.
        distance_head: build the head for the distance.
        slice_head: build the head for axial slices.
        recompute: keep only the activations between the levels and compute the others again in the backward pass
            (activation checkpointing): less memory and the same gradients for one more forward pass.

    Raises:
        ValueError: when the width is not a multiple of 8.

    Example:
        >>> net = DualTaskNet(width=8)
        >>> net(torch.rand(1, 1, 32, 32, 16)).distance.shape
        torch.Size([1, 1, 32, 32, 16])
    """

    def __init__(
        self,
        width: int = 32,
        *,
        standardise: bool = True,
        projector: bool = True,
        distance_head: bool = True,
        slice_head: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        if width < _GROUPS or width % _GROUPS:
            raise ValueError(f"width is {width}; choose a multiple of {_GROUPS} (GroupNorm has {_GROUPS} groups)")
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 8 * width

        def conv(a: int, b: int, stride: int = 1) -> nn.Conv3d:
            return _conv(a, b, standardise=standardise, stride=stride)

        def block(a: int, b: int, dilation: int = 1) -> Block:
            return Block(a, b, standardise=standardise, dilation=dilation)

        self.stem = conv(1, w1)
        self.encoder1 = block(w1, w1)
        self.encoder2 = nn.Sequential(_Activated(w1, conv(w1, w2, 2)), block(w2, w2), block(w2, w2))
        self.encoder3 = nn.Sequential(_Activated(w2, conv(w2, w3, 2)), block(w3, w3), block(w3, w3))
        self.encoder4 = nn.Sequential(_Activated(w3, conv(w3, w4, 2)), block(w4, w4), block(w4, w4))
        self.context = nn.Sequential(block(w4, w4, 2), block(w4, w4, 2))
        self.fuse = _Activated(w4, conv(w4, w3), dropout=0.1)
        self.decoder3 = block(w3, w2)
        self.decoder2 = block(w2, w1)
        self.decoder1 = block(w1, w1)
        self.seg_head = nn.Conv3d(w1, 1, 1)
        self.distance_head = nn.Conv3d(w1, 1, 1) if distance_head else None
        self.projector = nn.Conv3d(w4, EMBEDDING, 1) if projector else None
        self.slice_head = SliceHead(w4) if slice_head else None
        self._start_heads_near_zero()

    def _start_heads_near_zero(self) -> None:
        """Keep tanh out of saturation: standardised weights make the last features large (trap 10).

        The weights are not exactly zero, because then the features would get no gradient in the first step.
        """
        for head in (self.seg_head, self.distance_head):
            if head is not None:
                nn.init.normal_(head.weight, std=_HEAD_SPREAD)
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> Outputs:
        """Predict both tasks.

        Args:
            x: (B, 1, X, Y, Z) in [0, 1], each side a multiple of 8.

        Raises:
            ValueError: when x has another shape.
        """
        if x.ndim != 5 or x.shape[1] != 1:
            raise ValueError(f"input has shape {tuple(x.shape)}; give (B, 1, X, Y, Z)")
        if any(side % STRIDE for side in x.shape[2:]):
            raise ValueError(f"input has sides {tuple(x.shape[2:])}; pad each to a multiple of {STRIDE}")
        s1 = self._level(self.encoder1, self.stem(x))  # (B, w, X, Y, Z)
        s2 = self._level(self.encoder2, s1)  # (B, 2w, X/2, Y/2, Z/2)
        s3 = self._level(self.encoder3, s2)  # (B, 4w, X/4, Y/4, Z/4)
        bottleneck = self._level(self.context, self._level(self.encoder4, s3))  # (B, 8w, X/8, Y/8, Z/8)
        up = self.fuse(bottleneck)  # (B, 4w, X/8, Y/8, Z/8)
        up = self._level(self.decoder3, _upsample(up) + s3)  # (B, 2w, X/4, Y/4, Z/4)
        up = self._level(self.decoder2, _upsample(up) + s2)  # (B, w, X/2, Y/2, Z/2)
        up = self._level(self.decoder1, _upsample(up) + s1)  # (B, w, X, Y, Z)
        return Outputs(
            seg=self.seg_head(up),
            distance=None if self.distance_head is None else torch.tanh(self.distance_head(up)),
            embedding=None if self.projector is None else F.relu(self.projector(bottleneck)),
            slices=None if self.slice_head is None else self.slice_head(bottleneck),
        )

    def _level(self, level: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Run one level of the U-Net, with activation checkpointing when ``recompute`` is set."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(level, x, use_reentrant=False)
        return level(x)


def _upsample(x: torch.Tensor) -> torch.Tensor:
    """(B, C, X, Y, Z) -> (B, C, 2X, 2Y, 2Z), each voxel repeated."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
