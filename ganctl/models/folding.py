"""Everything constant folded into the weights before it: what the architectures' `fold` share.

In eval mode batch norm is an affine map of each channel, and sigma a number: both can disappear
into the weights of the layer before. All is made on the device of the network that is folded.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.models.attention import SelfAttention
from ganctl.models.layers import Conv2d, UpsampleConv2d
from ganctl.models.spectral import Layer, normalized_weights


def without_sigma(network: nn.Module) -> nn.Module:
    """A copy whose raw weights are the normalised ones, and are used as they are."""
    plain = copy.deepcopy(network)
    for name, raw, norm in list(normalized_weights(plain)):
        raw.copy_(norm(raw))
        layer: Any = plain.get_submodule(name)
        layer.parametrizations["weight"][0] = nn.Identity()
    return plain


def folded_linear(linear: nn.Linear, norm: nn.BatchNorm2d) -> nn.Linear:
    """`linear`, its output seen as maps of `norm`'s channels, and then `norm`."""
    each = linear.out_features // norm.num_features
    scale, shift = (part.repeat_interleave(each) for part in _affine(norm, linear.weight))
    with torch.device("meta"):
        folded = nn.Linear(linear.in_features, linear.out_features)
    return _filled(folded, scale[:, None] * linear.weight, shift)


def folded_upsampling(layer: UpsampleConv2d, norm: nn.BatchNorm2d | None) -> list[nn.Module]:
    """`layer` and then `norm`, as one 3 x 3 convolution and a pixel shuffle."""
    scale, shift = _affine(norm, layer.weight)
    if layer.bias is not None:
        shift = shift + scale * layer.bias
    with torch.device("meta"):
        folded = Conv2d(layer.in_channels, 4 * layer.out_channels, 3)
    weight = scale.repeat_interleave(4)[:, None, None, None] * layer.phase_kernels()
    return [_filled(folded, weight, shift.repeat_interleave(4)), nn.PixelShuffle(2)]


def plain_attention(attention: SelfAttention) -> SelfAttention:
    """The same block without parametrizations: its weights are the normalised ones."""
    with torch.device("meta"):
        plain = SelfAttention(
            attention.query.in_channels,
            scaled=attention.scaled,
            pooled=attention.pooled,
            spectral_norm=False,
        )
    plain.gamma = _kept(attention.gamma)
    for name in ("query", "key", "value", "output"):
        getattr(plain, name).weight = _kept(getattr(attention, name).weight)
    return plain


def frozen(network: nn.Module) -> nn.Module:
    """`network` itself, for use and nothing else: in eval mode, channels last."""
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _affine(norm: nn.BatchNorm2d | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What batch norm in eval mode does to each channel: x -> scale * x + shift.

    Without one, 1 and 0 for each row of `weight`.
    """
    if norm is None:
        return weight.new_ones(len(weight)), weight.new_zeros(len(weight))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def _filled(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    """`layer`, made on the meta device so that no random numbers are drawn, with these values."""
    layer.weight, layer.bias = _kept(weight), _kept(bias)
    return layer


def _kept(values: Tensor) -> nn.Parameter:
    """Values of a layer's own. `Module.to_empty` instead would import half of torch's compiler."""
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format))
