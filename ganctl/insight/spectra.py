"""What a network's weights do, by exact linear algebra. Nothing is changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganctl.errors import CheckpointError
from ganctl.insight.operator_norms import (
    Bounds,
    largest_norm,
    singular_values,
    zero_padded_norm,
)
from ganctl.models import Discriminator, Generator
from ganctl.models.attention import SelfAttention
from ganctl.models.layers import UpsampleConv2d
from ganctl.models.san import Direction, directions
from ganctl.models.spectral import SpectralNorm, normalized_weights


@dataclass(frozen=True)
class LayerSpectrum:
    """What is known of one layer, its weight seen as (C_out, the rest)."""

    network: str  # "g" or "d"; "" in a foreign file
    layer: str
    shape: tuple[int, ...]
    normalized: bool  # whether the layer is spectrally normalised
    sigma_estimate: float | None  # u' W v from the stored u and v; None without normalisation
    singular_values: list[float]  # of the raw weight W, largest first
    sigma_in_use: float  # largest singular value of the weight that the layer computes with
    stable_rank: float  # |W|_F^2 / sigma^2: how many directions the weight really uses
    side: int | None  # of the maps that a convolution is applied to; None if there are none
    norm: Bounds | None  # of the weight in use, as a map of images or vectors; None: not looked at
    gamma: float | None  # of the attention block whose output layer this is; else None

    @property
    def name(self) -> str:
        """For example d.stages.0.conv."""
        return f"{self.network}.{self.layer}" if self.network else self.layer

    @property
    def error(self) -> float:
        """How far a normalised weight's norm is from 1; 0 for the others, which promise nothing."""
        return abs(self.sigma_in_use - 1) if self.normalized else 0.0


@torch.no_grad()
def layer_spectra(
    network: nn.Module, name: str, sides: dict[str, int] | None = None
) -> Iterator[LayerSpectrum]:
    """One entry for each convolution, linear layer and normalised table.

    `sides` are those of `map_sides`; without them no convolution is looked at as a map of images,
    which takes most of the time. The network may be on any device; its weights are looked at in
    fp64 on the CPU, which not every device has.
    """
    found: list[tuple[str, Tensor, SpectralNorm | Direction]]
    found = [*normalized_weights(network), *directions(network)]
    norms = {layer: (raw, norm) for layer, raw, norm in found}
    gammas = {
        f"{layer}.output": module.gamma.item()
        for layer, module in network.named_modules()
        if isinstance(module, SelfAttention)
    }
    for layer, weight in weighted_layers(network):
        raw, norm = norms.get(layer, (weight, None))
        estimate = None if norm is None else norm.sigma(raw).cpu()
        side = None if sides is None else sides.get(layer)
        as_map = None if side is None else zero_padded_norm(weight.cpu(), side)
        yield _spectrum(name, layer, raw.cpu(), estimate, side, as_map, gammas.get(layer))


@torch.no_grad()
def weight_spectrum(
    layer: str, weight: Tensor, estimate: Tensor | None, as_map: bool
) -> LayerSpectrum:
    """What a layer does of which only the raw weight and the estimate of sigma are known.

    As a map of images it is only bounded from above: the maps' size, the stride and the groups are
    not known. The tensors are on the CPU.
    """
    norm = None
    if as_map and weight.dim() > 2:
        norm = Bounds(0.0, largest_norm(weight / _divisor(layer, estimate)))
    return _spectrum("", layer, weight, estimate, None, norm, None)


def _spectrum(
    network: str,
    layer: str,
    raw: Tensor,
    estimate: Tensor | None,
    side: int | None,
    norm: Bounds | None,
    gamma: float | None,
) -> LayerSpectrum:
    """`norm` is that of a convolution as a map of images, if it was looked at as one."""
    values = singular_values(raw)
    divisor = _divisor(layer, estimate)
    in_use = values[0].item() / divisor
    return LayerSpectrum(
        network=network,
        layer=layer,
        shape=tuple(raw.shape),
        normalized=estimate is not None,
        sigma_estimate=None if estimate is None else divisor,
        singular_values=values.tolist(),
        sigma_in_use=in_use,
        stable_rank=stable_rank(values),
        side=side,
        norm=Bounds(in_use, in_use) if raw.dim() == 2 else norm,
        gamma=gamma,
    )


def _divisor(layer: str, estimate: Tensor | None) -> float:
    """What the raw weight is divided by; CheckpointError if by zero, as a weight of zeros is."""
    if estimate is not None and estimate == 0:
        raise CheckpointError(f"layer {layer} is divided by a spectral norm of zero")
    return 1.0 if estimate is None else estimate.item()


def weighted_layers(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Convolutions, linear layers, and what else is normalised, with their weights in use."""
    normalized = {layer for layer, _, _ in normalized_weights(network)}
    layers: list[tuple[str, Tensor]] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding) and (
            name in normalized or not isinstance(module, nn.Embedding)
        ):
            layers.append((name, module.weight))
    return layers


def stable_rank(values: Tensor) -> float:
    """|W|_F^2 / sigma^2 from all singular values, largest first; 0 for a weight of zeros."""
    return (values.square().sum() / values[0].square()).item() if values[0] > 0 else 0.0


def map_sides(network: Generator | Discriminator, resolution: int) -> dict[str, int]:
    """The side of the maps that each convolution is applied to: after up-sampling, before pooling.

    Found by following one input through, which on a CPU takes less than importing what follows
    shapes alone. The network stays as it is.
    """
    sides: dict[str, int] = {}

    def record(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            side = inputs[0].shape[-1] * (2 if isinstance(module, UpsampleConv2d) else 1)
            if isinstance(module, SelfAttention):
                sides.update({f"{layer}.{name}": side for name in SelfAttention.JOINED})
            else:
                sides[layer] = side

        return hook

    hooks = [
        module.register_forward_hook(record(layer))
        for layer, module in network.named_modules()
        if isinstance(module, nn.Conv2d | SelfAttention)
    ]
    training, device = network.training, next(network.parameters()).device
    labels = torch.zeros(1, dtype=torch.long, device=device)
    network.eval()
    with torch.no_grad():
        if isinstance(network, Generator):
            network(torch.zeros(1, network.latent_dim, device=device), labels)
        else:
            network(torch.zeros(1, 3, resolution, resolution, device=device), labels)
    network.train(training)
    for hook in hooks:
        hook.remove()
    return sides
