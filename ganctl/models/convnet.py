"""The article's generator and discriminator, mended: plain 5 x 5 convolutions and attention.

At resolution 64 and width 64 these are the article's layers, with attention at 32 x 32 in both
networks as its text says (its code put the discriminator's at 8 x 8), spectral norm on every
convolution and linear layer, and batch norm over channels instead of over 8,192 positions.
Other resolutions follow the same layout; above 64 px the channels stop growing at 8 * width.
Self-modulation is not the article's, and off unless it is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ganctl.models import architecture
from ganctl.models.architecture import Architecture
from ganctl.models.attention import SelfAttention
from ganctl.models.batch_norm import BatchNorm2d
from ganctl.models.bounds import POOLING, UPSAMPLING, Piece, batch_norm_bound
from ganctl.models.folding import (
    folded_linear,
    folded_upsampling,
    plain_attention,
    without_sigma,
)
from ganctl.models.layers import LeakyReLUPool, conv, head, linear, upsample_conv
from ganctl.models.san import direction
from ganctl.models.self_modulation import MappingNetwork, ModulatedBatchNorm2d
from ganctl.settings.sections import ConvnetConfig, DataConfig

START = 4  # the smallest map of both networks is 4 x 4
WIDEST = 8  # no map has more than 8 * width channels
SLOPE = 0.2  # of LeakyReLU, as in the article


class AttentionOptions(TypedDict):
    """What every attention block of a network has in common."""

    scaled: bool
    pooled: bool
    spectral_norm: bool


class Generator(architecture.Generator):
    """Latent vectors to images: linear, then one `UpStage` for each doubling up to half size."""

    n_classes = 0  # it knows no classes

    def __init__(
        self,
        *,
        resolution: int,
        width: int,
        latent_dim: int,
        attention_at: Sequence[int],
        attention_scaled: bool,
        attention_pooled: bool,
        spectral_norm: bool = True,
        self_modulation: bool = False,
    ) -> None:
        """`resolution` is a power of two from 16; `width` the channels at half of it.

        With `self_modulation` the latent vector scales and shifts each map (self_modulation.py).
        """
        super().__init__()
        self.latent_dim = latent_dim
        style_dim = latent_dim if self_modulation else None
        options = AttentionOptions(
            scaled=attention_scaled, pooled=attention_pooled, spectral_norm=spectral_norm
        )
        c_in = _channels(START, resolution, width)
        self.mapping = MappingNetwork(latent_dim) if self_modulation else None
        self.stem = linear(latent_dim, c_in * START**2, bias=False, spectral_norm=spectral_norm)
        self.stem_norm = nn.Sequential(_batch_norm(c_in, style_dim), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        size = START
        while size < resolution // 2:
            size *= 2
            c_out = _channels(size, resolution, width)
            self.stages.append(UpStage(c_in, c_out, options, size in attention_at, style_dim))
            c_in = c_out
        self.to_rgb = upsample_conv(c_in, 3, 5, spectral_norm=spectral_norm)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z: (B, latent_dim), standard normal -> images (B, 3, R, R) in [-1, 1]; no labels."""
        style = None if self.mapping is None else self.mapping(z)
        x = self.stem(z if style is None else style).unflatten(1, (-1, START, START))
        x = x.contiguous(memory_format=torch.channels_last)  # (B, C, 4, 4)
        norm, activation = self.stem_norm
        x = activation(_normalized(norm, x, style))
        for stage in self.stages:
            x = stage(x, style)  # (B, C/2, 2H, 2W)
        return self.to_rgb(x).tanh()  # (B, 3, R, R)


class UpStage(nn.Module):
    """Up-sample, convolve, batch norm, ReLU, and self-attention if asked for."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        options: AttentionOptions,
        with_attention: bool,
        style_dim: int | None = None,
    ) -> None:
        super().__init__()
        normalized = options["spectral_norm"]
        self.conv = upsample_conv(c_in, c_out, 5, bias=False, spectral_norm=normalized)
        self.norm = _batch_norm(c_out, style_dim)
        self.attention = SelfAttention(c_out, **options) if with_attention else None

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, 2H, 2W); style: (B, style_dim) if it is modulated."""
        x = relu(_normalized(self.norm, self.conv(x), style), inplace=True)
        return x if self.attention is None else self.attention(x)


class Discriminator(architecture.Discriminator):
    """Images to scores: one `DownStage` for each halving down to 4 x 4, then linear."""

    def __init__(
        self,
        *,
        resolution: int,
        width: int,
        attention_at: Sequence[int],
        attention_scaled: bool,
        attention_pooled: bool,
        spectral_norm: bool = True,
        sliced: bool = False,
    ) -> None:
        """`resolution` is a power of two from 16; `width` the channels at half of it.

        `sliced` makes the last layer a direction (san.py).
        """
        super().__init__()
        options = AttentionOptions(
            scaled=attention_scaled, pooled=attention_pooled, spectral_norm=spectral_norm
        )
        self.stages = nn.ModuleList()
        c_in, size = 3, resolution
        while size > START:
            size //= 2
            c_out = _channels(size, resolution, width)
            self.stages.append(DownStage(c_in, c_out, options, size in attention_at))
            c_in = c_out
        last_layer = direction if sliced else head
        self.score = last_layer(c_in * START**2, spectral_norm=spectral_norm)

    def features(self, images: Tensor) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1] -> (B, C * 4 * 4)."""
        x = images
        for stage in self.stages:
            x = stage(x)  # (B, 2C, H/2, W/2)
        return x.flatten(1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1] -> scores (B,), unbounded, higher is more real."""
        return self.score(self.features(images)).squeeze(1)


