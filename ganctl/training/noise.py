"""What the generator is given in training: a pure function of the seed and the position."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganctl.runtime import random_stream, upload
from ganctl.settings.config import Config


class Noise(NamedTuple):
    """The arguments of a generator."""

    z: Tensor  # (B, latent_dim)
    labels: Tensor | None  # (B,) int64; None without classes


def noise(
    config: Config,
    n_classes: int,
    count: int,
    device: torch.device,
    purpose: str,
    *position: int,
) -> Noise:
    """Latents, and classes that are all equally likely (as in both papers' code), on `device`."""
    z = upload(latents(config, count, f"{purpose} latents", *position), device)
    if n_classes == 0:
        return Noise(z, None)
    stream = random_stream(config.train.seed, f"{purpose} labels", *position)
    return Noise(z, upload(torch.randint(n_classes, (count,), generator=stream), device))


def latents(config: Config, count: int, purpose: str, *position: int) -> Tensor:
    """(count, latent_dim) on the CPU: standard normal."""
    stream = random_stream(config.train.seed, purpose, *position)
    return torch.randn(count, config.model.latent_dim, generator=stream)
