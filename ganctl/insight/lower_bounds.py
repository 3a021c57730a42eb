"""How much a network stretches the difference of two inputs at least: found, not bounded.

Any two inputs a and b give |f(a) - f(b)| / |a - b|, which the network's Lipschitz constant is not
below. Good ones are searched by gradient ascent, near each other: b = a + e d with |d| = 1. The
gradient of log |f(a) - f(b)| with respect to d is the next direction, which is power iteration with
the Jacobian, and a follows the gradient with respect to a. Attention takes part.

The search is in fp32; the best pair is measured in fp64.
"""

import copy

import torch
from torch import Tensor

from ganctl.models import Discriminator, Generator
from ganctl.models.folding import without_sigma
from ganctl.runtime import random_stream

STARTS, STEPS = 4, 30
CHOOSING = 10  # steps that all starts make; the others are made by the best one alone
DISTANCE = 0.02  # between two inputs, in their own units
TRAVEL = 0.04  # of a's values in the first step, on average; it falls to nothing
LARGEST = 3.0  # of a latent's values; those of images are in [-1, 1]


def lower_bound(network: Generator | Discriminator, resolution: int, n_classes: int) -> float:
    """The best quotient found, over images in [-1, 1] for D and over latents for G, on the CPU.

    Both inputs of a conditional network are of one class.
    """
    shape, most = [STARTS, 3, resolution, resolution], 1.0
    if isinstance(network, Generator):
        shape, most = [STARTS, network.latent_dim], LARGEST
    with torch.no_grad():
        plain = without_sigma(network)  # so that sigma is not computed at every step
    assert isinstance(plain, Generator | Discriminator)
    labels = torch.arange(STARTS) % n_classes if n_classes else None
    a = torch.randn(shape, generator=random_stream(0, "stretch")).clamp(-most / 2, most / 2)
    d = _unit(torch.randn(shape, generator=random_stream(0, "direction")))
    best, pair = torch.zeros(STARTS), (a, d)
    for step in range(STEPS):
        quotients, along_a, along_d = _gradients(plain, a, d, labels)
        better = quotients > best
        best = torch.where(better, quotients, best)
        pair = (_chosen(better, a, pair[0]), _chosen(better, d, pair[1]))
        travel = TRAVEL * (1 - step / STEPS) * a[0].numel() ** 0.5
        a = (a + travel * _unit(along_a)).clamp(DISTANCE - most, most - DISTANCE)
        d = _unit(along_d)
        if step == CHOOSING - 1:
            one = best.argmax()[None]
            a, d, best, pair = a[one], d[one], best[one], (pair[0][one], pair[1][one])
            labels = None if labels is None else labels[one]
    return _measured(plain, *pair, labels)


def _gradients(
    network: Generator | Discriminator, a: Tensor, d: Tensor, labels: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """|f(a) - f(b)| / |a - b| (B,), and the gradients of its logarithm."""
    with torch.enable_grad():
        a, d = a.clone().requires_grad_(), d.clone().requires_grad_()
        away = _away(network, a + DISTANCE * d, a, labels)
        lengths = away.norm(dim=1)
        along_a, along_d = torch.autograd.grad(lengths.clamp(min=1e-30).log().sum(), (a, d))
    return lengths.detach() / DISTANCE, along_a, along_d


@torch.no_grad()
def _measured(
    network: Generator | Discriminator, a: Tensor, d: Tensor, labels: Tensor | None
) -> float:
    exact = copy.deepcopy(network).double()
    one, other = a.double(), a.double() + DISTANCE * d.double()
    away = _away(exact, other, one, labels).norm(dim=1)
    return (away / (other - one).reshape(len(a), -1).norm(dim=1)).max().item()


def _away(
    network: Generator | Discriminator, other: Tensor, one: Tensor, labels: Tensor | None
) -> Tensor:
    """(B, ...): by how much the results for two inputs differ; both are computed together."""
    twice = None if labels is None else labels.repeat(2)
    results = network(torch.cat([other, one]), twice).reshape(2, len(one), -1)
    return results[0] - results[1]


def _unit(x: Tensor) -> Tensor:
    """Each of a batch made to length 1; what has none, or no finite one, stays without effect."""
    lengths = x.reshape(len(x), -1).norm(dim=1).clamp(min=1e-30)
    return (x / lengths.reshape(-1, *[1] * (x.dim() - 1))).nan_to_num(0, 0, 0)


def _chosen(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.reshape(-1, *[1] * (new.dim() - 1)), new, old)
