"""Self-modulation: the latent vector scales and shifts every map of G.

Chen, Lucic, Houlsby and Gelly 2019, https://arxiv.org/abs/1810.01365, section 2: batch norm's
factor and summand of each channel are functions of z with one hidden layer. Here the hidden layers
are shared: two, as a mapping network (Karras et al. 2019, https://arxiv.org/abs/1812.04948), whose
output is what the first map is made from as well. So what holds for a whole image, a colour or a
kind of hair, is decided once. None of these layers is spectrally normalised, as batch norm's own
factors are not.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ganctl.models.batch_norm import BatchNorm2d
from ganctl.runtime import autocast_off

LAYERS = 2  # of the mapping network
SLOPE = 0.2  # of its LeakyReLU
SPREAD = 0.02  # of the weights that the factors and summands start with, about 1 and 0


class MappingNetwork(nn.Module):
    """z to the style that modulates, in fp32."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        layers = [nn.Linear(latent_dim, latent_dim) for _ in range(LAYERS)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) -> (B, latent_dim)."""
        with autocast_off(z.device):
            for layer in self.layers:
                z = leaky_relu(layer(z), SLOPE)
        return z


class ModulatedBatchNorm2d(nn.Module):
    """Batch norm whose factor and summand of each channel are affine functions of the style."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(style_dim, channels)
        self.shift = nn.Linear(style_dim, channels)
        for layer, start in ((self.scale, 1.0), (self.shift, 0.0)):
            nn.init.normal_(layer.weight, std=SPREAD)
            nn.init.constant_(layer.bias, start)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W), (B, style_dim) -> (B, C, H, W)."""
        with autocast_off(x.device):  # bf16 has no factor from 1 to 1.008
            scale, shift = (layer(style)[:, :, None, None] for layer in (self.scale, self.shift))
            return torch.addcmul(shift, self.norm(x), scale).to(x.dtype)
