"""A generator with everything constant folded into its weights once: for sampling only.

In eval mode batch norm is an affine map of each channel, and sigma a number: both disappear into
the weights of the layer before. What is left of the article's generator is one convolution a stage.
In the papers' generators batch norm stands behind sums, or depends on the class: only sigma goes.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.models import Generator, convnet, resnet
from ganctl.models.attention import SelfAttention
from ganctl.models.convnet import START, UpStage
from ganctl.models.layers import UpsampleConv2d
from ganctl.models.spectral import Layer, normalized_weights
from ganctl.models.winograd import Conv2d


@torch.no_grad()
def fold(generator: Generator) -> nn.Module:
    """A network that maps its input as `generator.eval()` does; `generator` stays as it is.

    z: (B, latent_dim), and labels if conditional -> images (B, 3, R, R) in [-1, 1], channels last.
    Equal up to rounding.
    """
    if isinstance(generator, resnet.Generator):
        return _without_sigma(generator)
    return _folded_convnet(generator)


def _without_sigma(generator: resnet.Generator) -> resnet.Generator:
    """A copy whose raw weights are the normalised ones, and are used as they are."""
    plain = copy.deepcopy(generator)
    for name, raw, norm in list(normalized_weights(plain)):
        raw.copy_(norm(raw))
        layer: Any = plain.get_submodule(name)
        layer.parametrizations["weight"][0] = nn.Identity()
    return plain.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _folded_convnet(generator: convnet.Generator) -> nn.Sequential:
    norm = generator.stem_norm[0]
    assert isinstance(norm, nn.BatchNorm2d)
    layers: list[nn.Module] = [
        _folded_linear(generator.stem, norm),
        nn.Unflatten(1, (norm.num_features, START, START)),
        nn.ReLU(inplace=True),
    ]
    for stage in generator.stages:
        assert isinstance(stage, UpStage)
        layers += [*_folded_upsampling(stage.conv, stage.norm), nn.ReLU(inplace=True)]
        if stage.attention is not None:
            layers.append(_plain_attention(stage.attention))
    layers += [*_folded_upsampling(generator.to_rgb, None), nn.Tanh()]
    folded = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    return folded.eval().requires_grad_(False)


def _affine(norm: nn.BatchNorm2d | None, channels: int) -> tuple[Tensor, Tensor]:
    """What batch norm in eval mode does to each channel: x -> scale * x + shift."""
    if norm is None:
        return torch.ones(channels), torch.zeros(channels)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def _folded_linear(linear: nn.Linear, norm: nn.BatchNorm2d) -> nn.Linear:
    """`linear`, its output seen as maps of START x START, and then `norm`."""
    scale, shift = (part.repeat_interleave(START**2) for part in _affine(norm, norm.num_features))
    folded = nn.Linear(linear.in_features, linear.out_features)
    return _filled(folded, scale[:, None] * linear.weight, shift)


def _folded_upsampling(layer: UpsampleConv2d, norm: nn.BatchNorm2d | None) -> list[nn.Module]:
    """`layer` and then `norm`, as one 3 x 3 convolution and a pixel shuffle."""
    scale, shift = _affine(norm, layer.out_channels)
    if layer.bias is not None:
        shift = shift + scale * layer.bias
    folded = Conv2d(layer.in_channels, 4 * layer.out_channels, 3)
    weight = scale.repeat_interleave(4)[:, None, None, None] * layer.phase_kernels()
    return [_filled(folded, weight, shift.repeat_interleave(4)), nn.PixelShuffle(2)]


def _filled(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    layer.get_parameter("weight").copy_(weight)
    layer.get_parameter("bias").copy_(bias)
    return layer


def _plain_attention(attention: SelfAttention) -> SelfAttention:
    """The same block without parametrizations: its weights are the normalised ones."""
    plain = SelfAttention(
        attention.query.in_channels,
        scaled=attention.scaled,
        pooled=attention.pooled,
        spectral_norm=False,
    )
    for name in ("query", "key", "value", "output"):
        plain.get_parameter(f"{name}.weight").copy_(getattr(attention, name).weight)
    plain.gamma.copy_(attention.gamma)
    return plain
