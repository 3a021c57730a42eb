"""The layers all networks are built of: initialised, then spectrally normalised.

What a layer computes with is an attribute that holds a pure function: the library's here, and a
faster one where `swaps` puts it in.
"""

from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, leaky_relu, pixel_shuffle

from ganctl.models.spectral import EPS, Layer, add_spectral_norm
from ganctl.runtime import autocast_off

# x (B, C_in, H, W), weight (C_out, C_in, k, k), bias (C_out,) -> (B, C_out, H, W)
Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C_in, H, W) -> (B, C_out, H, W): zero padding of half the odd kernel."""
    return conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def plain_window_means(x: Tensor, padding: int) -> Tensor:
    """(B, C, H, W) -> means of all 2 x 2 windows: (B, C, H - 1, W - 1), or H + 1 with padding 1."""
    return avg_pool2d(x, 2, stride=1, padding=padding)


def plain_leaky_relu_pool(x: Tensor, slope: float) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2): LeakyReLU, then the means of 2 x 2."""
    return avg_pool2d(leaky_relu(x, slope), 2)


class LayerOptions(TypedDict, total=False):
    """How a layer's weights start, and whether they are normalised."""

    spectral_norm: bool  # default True
    eps: float  # of spectral norm
    orthogonal: bool  # orthogonal weights instead of Glorot's uniform ones
    gain: float  # what Glorot's weights are multiplied by


def conv(
    c_in: int, c_out: int, kernel: int, *, bias: bool = True, **options: Unpack[LayerOptions]
) -> nn.Conv2d:
    """A convolution that keeps H and W: (B, c_in, H, W) -> (B, c_out, H, W)."""
    return _ready(Conv2d(c_in, c_out, kernel, bias=bias), **options)


