"""Spectral normalisation: Miyato et al. 2018, https://arxiv.org/abs/1802.05957, Algorithm 1.

A weight W is used as W / sigma, where sigma = u' W v estimates the largest singular value of W
reshaped to (C_out, everything else). Two rules keep training reproducible, and both differ from
`torch.nn.utils.parametrizations.spectral_norm`, which iterates whenever the weight is looked at:

- reading `layer.weight` is pure: it uses the stored u and v and changes nothing;
- `power_iterate(network)` advances u and v; training calls it once per update of that network.

So logging, sampling, inspecting and saving cannot change a run. A pass through a network divides
all its weights at once: `with normalized(network):`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from ganctl.runtime import autocast_off

Layer = TypeVar("Layer", bound=nn.Module)

EPS = 1e-12  # guards the division in a unit vector, as in both papers' code
START_ITERATIONS = 15  # u and v start as good estimates, so that the first step is normalised


class SpectralNorm(nn.Module):
    """The map W -> W / (u' W v), in fp32 whatever the precision of the step.

    u: (C_out,) and v: (C_in * k_h * k_w,), both of unit norm. Gradients treat them as constants,
    as the SNGAN authors' code does; SAGAN's differentiates through the iteration, which is the same
    at convergence. A weight of all zeros has no direction: there is no dividing it.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.divided: Tensor | None = None  # W / sigma, while `normalized` is entered
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", normalize(torch.randn_like(matrix[:, 0]), dim=0, eps=self.eps))
        self.register_buffer("v", normalize(torch.randn_like(matrix[0]), dim=0, eps=self.eps))
        iterate([NormalizedWeight("", weight, self)], START_ITERATIONS)

    def sigma(self, weight: Tensor) -> Tensor:
        """(): the estimate u' W v of the largest singular value, which is never above it."""
        with autocast_off(weight.device):
            return torch.dot(self.u, weight.flatten(1) @ self.v)

    def forward(self, weight: Tensor) -> Tensor:
        """W -> W / sigma, same shape."""
        return weight / self.sigma(weight) if self.divided is None else self.divided


class NormalizedWeight(NamedTuple):
    """One spectrally normalised weight of a network."""

    layer: str  # the layer's name in the network, for example "stages.0.conv"
    weight: Tensor  # the raw weight, before the division
    norm: SpectralNorm


def add_spectral_norm(layer: Layer, eps: float = EPS) -> Layer:
    """Normalise `layer.weight` from now on. Initialise the weight before, never after."""
    weight = layer.get_parameter("weight")
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, eps))
    return layer


def normalized_weights(network: nn.Module) -> Iterator[NormalizedWeight]:
    """All spectrally normalised weights of `network`, in the order of its modules."""
    for name, module in network.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            norm = module[0]
            if isinstance(norm, SpectralNorm):
                layer = name.removesuffix(".parametrizations.weight")
                yield NormalizedWeight(layer, module.original, norm)


def _channels_last(weight: Tensor) -> Tensor:
    """A kernel in the layout that maps have; other weights as they are."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight


@torch.no_grad()
def iterate(found: Sequence[NormalizedWeight], iterations: int = 1) -> list[Tensor]:
    """For all weights together: v <- W'u / |W'u|, then u <- W v / |W v|; returns the last |W v|."""
    if not found:
        return []
    sigmas: list[Tensor] = []
    norms = [norm for _, _, norm in found]
    matrices = [weight.detach().flatten(1) for _, weight, _ in found]
    us, vs, eps = [n.u for n in norms], [n.v for n in norms], [n.eps for n in norms]
    with autocast_off(us[0].device):
        for _ in range(iterations):
            _store(vs, [torch.mv(m.mT, u) for m, u in zip(matrices, us, strict=True)], eps)
            mapped = [torch.mv(m, v) for m, v in zip(matrices, vs, strict=True)]
            sigmas = _store(us, mapped, eps)
    return sigmas


def power_iterate(network: nn.Module) -> list[Tensor]:
    """Advance u and v of every normalised weight, once per update; the sigmas () that follow.

    They come for nothing: with u = W v / |W v|, u' W v is |W v|.
    """
    return iterate(list(normalized_weights(network)))


@torch.no_grad()
def restart(network: nn.Module, like: nn.Module) -> None:
    """Give `network` u and v for its own weights, whatever its u and v were before.

    They start from those of `like`, a network of the same layers whose weights are near.
    """
    own, others = (list(normalized_weights(n)) for n in (network, like))
    if own:
        kept = [buffer for _, _, norm in own for buffer in (norm.u, norm.v)]
        torch._foreach_copy_(kept, [b for _, _, norm in others for b in (norm.u, norm.v)])
        iterate(own, START_ITERATIONS)


@contextmanager
def normalized(network: nn.Module, sigmas: list[Tensor] | None = None) -> Iterator[None]:
    """For one forward pass (or several with the same weights): every weight is divided once.

    Inside, `layer.weight` is one tensor that all its readers share. Weights must not change before
    the end; gradients may be taken inside or after it, once. `sigmas` are those that
    `power_iterate` returned, if weights have not changed since.
    """
    found = list(normalized_weights(network))
    if found:
        norms = [norm for _, _, norm in found]
        us, vs = [norm.u for norm in norms], [norm.v for norm in norms]
        divided = _Divide.apply(us, vs, sigmas, *(weight for _, weight, _ in found))
        for norm, weight in zip(norms, divided, strict=True):
            norm.divided = weight
    try:
        yield
    finally:
        for _, _, norm in found:
            norm.divided = None


class _Divide(torch.autograd.Function):
    """W / (u' W v) for all weights of a network in few operations, and its gradient.

    With G the gradient of the divided weight, that of W is (G - <G, W / sigma> u v') / sigma.
    """

    @staticmethod
    def forward(
        ctx: Any,
        us: Sequence[Tensor],
        vs: Sequence[Tensor],
        sigmas: list[Tensor] | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        if sigmas is None:
            with autocast_off(weights[0].device):
                mapped = [torch.mv(w.flatten(1), v) for w, v in zip(weights, vs, strict=True)]
                sigmas = [torch.dot(u, m) for u, m in zip(us, mapped, strict=True)]
        divided = tuple(torch._foreach_div(weights, sigmas))
        if weights[0].device.type == "cuda":  # cuDNN would else turn each around at every use
            divided = tuple(_channels_last(weight) for weight in divided)
        ctx.save_for_backward(*divided, *sigmas, *us, *vs)
        return divided

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        divided, sigmas, us, vs = (list(islice(saved, len(gradients))) for _ in range(4))
        with autocast_off(gradients[0].device):
            along = [
                torch.dot(g.flatten(), w.flatten()) for g, w in zip(gradients, divided, strict=True)
            ]
            scaled = torch._foreach_mul(us, along)
            matrices = [
                g.flatten(1).addr(u, v, alpha=-1)
                for g, u, v in zip(gradients, scaled, vs, strict=True)
            ]
        torch._foreach_div_(matrices, sigmas)
        shaped = (m.view_as(w) for m, w in zip(matrices, divided, strict=True))
        return None, None, None, *shaped


def _store(buffers: list[Tensor], vectors: list[Tensor], eps: list[float]) -> list[Tensor]:
    """Put `vectors`, made to unit norm, into `buffers`; their lengths, each ()."""
    lengths = torch._foreach_norm(vectors)
    torch._foreach_clamp_min_(lengths, eps)
    torch._foreach_div_(vectors, lengths)
    torch._foreach_copy_(buffers, vectors)
    return list(lengths)
