"""Poolings with a backward pass of their own: the library's values and gradients, sooner.

Both can be derived twice, so that gradient penalties go through.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, leaky_relu


def window_means(x: Tensor, padding: int) -> Tensor:
    """(B, C, H, W) -> means of all 2 x 2 windows: (B, C, H - 1, W - 1), or H + 1 with padding 1.

    Each pixel's gradient is in turn the mean over the windows it lies in: the same pooling with the
    other padding, which the library does several times faster than its own backward pass.
    """
    means: Tensor = _WindowMeans.apply(x, padding)
    return means


def leaky_relu_pool(x: Tensor, slope: float) -> Tensor:
    """LeakyReLU and 2 x 2 average pooling: (B, C, H, W) -> (B, C, H/2, W/2), H and W even.

    One full map is kept for the backward pass instead of two, and the gradient is written once.
    """
    pooled: Tensor = _LeakyReLUPool.apply(x, slope)
    return pooled


class _WindowMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        return avg_pool2d(x, 2, stride=1, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return window_means(gradient, 1 - ctx.padding), None


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