class DownStage(nn.Module):
    """Convolve, LeakyReLU, average pooling, and self-attention if asked for."""

    def __init__(
        self, c_in: int, c_out: int, options: AttentionOptions, with_attention: bool
    ) -> None:
        super().__init__()
        self.conv = conv(c_in, c_out, 5, spectral_norm=options["spectral_norm"])
        self.pool = LeakyReLUPool(SLOPE)
        self.attention = SelfAttention(c_out, **options) if with_attention else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/2, W/2)."""
        x = self.pool(self.conv(x))
        return x if self.attention is None else self.attention(x)


def build(
    model: ConvnetConfig, data: DataConfig, n_classes: int
) -> tuple[Generator, Discriminator]:
    """New networks; they know no classes."""
    layout: dict[str, Any] = {
        "resolution": data.resolution,
        "width": model.width,
        "attention_at": model.attention.at,
        "attention_scaled": model.attention.scaled,
        "attention_pooled": model.attention.pooled,
    }
    generator = Generator(
        latent_dim=model.latent_dim,
        spectral_norm=model.g_spectral_norm,
        self_modulation=model.self_modulation,
        **layout,
    )
    discriminator = Discriminator(spectral_norm=model.d_spectral_norm, sliced=model.san, **layout)
    return generator, discriminator


def least_weights(model: ConvnetConfig, data: DataConfig, n_classes: int) -> tuple[int, int]:
    """What the weights of G and of D surely exceed: their 5 x 5 kernels, and G's stem.

    For looking at a file before networks of its size are made.
    """
    halvings = (data.resolution // START).bit_length() - 1
    sizes = [START * 2**n for n in range(halvings)]  # 4 ... R/2
    channels = [_channels(size, data.resolution, model.width) for size in sizes]
    kernels = sum(25 * a * b for a, b in zip(channels, [*channels[1:], 3], strict=True))
    return kernels + model.latent_dim * channels[0] * START**2, kernels


def fold(generator: Generator) -> nn.Module:
    """One convolution a stage, with batch norm and sigma in its weights.

    With self-modulation batch norm depends on the latent vector: only sigma can be folded in.
    """
    if generator.mapping is not None:
        return without_sigma(generator)
    norm = generator.stem_norm[0]
    assert isinstance(norm, nn.BatchNorm2d)
    layers: list[nn.Module] = [
        folded_linear(generator.stem, norm),
        nn.Unflatten(1, (norm.num_features, START, START)),
        nn.ReLU(inplace=True),
    ]
    for stage in generator.stages:
        assert isinstance(stage, UpStage) and isinstance(stage.norm, nn.BatchNorm2d)
        layers += [*folded_upsampling(stage.conv, stage.norm), nn.ReLU(inplace=True)]
        if stage.attention is not None:
            layers.append(plain_attention(stage.attention))
    layers += [*folded_upsampling(generator.to_rgb, None), nn.Tanh()]
    return nn.Sequential(*layers)


def pieces(
    network: nn.Module, norms: Mapping[str, float], sides: Mapping[str, int]
) -> Iterator[Piece]:
    """The chain of either network."""
    if isinstance(network, Generator):
        if network.mapping is not None:
            yield Piece("mapping", None)  # the image depends on it by products, too
        yield Piece("stem", norms["stem"])
        yield Piece("stem_norm", _bound(network.stem_norm[0]))
    assert isinstance(network, Generator | Discriminator)
    for index, stage in enumerate(network.stages):
        name = f"stages.{index}"
        if isinstance(stage, UpStage):
            yield Piece(f"{name} up-sampling", UPSAMPLING)
            yield Piece(f"{name}.conv", norms[f"{name}.conv"])
            yield Piece(f"{name}.norm", _bound(stage.norm))
        else:
            yield Piece(f"{name}.conv", norms[f"{name}.conv"])
            yield Piece(f"{name} pooling", POOLING)
        if stage.attention is not None:
            yield Piece(f"{name}.attention", None)
    if isinstance(network, Generator):
        yield Piece("to_rgb up-sampling", UPSAMPLING)
        yield Piece("to_rgb", norms["to_rgb"])
    else:
        yield Piece("score", norms["score"])


def _batch_norm(channels: int, style_dim: int | None) -> nn.Module:
    if style_dim is None:
        return BatchNorm2d(channels)
    return ModulatedBatchNorm2d(channels, style_dim)


def _normalized(norm: nn.Module, x: Tensor, style: Tensor | None) -> Tensor:
    normalized: Tensor = norm(x) if style is None else norm(x, style)
    return normalized


def _bound(norm: nn.Module) -> float | None:
    """None with self-modulation: its factors grow with the latent vector."""
    return None if isinstance(norm, ModulatedBatchNorm2d) else batch_norm_bound(norm)


def _channels(size: int, resolution: int, width: int) -> int:
    """Channels of the maps at size x size: width at half the resolution, doubling downwards."""
    return width * min(resolution // 2 // size, WIDEST)


ARCHITECTURE = Architecture(Generator, Discriminator, build, least_weights, fold, pieces)
