"""The last layer of a slicing adversarial network: Takida et al. 2024, https://arxiv.org/abs/2301.12811.

D's score is <w / |w|, h(x)> + b: features h, seen from a direction. D learns the two by two losses
(section 5): h by that of the GAN, with the direction fixed; the direction by the Wasserstein loss,
with h fixed, so that it becomes the one in which real and generated features lie furthest apart.
"""

from collections.abc import Iterator
from typing import Unpack

from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from torch.nn.utils import parametrize

from ganctl.models.architecture import Discriminator
from ganctl.models.layers import Head, LayerOptions, head
from ganctl.runtime import autocast_off


class Direction(nn.Module):
    """The map w -> w / |w| of a row of weights."""

    def sigma(self, weight: Tensor) -> Tensor:
        """(): the length of the row, which is its only singular value."""
        return weight.norm()

    def forward(self, weight: Tensor) -> Tensor:
        """(1, F) -> (1, F) of length 1."""
        return normalize(weight, dim=1)


def direction(features: int, *, bias: bool = True, **options: Unpack[LayerOptions]) -> Head:
    """(B, features) -> (B, 1): a head whose row of weights is divided by its length."""
    options["spectral_norm"] = False
    layer = head(features, bias=bias, **options)
    parametrize.register_parametrization(layer, "weight", Direction())
    return layer


def directions(network: nn.Module) -> Iterator[tuple[str, Tensor, Direction]]:
    """The layers of `network` that are directions: their names and weights before the division."""
    for name, module in network.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            norm = module[0]
            if isinstance(norm, Direction):
                yield name.removesuffix(".parametrizations.weight"), module.original, norm


def is_sliced(discriminator: Discriminator) -> bool:
    """Whether D's last layer is a direction."""
    return any(directions(discriminator))


def function_scores(discriminator: Discriminator, images: Tensor) -> Tensor:
    """(B, 3, R, R) -> (B,): as D's own, but nothing is learnt of the direction through them."""
    return split_scores(discriminator, images)[0]


def split_scores(discriminator: Discriminator, images: Tensor) -> tuple[Tensor, Tensor]:
    """D's scores of images (B, 3, R, R) twice, (B,) each and equal but for the bias.

    The first teach the features and the bias, the second the direction. D knows no classes.
    """
    features, layer = discriminator.features(images), discriminator.score
    with autocast_off(images.device):
        features = features.to(layer.weight.dtype)
        row = layer.weight  # (1, F), of length 1
        function = linear(features, row.detach(), layer.bias)
        return function.squeeze(1), linear(features.detach(), row).squeeze(1)
