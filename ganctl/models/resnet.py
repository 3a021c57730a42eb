"""The papers' residual generator and discriminator, at 32, 64 and 128 pixels.

Miyato et al. 2018, tables 4 and 6 (code: pfnet-research/sngan_projection), and with attention
Zhang et al. 2019 (code: brain-research/self-attention-gan). Classes enter G through conditional
batch norm and D through the projection of Miyato and Koyama 2018,
https://arxiv.org/abs/1802.05637, eq. 3.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ganctl.models import architecture
from ganctl.models.architecture import Architecture
from ganctl.models.attention import SelfAttention
from ganctl.models.batch_norm import BatchNorm2d
from ganctl.models.bounds import POOLING, UPSAMPLING, Piece, batch_norm_bound
from ganctl.models.folding import without_sigma
from ganctl.models.layers import LayerOptions, conv, embedding, head, linear
from ganctl.models.residual_blocks import BatchNormOptions, DownBlock, FirstBlock, UpBlock
from ganctl.models.san import direction
from ganctl.settings.sections import DataConfig, ResnetConfig

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


class Generator(architecture.Generator):
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
        self.norm = BatchNorm2d(channels[-1], batch_norm_eps, batch_norm_momentum)
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


class Discriminator(architecture.Discriminator):
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
        sliced: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        """`wide` blocks widen in their first convolution, thin ones in their second.

        `halve_last` pools after the last block too; `sliced` makes the last layer a direction
        (san.py).
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
        last_layer = direction if sliced else head
        self.score = last_layer(channels[-1], bias=score_bias, **options)
        self.projection = embedding(n_classes, channels[-1], **options) if n_classes else None

    def features(self, images: Tensor) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1] -> (B, C): sums over the last map."""
        x = images.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x)  # (B, C', H/2, W/2), or H, W at the end
            if str(index) in self.attention:
                x = self.attention[str(index)](x)
        exact = torch.promote_types(x.dtype, torch.float32)
        return relu(x, inplace=True).sum((2, 3), dtype=exact)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1]; labels: (B,) int64 -> scores (B,), unbounded."""
        features = self.features(images)
        scores: Tensor = self.score(features).squeeze(1)
        if self.projection is None:
            return scores
        if labels is None:
            raise ValueError("a conditional network needs labels")
        return scores + (self.projection(labels) * features).sum(1)


def build(model: ResnetConfig, data: DataConfig, n_classes: int) -> tuple[Generator, Discriminator]:
    """New networks; ValueError if the model is conditional and there are no classes."""
    if model.conditional and n_classes < 1:
        raise ValueError("a conditional model needs classes")
    layout: dict[str, Any] = {
        "resolution": data.resolution,
        "width": model.width,
        "attention_at": model.attention.at,
        "attention_scaled": model.attention.scaled,
        "attention_pooled": model.attention.pooled,
        "n_classes": n_classes if model.conditional else 0,
        "residual_gain": SQRT2 if model.initial == "glorot-sqrt2" else 1.0,
        "orthogonal": model.initial == "orthogonal",
        "eps": model.spectral_norm_eps,
    }
    generator = Generator(
        latent_dim=model.latent_dim,
        batch_norm_eps=model.batch_norm_eps,
        batch_norm_momentum=model.batch_norm_momentum,
        spectral_norm=model.g_spectral_norm,
        **layout,
    )
    discriminator = Discriminator(
        wide=model.d_wide,
        halve_last=model.d_halve_last,
        score_bias=model.d_score_bias,
        sliced=model.san,
        spectral_norm=model.d_spectral_norm,
        **layout,
    )
    return generator, discriminator


def least_weights(model: ResnetConfig, data: DataConfig, n_classes: int) -> tuple[int, int]:
    """What the weights of G and of D surely exceed: convolutions, G's stem, the classes' tables.

    For looking at a file before networks of its size are made.
    """
    layout, classes = LAYOUTS[data.resolution], n_classes if model.conditional else 0
    g, d = ([model.width * units for units in channels] for channels in (layout.g, layout.d))
    g_kernels = sum(9 * b * (a + b) for a, b in pairwise(g))
    d_kernels = 9 * d[0] ** 2 + sum(9 * a * (a + b) for a, b in pairwise(d))
    tables = 2 * classes * sum(a + b for a, b in pairwise(g))
    return g_kernels + model.latent_dim * g[0] * START**2 + tables, d_kernels + classes * d[-1]


def pieces(
    network: nn.Module, norms: Mapping[str, float], sides: Mapping[str, int]
) -> Iterator[Piece]:
    """The chain of either network."""
    if isinstance(network, Generator):
        return _of_generator(network, norms)
    assert isinstance(network, Discriminator)
    return _of_discriminator(network, norms, sides)


def _of_generator(generator: Generator, norms: Mapping[str, float]) -> Iterator[Piece]:
    yield Piece("stem", norms["stem"])
    for index, block in enumerate(generator.blocks):
        assert isinstance(block, UpBlock)
        name = f"blocks.{index}"
        convs = norms[f"{name}.conv1"] * norms[f"{name}.conv2"]
        branch = block.norm1.bound() * block.norm2.bound() * UPSAMPLING * convs
        yield Piece(name, norms[f"{name}.shortcut"] * UPSAMPLING + branch)
        yield from _attention(generator.attention, index)
    yield Piece("norm", batch_norm_bound(generator.norm))
    yield Piece("to_rgb", norms["to_rgb"])


def _of_discriminator(
    discriminator: Discriminator, norms: Mapping[str, float], sides: Mapping[str, int]
) -> Iterator[Piece]:
    for index, block in enumerate(discriminator.blocks):
        assert isinstance(block, FirstBlock | DownBlock)
        name = f"blocks.{index}"
        pooling = POOLING if isinstance(block, FirstBlock) or block.halve else 1.0
        shortcut = 1.0 if block.shortcut is None else norms[f"{name}.shortcut"]
        branch = norms[f"{name}.conv1"] * norms[f"{name}.conv2"]
        yield Piece(name, pooling * (shortcut + branch))
        yield from _attention(discriminator.attention, index)
    last = len(discriminator.blocks) - 1
    side = sides[f"blocks.{last}.conv2"] // (2 if discriminator.blocks[last].halve else 1)
    yield Piece("sum pooling", side)
    # For a given class the score is one inner product: with the row of `score` plus the class's.
    row: Tensor = discriminator.score.weight
    if discriminator.projection is not None:
        row = row + discriminator.projection.weight
    yield Piece("score and projection", row.norm(dim=1).max().item())


def _attention(blocks: nn.ModuleDict, index: int) -> Iterator[Piece]:
    if str(index) in blocks:
        yield Piece(f"attention.{index}", None)


# Batch norm stands behind sums, or depends on the class: only sigma can be folded in.
ARCHITECTURE = Architecture(Generator, Discriminator, build, least_weights, without_sigma, pieces)
