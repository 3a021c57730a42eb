"""The layers both networks are built of: Glorot-initialised, then spectrally normalised."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pixel_shuffle

from ganctl.models.spectral import Layer, add_spectral_norm
from ganctl.models.winograd import Conv2d, convolve


def conv(
    c_in: int, c_out: int, kernel: int, *, bias: bool = True, spectral_norm: bool = True
) -> nn.Conv2d:
    """A convolution that keeps H and W: (B, c_in, H, W) -> (B, c_out, H, W)."""
    return _ready(Conv2d(c_in, c_out, kernel, bias=bias), spectral_norm)


def upsample_conv(
    c_in: int, c_out: int, *, bias: bool = True, spectral_norm: bool = True
) -> "UpsampleConv2d":
    """Nearest-neighbour x 2, then a 5 x 5 convolution: (B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
    return _ready(UpsampleConv2d(c_in, c_out, bias=bias), spectral_norm)


def linear(
    features_in: int, features_out: int, *, bias: bool = True, spectral_norm: bool = True
) -> nn.Linear:
    """(B, features_in) -> (B, features_out)."""
    return _ready(nn.Linear(features_in, features_out, bias=bias), spectral_norm)


class UpsampleConv2d(nn.Conv2d):
    """A 5 x 5 convolution of the twice up-sampled input, computed without up-sampling it.

    After nearest-neighbour up-sampling the five taps of a row fall on only three source pixels:
    for even output pixels taps (0, 1), (2, 3), (4), for odd ones (0), (1, 2), (3, 4). Summing the
    taps that share a pixel gives a 3 x 3 kernel for each of the four output parities, so one
    3 x 3 convolution with 4 * C_out channels and a pixel shuffle compute the same function with
    9/25 of the multiplications. Zero padding agrees at the borders.
    """

    folding: Tensor

    def __init__(self, c_in: int, c_out: int, *, bias: bool = True) -> None:
        super().__init__(c_in, c_out, kernel_size=5, padding=2, bias=bias)
        row = torch.zeros(2, 3, 5)  # [output parity, source pixel, tap]
        for parity in range(2):
            for tap in range(5):
                row[parity, (parity + tap) // 2, tap] = 1
        both = torch.einsum("pai,qbj->pqabij", row, row)
        self.register_buffer("folding", both.reshape(36, 25), persistent=False)

    def phase_kernels(self) -> Tensor:
        """(4 * C_out, C_in, 3, 3): one kernel for each output channel and parity."""
        c_out, c_in = self.out_channels, self.in_channels
        taps = self.weight.reshape(c_out, c_in, 25)
        folded = self.folding.reshape(4, 9, 25) @ taps.mT[:, None]  # (C_out, 4, 9, C_in)
        return folded.mT.reshape(4 * c_out, c_in, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, 2H, 2W)."""
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return pixel_shuffle(convolve(x, self.phase_kernels(), bias), 2)


class LeakyReLUPool(nn.Module):
    """LeakyReLU, then 2 x 2 average pooling: (B, C, H, W) -> (B, C, H/2, W/2), H and W even.

    One full map is kept for the backward pass instead of two, and the gradient is written once.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = _LeakyReLUPool.apply(x, self.slope)
        return pooled


class _LeakyReLUPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        activated = leaky_relu(x, slope)
        ctx.save_for_backward(activated)
        ctx.slope = slope
        return avg_pool2d(activated, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Made of differentiable operations, so that gradient penalties can go through."""
        (activated,) = ctx.saved_tensors
        windows = activated.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, H/2, 2, W/2, 2)
        gradient = gradient.contiguous(memory_format=_layout(activated))
        share = (gradient / 4)[:, :, :, None, :, None].expand_as(windows)
        # The output's sign is the input's; the gradient is spread and masked in one pass.
        spread = torch.ops.aten.leaky_relu_backward(share, windows, ctx.slope, True)
        return spread.flatten(4, 5).flatten(2, 3), None


def _layout(maps: Tensor) -> torch.memory_format:
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _ready(layer: Layer, spectral_norm: bool) -> Layer:
    """Glorot uniform weights and zero biases (Keras' default, and the SAGAN authors')."""
    for name, parameter in layer.named_parameters():
        if name == "weight":
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return add_spectral_norm(layer) if spectral_norm else layer
