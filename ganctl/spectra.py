"""The singular values of a network's layers, by exact linear algebra. Nothing is changed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganctl.models.attention import SelfAttention
from ganctl.models.spectral import normalized_weights


@dataclass(frozen=True)
class LayerSpectrum:
    """What is known of one layer with weights, its weight seen as (C_out, the rest)."""

    network: str  # "g" or "d"
    layer: str
    shape: tuple[int, ...]
    normalized: bool  # whether the layer is spectrally normalised
    sigma_estimate: float | None  # u' W v from the stored u and v; None without normalisation
    singular_values: list[float]  # of the raw weight W, largest first
    sigma_in_use: float  # largest singular value of the weight that the layer computes with
    stable_rank: float  # |W|_F^2 / sigma^2: how many directions the weight really uses
    gamma: float | None  # of the attention block whose output layer this is; else None

    @property
    def ratio(self) -> float | None:
        """Estimated over exact sigma: 1 if power iteration has converged, never above it."""
        return (
            None if self.sigma_estimate is None else self.sigma_estimate / self.singular_values[0]
        )

    @property
    def error(self) -> float:
        """How far a normalised weight's norm is from 1; 0 for the others, which promise nothing."""
        return abs(self.sigma_in_use - 1) if self.normalized else 0.0


@torch.no_grad()
def layer_spectra(network: nn.Module, name: str, top_k: int) -> Iterator[LayerSpectrum]:
    """One entry for each convolution, linear layer and normalised table."""
    norms = {layer: (raw, norm) for layer, raw, norm in normalized_weights(network)}
    gammas = {
        f"{layer}.output": module.gamma.item()
        for layer, module in network.named_modules()
        if isinstance(module, SelfAttention)
    }
    for layer, module in network.named_modules():
        if not (isinstance(module, nn.Conv2d | nn.Linear) or layer in norms):
            continue
        raw, norm = norms.get(layer, (module.weight, None))
        values = singular_values(raw)
        yield LayerSpectrum(
            network=name,
            layer=layer,
            shape=tuple(raw.shape),
            normalized=norm is not None,
            sigma_estimate=None if norm is None else norm.sigma(raw).item(),
            singular_values=values[:top_k].tolist(),
            sigma_in_use=values[0].item()
            if norm is None
            else singular_values(module.weight)[0].item(),
            stable_rank=(values.square().sum() / values[0].square()).item(),
            gamma=gammas.get(layer),
        )


def singular_values(weight: Tensor) -> Tensor:
    """(min(C_out, rest),) float64, largest first."""
    return torch.linalg.svdvals(weight.detach().flatten(1).double())
