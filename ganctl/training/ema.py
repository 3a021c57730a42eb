"""The exponential moving average of the generator's weights, from which samples are drawn.

SAGAN used none; the reproduction with the best published FID (mmgeneration) does.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from ganctl.models.spectral import power_iterate

Network = TypeVar("Network", bound=nn.Module)

RAMP = 0.1  # early on, the half-life is at most this share of the images seen so far


def average_of(generator: Network) -> Network:
    """A copy to be kept up to date with `update`; in eval mode and without gradients."""
    return copy.deepcopy(generator).eval().requires_grad_(False)


def decay(half_life: float, images: int, batch_size: int) -> float:
    """The factor for one update: after `half_life` images a weight's share has halved.

    While few images have been seen the half-life is a tenth of them, so that the average follows
    the first steps instead of remembering the initial weights.
    """
    return float(0.5 ** (batch_size / max(min(half_life, RAMP * images), 1e-8)))


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * generator, in fp32.

    Weights are averaged; batch-norm statistics are copied. The spectral norm's u and v are neither:
    they belong to the averaged weights, so the average has its own and advances them itself
    (averaging unit vectors shortens them, which would inflate every weight).
    """
    for kept, live in zip(average.parameters(), generator.parameters(), strict=True):
        kept.lerp_(live, 1 - decay)
    for module, live_module in zip(average.modules(), generator.modules(), strict=True):
        if isinstance(module, nn.BatchNorm2d):
            for name, statistic in live_module.named_buffers(recurse=False):
                module.get_buffer(name).copy_(statistic)
    power_iterate(average)
