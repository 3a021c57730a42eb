"""The article's generator and discriminator, mended: plain 5 x 5 convolutions and attention.

At resolution 64 and width 64 these are the article's layers, with attention at 32 x 32 in both
networks as its text says (its code put the discriminator's at 8 x 8), spectral norm on every
convolution and linear layer, and batch norm over channels instead of over 8,192 positions.
Other resolutions follow the same layout; above 64 px the channels stop growing at 8 * width.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ganctl.models.attention import SelfAttention
from ganctl.models.layers import conv, linear, upsample_conv

START = 4  # the smallest map of both networks is 4 x 4
WIDEST = 8  # no map has more than 8 * width channels
SLOPE = 0.2  # of LeakyReLU, as in the article


class Generator(nn.Module):
    """Latent vectors to images: linear, then (up-sample, conv, batch norm, ReLU) to half size."""

    def __init__(
        self,
        *,
        resolution: int,
        width: int,
        latent_dim: int,
        attention_at: Sequence[int],
        attention_scaled: bool,
        attention_pooled: bool,
        spectral_norm: bool = True,
    ) -> None:
        """`resolution` is a power of two from 16; `width` the channels at half of it."""
        super().__init__()
        self.latent_dim = latent_dim
        self.resolution = resolution
        sizes = [START]
        while sizes[-1] < resolution // 2:
            sizes.append(2 * sizes[-1])
        channels = [_channels(size, resolution, width) for size in sizes]
        self.stem = linear(
            latent_dim, channels[0] * START**2, bias=False, spectral_norm=spectral_norm
        )
        self.stem_norm = nn.Sequential(nn.BatchNorm2d(channels[0]), nn.ReLU())
        self.stages = nn.ModuleList()
        for size, c_in, c_out in zip(sizes[1:], channels, channels[1:], strict=False):
            stage = nn.Sequential()
            stage.conv = upsample_conv(c_in, c_out, bias=False, spectral_norm=spectral_norm)
            stage.norm = nn.BatchNorm2d(c_out)
            stage.relu = nn.ReLU()
            if size in attention_at:
                stage.attention = SelfAttention(
                    c_out,
                    scaled=attention_scaled,
                    pooled=attention_pooled,
                    spectral_norm=spectral_norm,
                )
            self.stages.append(stage)
        self.to_rgb = upsample_conv(channels[-1], 3, spectral_norm=spectral_norm)

    def forward(self, z: Tensor) -> Tensor:
        """z: (B, latent_dim), standard normal -> images (B, 3, R, R) in [-1, 1]."""
        x = self.stem(z).unflatten(1, (-1, START, START))  # (B, C, 4, 4)
        x = self.stem_norm(x)
        for stage in self.stages:
            x = stage(x)  # (B, C/2, 2H, 2W)
        return self.to_rgb(x).tanh()  # (B, 3, R, R)


class Discriminator(nn.Module):
    """Images to scores: (conv, LeakyReLU, average pooling) down to 4 x 4, then linear."""

    def __init__(
        self,
        *,
        resolution: int,
        width: int,
        attention_at: Sequence[int],
        attention_scaled: bool,
        attention_pooled: bool,
        spectral_norm: bool = True,
    ) -> None:
        """`resolution` is a power of two from 16; `width` the channels at half of it."""
        super().__init__()
        self.stages = nn.ModuleList()
        c_in, size = 3, resolution
        while size > START:
            size //= 2
            c_out = _channels(size, resolution, width)
            stage = nn.Sequential()
            stage.conv = conv(c_in, c_out, 5, spectral_norm=spectral_norm)
            stage.relu = nn.LeakyReLU(SLOPE)
            stage.pool = nn.AvgPool2d(2)
            if size in attention_at:
                stage.attention = SelfAttention(
                    c_out,
                    scaled=attention_scaled,
                    pooled=attention_pooled,
                    spectral_norm=spectral_norm,
                )
            self.stages.append(stage)
            c_in = c_out
        self.score = linear(c_in * START**2, 1, spectral_norm=spectral_norm)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1] -> scores (B,), unbounded; higher is more real."""
        x = images
        for stage in self.stages:
            x = stage(x)  # (B, 2C, H/2, W/2)
        return self.score(x.flatten(1)).squeeze(1)


def _channels(size: int, resolution: int, width: int) -> int:
    """Channels of the maps at size x size: width at half the resolution, doubling downwards."""
    return width * min(resolution // 2 // size, WIDEST)
