"""What an architecture consists of: one record, of which each module of networks has its own."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ganctl.models.bounds import Piece
from ganctl.settings.sections import DataConfig


class Generator(nn.Module):
    """Latent vectors, and classes if it is conditional, to images."""

    latent_dim: int
    n_classes: int  # 0: not conditional

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z: (B, latent_dim); labels: (B,) int64 -> images (B, 3, R, R) in [-1, 1]."""
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images, and classes if it is conditional, to scores."""

    score: nn.Linear  # the last layer: features to a score

    def features(self, images: Tensor) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1] -> (B, F), what the last layer is given."""
        raise NotImplementedError

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """images: (B, 3, R, R) in [-1, 1]; labels: (B,) int64 -> scores (B,), unbounded."""
        raise NotImplementedError


class Architecture(NamedTuple):
    """A pair of networks and all that is to be known of them.

    `build` alone knows the settings; the networks take plain arguments.
    """

    generator: type[Generator]
    discriminator: type[Discriminator]
    # of the model's settings, the data's, and the number of classes: new networks on the CPU
    build: Callable[[Any, DataConfig, int], tuple[Generator, Discriminator]]
    # of the same: numbers of weights that G and D surely exceed
    least_weights: Callable[[Any, DataConfig, int], tuple[int, int]]
    # a network that maps its input as the generator does in eval mode, with constants folded in
    fold: Callable[[Any], nn.Module]
    # of a network, what each layer's map stretches at most, and the sides of the maps
    pieces: Callable[[Any, Mapping[str, float], Mapping[str, int]], Iterable[Piece]]
