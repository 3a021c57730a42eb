"""The networks. An architecture is one record; the functions here look it up."""

from collections.abc import Mapping

import torch
from torch import nn

from ganctl.models import convnet, folding, resnet
from ganctl.models.architecture import Architecture, Discriminator, Generator
from ganctl.models.bounds import Piece
from ganctl.settings.sections import DataConfig, ModelConfig

__all__ = [
    "ARCHITECTURES", "Discriminator", "Generator", "architecture_of", "build_networks", "fold",
    "least_weights", "pieces",
]  # fmt: skip

ARCHITECTURES = {"convnet": convnet.ARCHITECTURE, "resnet": resnet.ARCHITECTURE}


def build_networks(
    model: ModelConfig, data: DataConfig, stream: torch.Generator, n_classes: int = 0
) -> tuple[Generator, Discriminator]:
    """G and D on the CPU, initialised from `stream`; torch's own random state is left as it was.

    A conditional model needs n_classes of at least 1; the others ignore it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream.initial_seed())
        return ARCHITECTURES[model.architecture].build(model, data, n_classes)


def least_weights(model: ModelConfig, data: DataConfig, n_classes: int = 0) -> tuple[int, int]:
    """Numbers of weights that G and D of `model` surely exceed, without making them."""
    return ARCHITECTURES[model.architecture].least_weights(model, data, n_classes)


def architecture_of(network: nn.Module) -> Architecture:
    """The record of the architecture that `network` is of; TypeError if there is none."""
    for architecture in ARCHITECTURES.values():
        if type(network) in (architecture.generator, architecture.discriminator):
            return architecture
    raise TypeError(f"{type(network).__qualname__} is of no known architecture")


@torch.no_grad()
def fold(generator: Generator) -> nn.Module:
    """A network that maps its input as `generator.eval()` does; `generator` stays as it is.

    z: (B, latent_dim), and labels if conditional -> images (B, 3, R, R) in [-1, 1], channels last.
    Equal up to rounding; on the same device. For sampling only.
    """
    return folding.frozen(architecture_of(generator).fold(generator))


@torch.no_grad()
def pieces(
    network: Generator | Discriminator, norms: Mapping[str, float], sides: Mapping[str, int]
) -> list[Piece]:
    """The chain of `network`, whose bounds multiply to that of the whole.

    `norms`: what each layer's map stretches at most; `sides`: of the maps that it works on.
    """
    return list(architecture_of(network).pieces(network, norms, sides))
