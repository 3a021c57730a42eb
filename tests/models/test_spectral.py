"""Spectral norm against exact linear algebra and against torch's own implementation."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from ganctl.models.convnet import Discriminator
from ganctl.models.layers import conv, linear
from ganctl.models.spectral import (
    NormalizedWeight,
    SpectralNorm,
    _Divide,
    add_spectral_norm,
    iterate,
    normalized,
    normalized_weights,
    power_iterate,
    restart,
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
    iterate([NormalizedWeight("", weight, norm)])
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


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        conv(3, 6, 3), nn.ReLU(), conv(6, 4, 1, spectral_norm=False), conv(4, 5, 5)
    ).double()


def test_a_pass_with_all_weights_divided_at_once_is_the_pass_that_reads_each() -> None:
    network, x = small_network(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    results = []
    for at_once in (False, True):
        network.zero_grad()
        with normalized(network) if at_once else nullcontext():
            y = network(x)
            y.square().sum().backward()
        results.append(
            [y.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]
        )
    assert len(results[0]) == 1 + len(list(network.parameters()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_the_sigmas_of_a_power_iteration_are_those_of_its_vectors() -> None:
    network = small_network()
    sigmas = power_iterate(network)
    for sigma, (_, weight, norm) in zip(sigmas, normalized_weights(network), strict=True):
        torch.testing.assert_close(sigma, norm.sigma(weight.detach()), rtol=1e-12, atol=0)
    with normalized(network, sigmas):
        shared = network[0].weight
    torch.testing.assert_close(shared, network[0].weight, rtol=1e-12, atol=1e-15)


def test_after_such_a_pass_weights_are_read_as_before() -> None:
    network = small_network()
    before = network[0].weight.detach().clone()
    with normalized(network):
        shared = network[0].weight
        assert network[0].weight is shared
        torch.testing.assert_close(shared, before)
    with torch.no_grad():
        network[0].parametrizations["weight"].original.mul_(2)
    torch.testing.assert_close(network[0].weight, before)  # twice the weight, twice the sigma
    assert network[0].weight is not network[0].weight


def test_weights_divided_at_once_allow_a_gradient_penalty() -> None:
    """The gradient of a gradient with respect to the image, then to the weights."""
    network, x = small_network(), torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for at_once in (False, True):
        network.zero_grad()
        with normalized(network) if at_once else nullcontext():
            (gradient,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
            gradient.square().sum().backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_vectors_can_be_started_anew_whatever_they_were() -> None:
    live, copied = small_network(), small_network()
    for _, _, norm in normalized_weights(copied):
        norm.u.fill_(7.0)
        norm.v.fill_(7.0)
    restart(copied, live)
    for name, weight, norm in normalized_weights(copied):
        assert norm.sigma(weight).item() == pytest.approx(largest(weight).item(), rel=0.05), name
    state = {name: value.clone() for name, value in copied.state_dict().items()}
    restart(copied, live)
    assert all(torch.equal(value, state[name]) for name, value in copied.state_dict().items())


def test_on_cuda_kernels_have_the_layout_of_the_maps() -> None:
    """Seen with tensors that have a device and no values; there, gradients keep their shapes too."""
    with FakeTensorMode(), torch.device("cuda"):
        network = nn.Sequential(conv(8, 16, 3), conv(16, 8, 5))
        with normalized(network), torch.no_grad():
            for layer in network:
                assert layer.weight.is_contiguous(memory_format=torch.channels_last)
                assert layer.weight.shape == layer.parametrizations["weight"].original.shape


def test_a_gradient_in_another_layout_is_the_same_gradient() -> None:
    """As kernels that are channels last have it."""
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    norm, direction = SpectralNorm(weight), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    found = []
    for given in (direction, direction.contiguous(memory_format=torch.channels_last)):
        (divided,) = _Divide.apply([norm.u], [norm.v], None, weight)
        found.append(torch.autograd.grad(divided, weight, given)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
