"""Spectral norm against exact linear algebra and against torch's own implementation."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from ganctl.models.convnet import Discriminator
from ganctl.models.layers import conv, linear
from ganctl.models.spectral import (
    SpectralNorm,
    add_spectral_norm,
    normalized_weights,
    power_iterate,
)


def largest(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(weight.detach().flatten(1).double(), 2)


@pytest.mark.parametrize("layer", [conv(6, 5, 3), linear(20, 7), linear(9, 1)])
def test_the_weight_in_use_has_largest_singular_value_one(layer: nn.Module) -> None:
    for _ in range(200):
        power_iterate(layer)
    torch.testing.assert_close(largest(layer.weight).item(), 1.0, atol=1e-5, rtol=0)


def test_a_new_layer_is_normalised_already() -> None:
    torch.manual_seed(0)
    for _, weight, norm in normalized_weights(
        Discriminator(
            resolution=32, width=8, attention_at=[16], attention_scaled=True, attention_pooled=True
        )
    ):
        assert 0.9 < norm.sigma(weight) / largest(weight) <= 1 + 1e-6


def test_reading_the_weight_changes_nothing() -> None:
    layer = conv(4, 6, 3).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    first = layer.weight.detach().clone()
    for _ in range(3):
        assert hasattr(layer, "weight")
        layer(torch.ones(1, 4, 5, 5))
    assert torch.equal(layer.weight, first)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_one_iteration_is_algorithm_1_of_the_paper() -> None:
    weight = torch.randn(4, 6, dtype=torch.float64)
    norm = SpectralNorm(weight)
    u = norm.u.clone()
    norm.iterate(weight)
    v = torch.tensor([sum(weight[i, j] * u[i] for i in range(4)) for j in range(6)])
    v = v / v.square().sum().sqrt()
    new_u = torch.tensor([sum(weight[i, j] * v[j] for j in range(6)) for i in range(4)])
    sigma = new_u.square().sum().sqrt()
    torch.testing.assert_close(norm.v, v)
    torch.testing.assert_close(norm.u, new_u / sigma)
    torch.testing.assert_close(norm.sigma(weight), sigma)


def test_value_and_gradient_equal_torchs_own_implementation() -> None:
    torch.manual_seed(1)
    ours = nn.Conv2d(3, 5, 3)
    theirs = nn.Conv2d(3, 5, 3)
    theirs.load_state_dict(ours.state_dict())
    add_spectral_norm(ours)
    torch_spectral_norm(theirs).eval()
    norm = ours.parametrizations["weight"][0]
    norm.u.copy_(theirs.parametrizations["weight"][0]._u)
    norm.v.copy_(theirs.parametrizations["weight"][0]._v)
    x = torch.randn(2, 3, 6, 6)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(
        ours.parametrizations["weight"].original.grad,
        theirs.parametrizations["weight"].original.grad,
    )


def test_power_iteration_advances_every_layer_and_no_parameter() -> None:
    network = nn.Sequential(
        conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3, spectral_norm=False), conv(8, 4, 1)
    )
    weights = list(normalized_weights(network))
    assert [name for name, _, _ in weights] == ["0", "3"]
    before = [(weight.detach().clone(), norm.u.clone()) for _, weight, norm in weights]
    power_iterate(network)
    for (_, weight, norm), (old_weight, old_u) in zip(weights, before, strict=True):
        assert torch.equal(weight, old_weight)
        assert not torch.equal(norm.u, old_u)


def test_sigma_stays_fp32_inside_autocast() -> None:
    layer = conv(16, 16, 5)
    expected = layer.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype == torch.float32
        assert torch.equal(layer.weight, expected)


def test_the_state_round_trips_to_the_same_weight() -> None:
    first, second = linear(6, 4), linear(6, 4)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight, second.weight)
