"""The article's networks and training step as a competent user would write them in plain PyTorch.

NCHW, the library's spectral norm, attention by bmm and softmax, interpolate before each
convolution, D(real) and D(fake) in separate passes, the default Adam. It is the yardstick for
speed, and the oracle: with the same weights ganctl's networks must give the same images, scores
and gradients. Modules are named as ganctl's, so that `load` can carry weights over.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, max_pool2d, relu
from torch.nn.utils.parametrizations import spectral_norm

from ganctl.config import Config


def normalized(layer: nn.Module) -> nn.Module:
    """Glorot weights, zero bias, the library's spectral norm."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


class Attention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, scaled: bool, pooled: bool) -> None:
        super().__init__()
        self.query = normalized(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.key = normalized(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.value = normalized(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.output = normalized(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))
        self.scale = 1 / math.sqrt(channels // 8) if scaled else 1.0
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.pooled:
            k, v = max_pool2d(k, 2), max_pool2d(v, 2)
        q = q.view(b, c // 8, -1).permute(0, 2, 1)
        share = torch.softmax(torch.bmm(q, k.view(b, c // 8, -1)) * self.scale, dim=-1)
        out = torch.bmm(v.view(b, c // 2, -1), share.permute(0, 2, 1))
        return x + self.gamma * self.output(out.view(b, c // 2, h, w))


class Stage(nn.Module):
    """Up-sample, convolve, batch norm, ReLU, attention or none."""

    def __init__(self, c_in: int, c_out: int, attention: Attention | None) -> None:
        super().__init__()
        self.conv = normalized(nn.Conv2d(c_in, c_out, 5, padding=2, bias=False))
        self.norm = nn.BatchNorm2d(c_out)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm(self.conv(interpolate(x, scale_factor=2))))
        return x if self.attention is None else self.attention(x)


class Generator(nn.Module):
    """(B, latent_dim) -> (B, 3, R, R)."""

    def __init__(
        self, latent_dim: int, channels: Sequence[int], at: Sequence[int], **options: bool
    ) -> None:
        super().__init__()
        self.stem = normalized(nn.Linear(latent_dim, channels[0] * 16, bias=False))
        self.stem_norm = nn.Sequential(nn.BatchNorm2d(channels[0]), nn.ReLU())
        self.stages = nn.ModuleList()
        size = 4
        for c_in, c_out in pairwise(channels):
            size *= 2
            attention = Attention(c_out, **options) if size in at else None
            self.stages.append(Stage(c_in, c_out, attention))
        self.to_rgb = normalized(nn.Conv2d(channels[-1], 3, 5, padding=2))

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(z).view(len(z), -1, 4, 4))
        for stage in self.stages:
            x = stage(x)
        return torch.tanh(self.to_rgb(interpolate(x, scale_factor=2)))


class DownStage(nn.Module):
    """Convolve, LeakyReLU, average pooling, attention or none."""

    def __init__(self, c_in: int, c_out: int, attention: Attention | None) -> None:
        super().__init__()
        self.conv = normalized(nn.Conv2d(c_in, c_out, 5, padding=2))
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        x = avg_pool2d(leaky_relu(self.conv(x), 0.2), 2)
        return x if self.attention is None else self.attention(x)


class Discriminator(nn.Module):
    """(B, 3, R, R) -> (B,)."""

    def __init__(
        self, resolution: int, channels: Sequence[int], at: Sequence[int], **options: bool
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        size = resolution
        for c_in, c_out in zip([3, *channels], channels, strict=False):
            size //= 2
            attention = Attention(c_out, **options) if size in at else None
            self.stages.append(DownStage(c_in, c_out, attention))
        self.score = normalized(nn.Linear(channels[-1] * 16, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.score(x.reshape(len(x), -1)).view(-1)


def build(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` describes, with weights of their own."""
    resolution, model = config.data.resolution, config.model
    count = int(math.log2(resolution)) - 2
    channels = [model.width * min(2**i, 8) for i in range(count)]
    options = {"scaled": model.attention.scaled, "pooled": model.attention.pooled}
    generator = Generator(model.latent_dim, channels[::-1], model.attention.at, **options)
    return generator, Discriminator(resolution, channels, model.attention.at, **options)


def load(network: nn.Module, ours: nn.Module) -> None:
    """Give `network` the weights, u and v of ganctl's network `ours`."""
    renamed = {
        name.removesuffix(".u") + "._u" if name.endswith("weight.0.u")
        else name.removesuffix(".v") + "._v" if name.endswith("weight.0.v")
        else name: value
        for name, value in ours.state_dict().items()
    }  # fmt: skip
    network.load_state_dict(renamed)


class Trainer:
    """Hinge loss, D then G, once each."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.generator, self.discriminator = (network.to(device) for network in build(config))
        self.device = device
        self.latent_dim = config.model.latent_dim
        betas = (config.optim.betas[0], config.optim.betas[1])
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), config.optim.g_lr, betas)
        self.d_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), config.optim.d_lr, betas
        )

    def step(self, real: Tensor) -> None:
        """One update of each network. real: (B, 3, R, R)."""
        fake = self.generator(torch.randn(len(real), self.latent_dim, device=self.device)).detach()
        d_loss = (
            relu(1 - self.discriminator(real)).mean() + relu(1 + self.discriminator(fake)).mean()
        )
        self.d_optimizer.zero_grad()
        d_loss.backward()
        self.d_optimizer.step()
        g_loss = -self.discriminator(
            self.generator(torch.randn(len(real), self.latent_dim, device=self.device))
        ).mean()
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
