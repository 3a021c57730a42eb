"""The networks. Only the functions here know the configuration; classes take plain arguments."""

from typing import Any

import torch

from ganctl.models import convnet, resnet
from ganctl.settings.config import ConvnetConfig, DataConfig, ModelConfig, ResnetConfig

Generator = convnet.Generator | resnet.Generator
Discriminator = convnet.Discriminator | resnet.Discriminator


def build_networks(
    model: ModelConfig, data: DataConfig, stream: torch.Generator, n_classes: int = 0
) -> tuple[Generator, Discriminator]:
    """G and D on the CPU, initialised from `stream`; torch's own random state is left as it was.

    A conditional model needs n_classes of at least 1; the others ignore it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream.initial_seed())
        if model.architecture == "convnet":
            return _convnets(model, data)
        return _resnets(model, data, n_classes)


def least_weights(model: ModelConfig, data: DataConfig, n_classes: int = 0) -> tuple[int, int]:
    """Numbers of weights that G and D of `model` surely exceed, without making them."""
    if model.architecture == "convnet":
        return convnet.least_weights(data.resolution, model.width, model.latent_dim)
    classes = n_classes if model.conditional else 0
    return resnet.least_weights(data.resolution, model.width, model.latent_dim, classes)


def _convnets(
    model: ConvnetConfig, data: DataConfig
) -> tuple[convnet.Generator, convnet.Discriminator]:
    layout = _layout(model, data)
    generator = convnet.Generator(
        latent_dim=model.latent_dim, spectral_norm=model.g_spectral_norm, **layout
    )
    return generator, convnet.Discriminator(spectral_norm=model.d_spectral_norm, **layout)


def _resnets(
    model: ResnetConfig, data: DataConfig, n_classes: int
) -> tuple[resnet.Generator, resnet.Discriminator]:
    if model.conditional and n_classes < 1:
        raise ValueError("a conditional model needs classes")
    layout = {
        **_layout(model, data),
        "n_classes": n_classes if model.conditional else 0,
        "residual_gain": resnet.SQRT2 if model.initial == "glorot-sqrt2" else 1.0,
        "orthogonal": model.initial == "orthogonal",
        "eps": model.spectral_norm_eps,
    }
    generator = resnet.Generator(
        latent_dim=model.latent_dim,
        batch_norm_eps=model.batch_norm_eps,
        batch_norm_momentum=model.batch_norm_momentum,
        spectral_norm=model.g_spectral_norm,
        **layout,
    )
    discriminator = resnet.Discriminator(
        wide=model.d_wide,
        halve_last=model.d_halve_last,
        score_bias=model.d_score_bias,
        spectral_norm=model.d_spectral_norm,
        **layout,
    )
    return generator, discriminator


def _layout(model: ModelConfig, data: DataConfig) -> dict[str, Any]:
    """What all networks have in common."""
    return {
        "resolution": data.resolution,
        "width": model.width,
        "attention_at": model.attention.at,
        "attention_scaled": model.attention.scaled,
        "attention_pooled": model.attention.pooled,
    }
