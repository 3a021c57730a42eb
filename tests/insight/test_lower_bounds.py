"""A lower bound is one: not above what is known, near it where all is linear, and changes nothing."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganctl.insight.lower_bounds import lower_bound
from ganctl.insight.spectra import layer_spectra, map_sides
from ganctl.models import Discriminator, Generator, build_networks, pieces
from ganctl.models.bounds import product
from ganctl.settings.config import Config


class Linear(Discriminator):
    """An inner product with one image."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * resolution**2), requires_grad=False)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return images.flatten(1) @ self.weight


class Matrix(Generator):
    """A matrix times the latents, as images."""

    latent_dim, n_classes = 5, 0

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3 * 4 * 4, 5), requires_grad=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return (z @ self.matrix.T).unflatten(1, (3, 4, 4))


def test_of_linear_maps_it_is_their_norm() -> None:
    torch.manual_seed(0)
    score, matrix = Linear(8), Matrix()
    assert lower_bound(score, 8, 0) == pytest.approx(score.weight.norm().item(), rel=1e-3)
    norm = torch.linalg.matrix_norm(matrix.matrix, 2).item()
    assert lower_bound(matrix, 4, 0) == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("kind", ["convnet", "resnet"])
def test_it_is_above_nothing_and_below_the_upper_bound_without_attention(
    kind: str, tiny: Callable[..., Config], tiny_resnet: Callable[..., Config]
) -> None:
    none = {"model__attention": {"at": [], "scaled": False, "pooled": True}}
    config = tiny(**none) if kind == "convnet" else tiny_resnet(**none)
    classes = 3 if config.model.conditional else 0
    for network in build_networks(config.model, config.data, torch.Generator(), classes):
        network.eval().requires_grad_(False)
        before = copy.deepcopy(network.state_dict())
        sides = map_sides(network, 32)
        norms = {s.layer: s.norm.upper for s in layer_spectra(network, "x", sides) if s.norm}
        upper = product(pieces(network, norms, sides))
        lower = lower_bound(network, 32, classes)
        assert 1e-4 < lower <= upper
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert lower == lower_bound(network, 32, classes)


def test_a_network_that_is_constant_or_not_finite_is_no_fault() -> None:
    score = Linear(8)
    score.weight.zero_()
    assert lower_bound(score, 8, 0) == 0
