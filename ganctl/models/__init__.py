"""The networks. Only `build_networks` knows the configuration; the classes take plain arguments."""

from typing import Any

import torch

from ganctl.config import DataConfig, ModelConfig
from ganctl.models import convnet

Generator = convnet.Generator
Discriminator = convnet.Discriminator
ARCHITECTURES = {"convnet": convnet}


def build_networks(
    model: ModelConfig, data: DataConfig, stream: torch.Generator
) -> tuple[Generator, Discriminator]:
    """G and D on the CPU, initialised from `stream`; torch's own random state is left as it was."""
    networks = ARCHITECTURES[model.architecture]
    layout: dict[str, Any] = {
        "resolution": data.resolution,
        "width": model.width,
        "attention_at": model.attention.at,
        "attention_scaled": model.attention.scaled,
        "attention_pooled": model.attention.pooled,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream.initial_seed())
        generator = networks.Generator(
            latent_dim=model.latent_dim, spectral_norm=model.g_spectral_norm, **layout
        )
        discriminator = networks.Discriminator(spectral_norm=model.d_spectral_norm, **layout)
    return generator, discriminator


def least_weights(model: ModelConfig, data: DataConfig) -> tuple[int, int]:
    """Numbers of weights that G and D of `model` surely exceed, without making them."""
    networks = ARCHITECTURES[model.architecture]
    return networks.least_weights(data.resolution, model.width, model.latent_dim)
