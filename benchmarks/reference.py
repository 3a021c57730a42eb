"""The article's networks and training step as a competent user would write them in plain PyTorch.

NCHW, the library's spectral norm, attention by bmm and softmax, interpolate before each
convolution, D(real) and D(fake) in separate passes, the default Adam. It is the yardstick for
speed, and the oracle: with the same weights ganctl's networks must give the same images, scores
and gradients. Modules are named as ganctl's, so that `load` can carry weights over.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, max_pool2d, relu
from torch.nn.utils.parametrizations import spectral_norm

from ganctl.settings.config import Config
from ganctl.settings.sections import ResnetConfig


def normalized(layer: nn.Conv2d | nn.Linear) -> nn.Module:
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

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
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

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.score(x.reshape(len(x), -1)).view(-1)


class BatchNorm(nn.Module):
    """Batch norm, with a scale and a shift for each class if there are classes."""

    def __init__(self, channels: int, n_classes: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps, momentum, affine=False)
        self.scale = nn.Embedding(n_classes, channels)
        self.shift = nn.Embedding(n_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = self.scale(labels), self.shift(labels)
        return self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]


class UpBlock(nn.Module):
    """(B, C, H, W) -> (B, C', 2H, 2W), in the order of SNGAN's and SAGAN's code."""

    def __init__(self, c_in: int, c_out: int, model: ResnetConfig, n_classes: int) -> None:
        super().__init__()
        norm = (model.batch_norm_eps, model.batch_norm_momentum)
        ready = normalized if model.g_spectral_norm else nn.Identity()
        self.norm1, self.norm2 = (
            BatchNorm(channels, n_classes, *norm) if n_classes else nn.BatchNorm2d(channels, *norm)
            for channels in (c_in, c_out)
        )
        self.conv1 = ready(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.conv2 = ready(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = ready(nn.Conv2d(c_in, c_out, 1))
        self.conditional = n_classes > 0

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        given = (labels,) if self.conditional else ()
        h = self.conv1(interpolate(relu(self.norm1(x, *given)), scale_factor=2))
        h = self.conv2(relu(self.norm2(h, *given)))
        return h + self.shortcut(interpolate(x, scale_factor=2))


class ResidualGenerator(nn.Module):
    """(B, latent_dim), (B,) -> (B, 3, R, R)."""

    def __init__(self, model: ResnetConfig, resolution: int, n_classes: int) -> None:
        super().__init__()
        ready = normalized if model.g_spectral_norm else nn.Identity()
        channels = [model.width * units for units in RESIDUAL[resolution][0]]
        self.stem = ready(nn.Linear(model.latent_dim, channels[0] * 16))
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
        for index, (c_in, c_out) in enumerate(pairwise(channels)):
            self.blocks.append(UpBlock(c_in, c_out, model, n_classes))
            if 8 * 2**index in model.attention.at:
                options = (model.attention.scaled, model.attention.pooled)
                self.attention[str(index)] = Attention(c_out, *options)
        self.norm = nn.BatchNorm2d(channels[-1], model.batch_norm_eps, model.batch_norm_momentum)
        self.to_rgb = ready(nn.Conv2d(channels[-1], 3, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stem(z).view(len(z), -1, 4, 4)
        for index, block in enumerate(self.blocks):
            x = block(x, labels)
            if str(index) in self.attention:
                x = self.attention[str(index)](x)
        return torch.tanh(self.to_rgb(relu(self.norm(x))))


class DownBlock(nn.Module):
    """(B, C, H, W) -> (B, C', H/2, W/2) or (B, C', H, W), in the order of the authors' code."""

    def __init__(self, c_in: int, hidden: int, c_out: int, halve: bool, first: bool) -> None:
        super().__init__()
        self.conv1 = normalized(nn.Conv2d(c_in, hidden, 3, padding=1))
        self.conv2 = normalized(nn.Conv2d(hidden, c_out, 3, padding=1))
        learned = halve or c_in != c_out
        self.shortcut = normalized(nn.Conv2d(c_in, c_out, 1)) if learned else None
        self.halve, self.first = halve, first

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(relu(self.conv1(x if self.first else relu(x))))
        if self.first:
            assert self.shortcut is not None
            pooled: Tensor = avg_pool2d(h, 2) + self.shortcut(avg_pool2d(x, 2))
            return pooled
        x = x if self.shortcut is None else self.shortcut(x)
        return avg_pool2d(h, 2) + avg_pool2d(x, 2) if self.halve else h + x


class ResidualDiscriminator(nn.Module):
    """(B, 3, R, R), (B,) -> (B,)."""

    def __init__(self, model: ResnetConfig, size: int, n_classes: int) -> None:
        super().__init__()
        _, units, halvings = RESIDUAL[size]
        channels = [3, *(model.width * unit for unit in units)]
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
        for index, (c_in, c_out) in enumerate(pairwise(channels)):
            halve = index < halvings or (model.d_halve_last and index == len(units) - 1)
            hidden = c_out if model.d_wide or index == 0 else c_in
            self.blocks.append(DownBlock(c_in, hidden, c_out, halve, first=index == 0))
            size //= 2 if halve else 1
            if halve and size in model.attention.at:
                options = (model.attention.scaled, model.attention.pooled)
                self.attention[str(index)] = Attention(c_out, *options)
        self.score = normalized(nn.Linear(channels[-1], 1, bias=model.d_score_bias))
        self.projection = None
        if n_classes:
            table = nn.Embedding(n_classes, channels[-1])
            nn.init.xavier_uniform_(table.weight)
            self.projection = spectral_norm(table)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = images
        for index, block in enumerate(self.blocks):
            x = block(x)
            if str(index) in self.attention:
                x = self.attention[str(index)](x)
        x = relu(x).sum((2, 3))
        scores = self.score(x).view(-1)
        return scores if self.projection is None else scores + (self.projection(labels) * x).sum(1)


# Channels of G's 4 x 4 map and after its blocks, of D after its blocks, and D's blocks that halve.
RESIDUAL = {
    32: ((2, 2, 2, 2), (1, 1, 1, 1), 2),
    64: ((16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 4),
    128: ((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
}


def build(config: Config, n_classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """The pair that `config` describes, with weights of their own."""
    resolution, model = config.data.resolution, config.model
    if isinstance(model, ResnetConfig):
        classes = n_classes if model.conditional else 0
        residual = ResidualGenerator(model, resolution, classes)
        return residual, ResidualDiscriminator(model, resolution, classes)
    count = int(math.log2(resolution)) - 2
    channels = [model.width * min(2**i, 8) for i in range(count)]
    options = {"scaled": model.attention.scaled, "pooled": model.attention.pooled}
    generator = Generator(model.latent_dim, channels[::-1], model.attention.at, **options)
    return generator, Discriminator(resolution, channels, model.attention.at, **options)


def load(network: nn.Module, ours: nn.Module) -> None:
    """Give `network` the weights, u and v of ganctl's network `ours`."""
    renamed = {_renamed(name): value for name, value in ours.state_dict().items()}
    network.load_state_dict(renamed)


def _renamed(name: str) -> str:
    return re.sub(r"weight\.0\.([uv])$", r"weight.0._\1", name)


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
