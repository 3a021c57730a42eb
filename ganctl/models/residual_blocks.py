"""The blocks of the papers' residual networks, and their batch norm, with classes or without."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from ganctl.models.batch_norm import BatchNorm2d
from ganctl.models.bounds import batch_norm_bound
from ganctl.models.layers import LayerOptions, conv, conv_pool, upsample_conv
from ganctl.runtime import autocast_off


class BatchNormOptions(NamedTuple):
    """What all batch norms of a generator have in common."""

    n_classes: int  # 0: not conditional
    eps: float
    momentum: float  # share of the newest batch in the running statistics


class UpBlock(nn.Module):
    """Two convolutions, each after batch norm and ReLU, the first of the up-sampled maps.

    The shortcut's 1 x 1 convolution commutes with up-sampling, so it is done before.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        norms: BatchNormOptions,
        residual_gain: float,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__()
        residual: LayerOptions = {**options, "gain": residual_gain}
        self.norm1 = batch_norm(c_in, norms)
        self.conv1 = upsample_conv(c_in, c_out, 3, **residual)
        self.norm2 = batch_norm(c_out, norms)
        self.conv2 = conv(c_out, c_out, 3, **residual)
        self.shortcut = conv(c_in, c_out, 1, **options)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
        h = self.conv1(relu(self.norm1(x, labels), inplace=True))
        h = self.conv2(relu(self.norm2(h, labels), inplace=True))
        return h + interpolate(self.shortcut(x), scale_factor=2)


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose scale and shift are rows of tables, one row a class; without spectral norm.

    Unconditional with n_classes 0. The tables start at 1 and 0 (SAGAN's code, ops.py). Spectral
    norm on them is a known cause of failed reproductions.
    """

    def __init__(self, channels: int, norms: BatchNormOptions) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, norms.eps, norms.momentum, affine=False)
        self.scale = nn.Embedding(norms.n_classes, channels)
        self.shift = nn.Embedding(norms.n_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(B, C, H, W), (B,) or (B, n_classes) -> (B, C, H, W)."""
        if labels is None:
            raise ValueError("a conditional network needs labels")
        mixed = labels.is_floating_point()
        with autocast_off(x.device):  # in the tables' precision: bf16 has no gain from 1 to 1.008
            rows = [labels @ t.weight if mixed else t(labels) for t in (self.scale, self.shift)]
            scale, shift = (row[:, :, None, None] for row in rows)
            return torch.addcmul(shift, self.norm(x), scale).to(x.dtype)

    def bound(self) -> float:
        """How much it stretches at most in eval mode, whatever the class."""
        return batch_norm_bound(self.norm, self.scale.weight)


class PlainBatchNorm2d(BatchNorm2d):
    """Batch norm that is given the labels and has no use for them."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x)

    def bound(self) -> float:
        """How much it stretches at most in eval mode."""
        return batch_norm_bound(self)


class FirstBlock(nn.Module):
    """The images' own block: no ReLU before the first convolution."""

    def __init__(self, c_out: int, residual_gain: float, **options: Unpack[LayerOptions]) -> None:
        super().__init__()
        residual: LayerOptions = {**options, "gain": residual_gain}
        self.conv1 = conv(3, c_out, 3, **residual)
        self.conv2 = conv_pool(c_out, c_out, **residual)
        self.shortcut = conv(3, c_out, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, c_out, H/2, W/2)."""
        return self.conv2(relu(self.conv1(x), inplace=True)) + self.shortcut(avg_pool2d(x, 2))


class DownBlock(nn.Module):
    """Two convolutions, each after a ReLU, and pooling if it halves the map.

    The shortcut takes x itself, so the first ReLU must not be in place. Its 1 x 1 convolution
    commutes with pooling, so it is done after; there is none where nothing changes in shape.
    """

    def __init__(
        self,
        c_in: int,
        hidden: int,
        c_out: int,
        halve: bool,
        residual_gain: float,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__()
        residual: LayerOptions = {**options, "gain": residual_gain}
        self.halve = halve
        self.conv1 = conv(c_in, hidden, 3, **residual)
        self.conv2 = (
            conv_pool(hidden, c_out, **residual) if halve else conv(hidden, c_out, 3, **residual)
        )
        learned = halve or c_in != c_out
        self.shortcut = conv(c_in, c_out, 1, **options) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/2, W/2) or (B, c_out, H, W)."""
        h = self.conv2(relu(self.conv1(relu(x)), inplace=True))
        x = avg_pool2d(x, 2) if self.halve else x
        return h + (x if self.shortcut is None else self.shortcut(x))


def batch_norm(channels: int, norms: BatchNormOptions) -> ConditionalBatchNorm2d | PlainBatchNorm2d:
    """With classes or without."""
    if norms.n_classes:
        return ConditionalBatchNorm2d(channels, norms)
    return PlainBatchNorm2d(channels, norms.eps, norms.momentum)
