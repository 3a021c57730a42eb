"""The exponential moving average of the generator's weights, from which samples are drawn.

SAGAN used none; the reproduction with the best published FID (mmgeneration) does.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from ganctl.models.spectral import restart

Network = TypeVar("Network", bound=nn.Module)

RAMP = 0.1  # early on, the half-life is at most this share of the images seen so far


def average_of(generator: Network) -> Network:
    """A copy to be kept up to date with `update`; in eval mode and without gradients."""
    return copy.deepcopy(generator).eval().requires_grad_(False)


def decay(half_life: float, step: int, batch_size: int) -> float:
    """The factor for update number `step` of G: after `half_life` images a share has halved.

    Images are counted by G's updates, `batch_size` each, however often D is updated between them.
    While few have been seen the half-life is a tenth of them, so that the average follows the first
    steps instead of remembering the initial weights.
    """
    return float(0.5 ** (batch_size / max(min(half_life, RAMP * step * batch_size), 1e-8)))


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * generator, in fp32.

    Weights, and batch norm's running means and variances, as in BigGAN's PyTorch code: those of the
    last batches belong to the last weights, not to the average. The spectral norm's u and v are not
    averaged (that shortens unit vectors, which would inflate every weight): `ready` finds those of
    the averaged weights when they are used.
    """
    ours, theirs = (
        [*network.parameters(), *statistics(network)] for network in (average, generator)
    )
    torch._foreach_lerp_(ours, theirs, 1 - decay)


def ready(average: nn.Module, generator: nn.Module) -> None:
    """Before the average is used or saved: u and v of its own weights.

    A function of both networks' weights and of the generator's u and v, so that a run is the same
    however often its average is looked at.
    """
    restart(average, generator)


def statistics(network: nn.Module) -> list[torch.Tensor]:
    """The running means and variances of all batch norms, which are not learned."""
    norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    found = ((norm.running_mean, norm.running_var) for norm in norms)
    return [tensor for pair in found for tensor in pair if tensor is not None]