def upsample_conv(
    c_in: int, c_out: int, kernel: int, *, bias: bool = True, **options: Unpack[LayerOptions]
) -> "UpsampleConv2d":
    """Nearest-neighbour x 2, then a convolution: (B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
    return _ready(UpsampleConv2d(c_in, c_out, kernel, bias=bias), **options)


def conv_pool(c_in: int, c_out: int, **options: Unpack[LayerOptions]) -> "PooledConv2d":
    """A 3 x 3 convolution, then 2 x 2 average pooling: (B, c_in, H, W) -> (B, c_out, H/2, W/2)."""
    return _ready(PooledConv2d(c_in, c_out, 3, padding=1), **options)


def linear(
    features_in: int, features_out: int, *, bias: bool = True, **options: Unpack[LayerOptions]
) -> nn.Linear:
    """(B, features_in) -> (B, features_out)."""
    return _ready(nn.Linear(features_in, features_out, bias=bias), **options)


def head(features: int, *, bias: bool = True, **options: Unpack[LayerOptions]) -> "Head":
    """(B, features) -> (B, 1), in fp32 whatever the precision of the step."""
    return _ready(Head(features, 1, bias=bias), **options)


def embedding(n_classes: int, features: int, **options: Unpack[LayerOptions]) -> nn.Embedding:
    """(B,) classes -> (B, features)."""
    return _ready(nn.Embedding(n_classes, features), **options)


class Head(nn.Linear):
    """A linear layer that no autocast rounds: a score in bf16 has steps of a hundredth."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, features) -> (B, outputs)."""
        with autocast_off(x.device):
            return super().forward(x.to(self.weight.dtype))


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` of an odd kernel that keeps H and W."""

    convolve: Convolve = staticmethod(plain_convolution)

    def __init__(self, c_in: int, c_out: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.convolve(x, self.weight, self.bias)


class UpsampleConv2d(nn.Conv2d):
    """A 5 x 5 or 3 x 3 convolution of the twice up-sampled input, which is never up-sampled.

    After nearest-neighbour up-sampling the five taps of a row fall on only three source pixels:
    for even output pixels taps (0, 1), (2, 3), (4), for odd ones (0), (1, 2), (3, 4). Summing the
    taps that share a pixel gives a 3 x 3 kernel for each of the four output parities, so one
    3 x 3 convolution with 4 * C_out channels and a pixel shuffle compute the same function with
    36 multiplications a source pixel instead of 100. Zero padding agrees at the borders.

    With 3 x 3 another order is better. Up-sampling puts zeros between the pixels and then takes
    the sums of 2 x 2 windows, and these commute with the convolution. Done last, they leave a
    transposed convolution: 9 multiplications instead of 36.
    """

    folding: Tensor
    convolve: Convolve = staticmethod(plain_convolution)
    window_means: Callable[[Tensor, int], Tensor] = staticmethod(plain_window_means)

    def __init__(self, c_in: int, c_out: int, kernel: int, *, bias: bool = True) -> None:
        if kernel not in (3, 5):
            raise ValueError(f"the kernel must be 3 or 5, got {kernel}")
        super().__init__(c_in, c_out, kernel_size=kernel, padding=kernel // 2, bias=bias)
        row = torch.zeros(2, 3, 5)  # [output parity, source pixel, tap]
        for parity in range(2):
            for tap in range(5):
                row[parity, (parity + tap) // 2, tap] = 1
        both = torch.einsum("pai,qbj->pqabij", row, row)  # (2, 2, 3, 3, 5, 5)
        self.register_buffer("folding", both.reshape(36, 25), persistent=False)

    def phase_kernels(self) -> Tensor:
        """(4 * C_out, C_in, 3, 3): of a 5 x 5 kernel, one for each output channel and parity."""
        c_out, c_in = self.out_channels, self.in_channels
        taps = self.weight.reshape(c_out, c_in, 25)
        folded = self.folding @ taps.mT  # (C_out, 36, C_in)
        return folded.unflatten(1, (4, 9)).mT.reshape(4 * c_out, c_in, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, 2H, 2W)."""
        if self.kernel_size == (5, 5):
            bias = None if self.bias is None else self.bias.repeat_interleave(4)
            return pixel_shuffle(self.convolve(x, self.phase_kernels(), bias), 2)
        spread = 4 * self.weight.transpose(0, 1).flip(2, 3)  # 4, as a window's mean is its sum / 4
        y = self.window_means(conv_transpose2d(x, spread, stride=2), 0)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)


class PooledConv2d(nn.Conv2d):
    """A 3 x 3 convolution followed by 2 x 2 average pooling, which is done before: it commutes.

    Means of all 2 x 2 windows, at every position and over the border, and then the convolution
    with stride 2: 9 multiplications for each pooled pixel instead of 36. H and W are even.
    """

    window_means: Callable[[Tensor, int], Tensor] = staticmethod(plain_window_means)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/2, W/2)."""
        means = self.window_means(x, 1)  # (B, C_in, H + 1, W + 1)
        return conv2d(means, self.weight, self.bias, stride=2)


class LeakyReLUPool(nn.Module):
    """LeakyReLU, then 2 x 2 average pooling: (B, C, H, W) -> (B, C, H/2, W/2), H and W even."""

    activate_and_pool: Callable[[Tensor, float], Tensor] = staticmethod(plain_leaky_relu_pool)

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.activate_and_pool(x, self.slope)


def _ready(
    layer: Layer,
    *,
    spectral_norm: bool = True,
    eps: float = EPS,
    orthogonal: bool = False,
    gain: float = 1.0,
) -> Layer:
    """Weights by default Glorot's (Keras' default, and the SAGAN authors'), biases zero."""
    for name, parameter in layer.named_parameters():
        if name != "weight":
            nn.init.zeros_(parameter)
        elif orthogonal:
            nn.init.orthogonal_(parameter)
        else:
            nn.init.xavier_uniform_(parameter, gain)
    return add_spectral_norm(layer, eps) if spectral_norm else layer
