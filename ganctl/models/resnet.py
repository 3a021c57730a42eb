"""The papers' residual generator and discriminator, at 32, 64 and 128 pixels.

Miyato et al. 2018, tables 4 and 6 (code: pfnet-research/sngan_projection), and with attention
Zhang et al. 2019 (code: brain-research/self-attention-gan). Classes enter G through conditional
batch norm and D through the projection of Miyato and Koyama 2018,
https://arxiv.org/abs/1802.05637, eq. 3.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from ganctl.models.attention import SelfAttention
from ganctl.models.layers import LayerOptions, conv, conv_pool, embedding, linear, upsample_conv

START = 4  # the smallest map of G is 4 x 4
SQRT2 = math.sqrt(2)  # the gain of residual 3 x 3 convolutions in the SNGAN authors' code


class Layout(NamedTuple):
    """Channels in units of the width."""

    g: list[int]  # of the 4 x 4 map, then after each block of G; each block doubles the map
    d: list[int]  # after each block of D
    d_halving: int  # so many of D's blocks halve the map; the last one only if asked to


LAYOUTS = {
    32: Layout([2, 2, 2, 2], [1, 1, 1, 1], 2),  # SNGAN table 4
    64: Layout([16, 8, 4, 2, 1], [1, 2, 4, 8, 16], 4),  # resnet_64.py, snresnet_64.py of pfnet
    128: Layout([16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16], 5),  # SNGAN table 6, SAGAN's code
}


class BatchNormOptions(NamedTuple):
    """What all batch norms of a generator have in common."""

    n_classes: int  # 0: not conditional
    eps: float
    momentum: float  # share of the newest batch in the running statistics


class Generator(nn.Module):
    """Latent vectors, and classes if conditional, to images."""

    def __init__(
        self,
        *,
        resolution: int,
        width: int,
        latent_dim: int,
        n_classes: int,
        attention_at: Sequence[int],
        attention_scaled: bool,
        attention_pooled: bool,
        batch_norm_eps: float,
        batch_norm_momentum: float,
        residual_gain: float,
        **options: Unpack[LayerOptions],
    ) -> None:
        """`resolution` is a key of LAYOUTS; n_classes 0 makes an unconditional network."""
        super().__init__()
        self.latent_dim, self.n_classes = latent_dim, n_classes
        norms = BatchNormOptions(n_classes, batch_norm_eps, batch_norm_momentum)
        channels = [width * units for units in LAYOUTS[resolution].g]
        self.stem = linear(latent_dim, channels[0] * START**2, **options)
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
        size = START
        for index, (c_in, c_out) in enumerate(pairwise(channels)):
            self.blocks.append(UpBlock(c_in, c_out, norms, residual_gain, **options))
            size *= 2
            if size in attention_at:
                self.attention[str(index)] = SelfAttention(
                    c_out, scaled=attention_scaled, pooled=attention_pooled, **options
                )
        self.norm = nn.BatchNorm2d(channels[-1], batch_norm_eps, batch_norm_momentum)
        self.to_rgb = conv(channels[-1], 3, 3, **options)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z: (B, latent_dim), standard normal -> images (B, 3, R, R).

        labels: (B,) int64, or (B, n_classes) shares of each class, to mix them.
        """
        x = self.stem(z).unflatten(1, (-1, START, START))  # (B, C, 4, 4)
        x = x.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x, labels)  # (B, C', 2H, 2W)
            if str(index) in self.attention:
                x = self.attention[str(index)](x)
        return self.to_rgb(relu(self.norm(x), inplace=True)).tanh()  # in [-1, 1]


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
        self.norm1 = _batch_norm(c_in, norms)
        self.conv1 = upsample_conv(c_in, c_out, 3, **residual)
        self.norm2 = _batch_norm(c_out, norms)
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
        self.norm = nn.BatchNorm2d(channels, norms.eps, norms.momentum, affine=False)
        self.scale = nn.Embedding(norms.n_classes, channels)
        self.shift = nn.Embedding(norms.n_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(B, C, H, W), (B,) or (B, n_classes) -> (B, C, H, W)."""
        if labels is None:
            raise ValueError("a conditional network needs labels")
        mixed = labels.is_floating_point()
        rows = [labels @ t.weight if mixed else t(labels) for t in (self.scale, self.shift)]
        scale, shift = (row[:, :, None, None] for row in rows)
        return torch.addcmul(shift.to(x.dtype), self.norm(x), scale.to(x.dtype))


class PlainBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that is told the labels and has no use for them."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x)


class Discriminator(nn.Module):
    """Images, and classes if conditional, to scores."""

    def __init__(
        self,
        *,
        resolution: int,
        width: int,
        n_classes: int,
        attention_at: Sequence[int],
        attention_scaled: bool,
        attention_pooled: bool,
        wide: bool,
        halve_last: bool,
        score_bias: bool,
        residual_gain: float,
        **options: Unpack[LayerOptions],
    ) -> None:
        """`wide` blocks widen in their first convolution, thin ones in their second.

        `halve_last` pools after the last block too.
        """
        super().__init__()
        layout = LAYOUTS[resolution]
        channels = [width * units for units in layout.d]
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
        self.blocks.append(FirstBlock(channels[0], residual_gain, **options))
        size = resolution
        for index, c_out in enumerate(channels):
            last = index == len(channels) - 1
            halve = halve_last if last else index < layout.d_halving
            if index > 0:
                c_in = channels[index - 1]
                hidden = c_out if wide else c_in
                block = DownBlock(c_in, hidden, c_out, halve, residual_gain, **options)
                self.blocks.append(block)
            size //= 2 if halve else 1
            if size in attention_at and halve:
                self.attention[str(index)] = SelfAttention(
                    c_out, scaled=attention_scaled, pooled=attention_pooled, **options
                )
        self.score = linear(channels[-1], 1, bias=score_bias, **options)
        self.projection = embedding(n_classes, channels[-1], **options) if n_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1]; labels: (B,) int64 -> scores (B,), unbounded."""
        x = images.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x)  # (B, C', H/2, W/2), or H, W at the end
            if str(index) in self.attention:
                x = self.attention[str(index)](x)
        exact = torch.promote_types(x.dtype, torch.float32)
        features = relu(x, inplace=True).sum((2, 3), dtype=exact)  # (B, C)
        scores: Tensor = self.score(features).squeeze(1)
        if self.projection is None:
            return scores
        if labels is None:
            raise ValueError("a conditional network needs labels")
        return scores + (self.projection(labels) * features).sum(1)


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


def least_weights(resolution: int, width: int, latent_dim: int, n_classes: int) -> tuple[int, int]:
    """What the weights of G and of D surely exceed: convolutions, G's stem, the classes' tables.

    For looking at a file before networks of its size are made.
    """
    layout = LAYOUTS[resolution]
    g, d = ([width * units for units in channels] for channels in (layout.g, layout.d))
    g_kernels = sum(9 * b * (a + b) for a, b in pairwise(g))
    d_kernels = 9 * d[0] ** 2 + sum(9 * a * (a + b) for a, b in pairwise(d))
    tables = 2 * n_classes * sum(a + b for a, b in pairwise(g))
    return g_kernels + latent_dim * g[0] * START**2 + tables, d_kernels + n_classes * d[-1]


def _batch_norm(channels: int, norms: BatchNormOptions) -> nn.Module:
    if norms.n_classes:
        return ConditionalBatchNorm2d(channels, norms)
    return PlainBatchNorm2d(channels, norms.eps, norms.momentum)
