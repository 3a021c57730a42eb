"""inspect-sn's figures against matrices whose singular values are known."""

import pytest
import torch
from torch import nn

from ganctl.insight.spectra import layer_spectra, map_sides
from ganctl.models import build_networks
from ganctl.models.attention import SelfAttention
from ganctl.models.convnet import Discriminator
from ganctl.models.layers import conv
from ganctl.models.spectral import add_spectral_norm, normalized_weights, power_iterate
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import replace


def known_layer(values: list[float]) -> nn.Conv2d:
    """A 3 x 3 convolution whose reshaped weight has exactly these singular values."""
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(18, len(values), dtype=torch.float64))
    layer = nn.Conv2d(2, len(values), 3)
    with torch.no_grad():
        layer.weight.copy_((left * torch.tensor(values) @ right.T).reshape(layer.weight.shape))
    return layer


def test_known_singular_values_are_found() -> None:
    layer = add_spectral_norm(known_layer([4.0, 2.0, 1.0, 0.5]))
    for _ in range(30):
        power_iterate(layer)
    (found,) = layer_spectra(nn.Sequential(layer), "d")
    assert found.singular_values == pytest.approx([4, 2, 1, 0.5], rel=1e-5)
    assert found.sigma_estimate == pytest.approx(4, rel=1e-5)
    assert found.sigma_in_use == pytest.approx(1, rel=1e-5)
    assert found.stable_rank == pytest.approx((16 + 4 + 1 + 0.25) / 16, rel=1e-5)
    assert (found.layer, found.shape, found.normalized, found.gamma) == (
        "0",
        (4, 2, 3, 3),
        True,
        None,
    )


def test_a_stale_estimate_shows() -> None:
    layer = add_spectral_norm(known_layer([4.0, 2.0, 1.0, 0.5]))
    with torch.no_grad():
        layer.parametrizations["weight"].original.mul_(
            torch.tensor([1, 1, 1, 50.0])[:, None, None, None]
        )
    (found,) = layer_spectra(nn.Sequential(layer), "d")
    assert found.error > 1
    assert found.sigma_estimate is not None
    assert found.sigma_estimate < 0.5 * found.singular_values[0]


def test_a_layer_without_spectral_norm_is_listed_as_such() -> None:
    (found,) = layer_spectra(nn.Sequential(known_layer([3.0, 1.0])), "g")
    assert (found.normalized, found.sigma_estimate) == (False, None)
    assert found.sigma_in_use == pytest.approx(3, rel=1e-5)
    assert found.error == 0


def test_gamma_stands_with_the_attention_blocks_output_layer() -> None:
    block = SelfAttention(16, scaled=True, pooled=True)
    nn.init.constant_(block.gamma, 0.25)
    found = {layer.layer: layer.gamma for layer in layer_spectra(nn.Sequential(block), "g")}
    assert found == {"0.query": None, "0.key": None, "0.value": None, "0.output": 0.25}


def test_looking_changes_nothing_and_misses_no_layer() -> None:
    network = Discriminator(
        resolution=32, width=8, attention_at=[16], attention_scaled=True, attention_pooled=True
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = list(layer_spectra(network, "d"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [layer.layer for layer in found] == [name for name, _, _ in normalized_weights(network)]
    for layer in found:  # what the network itself computes with
        weight = network.get_submodule(layer.layer).weight
        exact = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
        assert layer.sigma_in_use == pytest.approx(exact, rel=1e-5)


def test_an_unnormalised_convolution_next_to_normalised_ones() -> None:
    network = nn.Sequential(conv(3, 4, 3), conv(4, 4, 1, spectral_norm=False))
    assert [layer.normalized for layer in layer_spectra(network, "d")] == [True, False]


def test_a_convolution_is_looked_at_where_it_works() -> None:
    """After up-sampling and before pooling: what the hooks of a real pass see."""
    for preset in ("celeba64", "sagan-celeba64", "sngan-cifar10-cond"):
        config = replace(presets.load(preset), {"model.width": 8})
        networks = build_networks(config.model, config.data, random_stream(0, "init"), 3)
        resolution = config.data.resolution
        g, d = (map_sides(network, resolution) for network in networks)
        assert g["to_rgb"] == resolution
        if preset == "celeba64":
            assert [g[f"stages.{n}.conv"] for n in range(3)] == [8, 16, 32]
            assert [d[f"stages.{n}.conv"] for n in range(4)] == [64, 32, 16, 8]
            assert d["stages.0.attention.query"] == 32
        elif preset == "sagan-celeba64":
            assert [g[f"blocks.{n}.{conv}"] for n in (0, 3) for conv in ("conv1", "conv2")] == [
                8, 8, 64, 64,
            ]  # fmt: skip
            assert g["blocks.0.shortcut"] == 4
            assert [d[f"blocks.{n}.conv2"] for n in range(5)] == [64, 32, 16, 8, 4]
            assert d["blocks.1.shortcut"] == 16
        else:
            assert [d[f"blocks.{n}.conv2"] for n in range(4)] == [32, 16, 8, 8]
        for network, sides in zip(networks, (g, d), strict=True):
            convs = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
            assert sorted(sides) == sorted(convs)
