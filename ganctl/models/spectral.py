"""Spectral normalisation: Miyato et al. 2018, https://arxiv.org/abs/1802.05957, Algorithm 1.

A weight W is used as W / sigma, where sigma = u' W v estimates the largest singular value of W
reshaped to (C_out, everything else). Two rules keep training reproducible, and both differ from
`torch.nn.utils.parametrizations.spectral_norm`, which iterates whenever the weight is looked at:

- reading `layer.weight` is pure: it uses the stored u and v and changes nothing;
- `power_iterate(network)` advances u and v; training calls it once per update of that network.

So logging, sampling, inspecting and saving cannot change a run.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)

EPS = 1e-12  # guards the division in a unit vector, as in both papers' code
START_ITERATIONS = 15  # u and v start as good estimates, so that the first step is normalised


class SpectralNorm(nn.Module):
    """The map W -> W / (u' W v), in fp32 whatever the precision of the step.

    u: (C_out,) and v: (C_in * k_h * k_w,), both of unit norm. Gradients treat them as constants,
    as the SNGAN authors' code does; SAGAN's differentiates through the iteration, which is the same
    at convergence. A weight of all zeros has no direction and gives NaN.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", normalize(torch.randn_like(matrix[:, 0]), dim=0, eps=self.eps))
        self.register_buffer("v", normalize(torch.randn_like(matrix[0]), dim=0, eps=self.eps))
        for _ in range(START_ITERATIONS):
            self.iterate(weight)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One power iteration: v <- W'u / |W'u|, then u <- W v / |W v|."""
        matrix = weight.flatten(1)
        self.v.copy_(normalize(matrix.mT @ self.u, dim=0, eps=self.eps))
        self.u.copy_(normalize(matrix @ self.v, dim=0, eps=self.eps))

    def sigma(self, weight: Tensor) -> Tensor:
        """(): the estimate u' W v of the largest singular value, which is never above it."""
        with _autocast_off(weight.device):
            return torch.dot(self.u, weight.flatten(1) @ self.v)

    def forward(self, weight: Tensor) -> Tensor:
        """W -> W / sigma, same shape."""
        return weight / self.sigma(weight)


class NormalizedWeight(NamedTuple):
    """One spectrally normalised weight of a network."""

    layer: str  # the layer's name in the network, for example "stages.0.conv"
    weight: nn.Parameter  # the raw weight, before the division
    norm: SpectralNorm


def add_spectral_norm(layer: Layer, eps: float = EPS) -> Layer:
    """Normalise `layer.weight` from now on. Initialise the weight before, never after."""
    weight = layer.get_parameter("weight")
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, eps))
    return layer


def normalized_weights(network: nn.Module) -> Iterator[NormalizedWeight]:
    """All spectrally normalised weights of `network`, in the order of its modules."""
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrization = module.parametrizations["weight"]
            if isinstance(parametrization[0], SpectralNorm):
                yield NormalizedWeight(name, parametrization.original, parametrization[0])


def power_iterate(network: nn.Module) -> None:
    """Advance u and v of every normalised weight by one iteration; call once per update."""
    for _, weight, norm in normalized_weights(network):
        norm.iterate(weight)


def _autocast_off(device: torch.device) -> AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device.type):  # the meta device has none
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
