"""The bound of a network against what its own derivative does at random points."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganctl.insight.spectra import layer_spectra, map_sides
from ganctl.models import Discriminator, Generator, build_networks, pieces
from ganctl.models.attention import SelfAttention
from ganctl.models.bounds import Piece, product
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import Config, replace

PRESETS = ["celeba64", "sagan-celeba64", "sngan-cifar10", "sagan-cifar10"]
LABELS = torch.tensor([1])


def chain(network: Generator | Discriminator, config: Config) -> list[Piece]:
    sides = map_sides(network, config.data.resolution)
    norms = {layer.layer: layer.norm.upper for layer in layer_spectra(network, "", sides)}
    return pieces(network, norms, sides)


def small(preset: str, attention: bool = True) -> tuple[Config, Generator, Discriminator]:
    config = replace(presets.load(preset), {"model.width": 8, "model.latent_dim": 8})
    if not attention:
        config = replace(config, {"model.attention": {"at": [], "scaled": True, "pooled": True}})
    generator, discriminator = build_networks(
        config.model, config.data, random_stream(0, "init"), 3
    )
    torch.manual_seed(0)
    labels = torch.arange(16) % 3
    generator.train()(torch.randn(16, 8), labels)  # other statistics than the initial ones
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, nn.Embedding) and module.weight.shape[0] == 3:
                with torch.no_grad():
                    module.weight.mul_(1.5) if module.weight.is_leaf else None
        network.eval().requires_grad_(False)
    return config, generator, discriminator


def stretch(network: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The norm of the network's derivative at x, by power iteration: a lower bound."""
    direction = torch.randn_like(x)
    length = 0.0
    for _ in range(6):
        _, forward = torch.autograd.functional.jvp(network, x, direction / direction.norm())
        length = forward.norm().item()
        _, direction = torch.autograd.functional.vjp(network, x, forward)
    return length


@pytest.mark.parametrize("preset", PRESETS)
def test_no_derivative_is_larger_than_the_bound(preset: str) -> None:
    config, generator, discriminator = small(preset, attention=False)
    resolution = config.data.resolution
    for network, shape in ((generator, (1, 8)), (discriminator, (1, 3, resolution, resolution))):
        bound = product(chain(network, config))
        assert math.isfinite(bound)
        for seed in range(2):
            torch.manual_seed(seed)
            x = torch.randn(shape)
            found = stretch(lambda x, network=network: network(x, LABELS), x)
            assert 0 < found <= bound


@pytest.mark.parametrize("preset", PRESETS)
def test_every_layer_has_its_place_in_the_chain(preset: str) -> None:
    """A larger norm of any layer makes a larger product, but not of those of attention."""
    config, generator, discriminator = small(preset)
    for network in (generator, discriminator):
        sides = map_sides(network, config.data.resolution)
        norms = {layer.layer: layer.norm.upper for layer in layer_spectra(network, "", sides)}
        before = product(pieces(network, norms, sides))
        for layer in norms:
            twice = product(pieces(network, {**norms, layer: 2 * norms[layer]}, sides))
            if ".attention." in f".{layer}":
                assert twice == before
            elif layer not in ("score", "projection") or preset == "celeba64":
                assert 1.02 * before < twice <= 2.01 * before, layer


def test_attention_is_named_and_has_no_bound() -> None:
    config, generator, _ = small("celeba64")
    blocks = [name for name, m in generator.named_modules() if isinstance(m, SelfAttention)]
    assert [piece.name for piece in chain(generator, config) if piece.bound is None] == blocks
    assert blocks == ["stages.2.attention"]


def test_a_chain_by_hand() -> None:
    _, _, discriminator = small("celeba64")
    norms = dict.fromkeys(map_sides(discriminator, 64), 1.0) | {"score": 3.0}
    found = pieces(discriminator, norms, {})
    assert product(found) == 3 * 0.5**4  # four poolings
    assert [piece.name for piece in found][:3] == [
        "stages.0.conv", "stages.0 pooling", "stages.0.attention",
    ]  # fmt: skip


def fresh(preset: str) -> tuple[Generator, Discriminator]:
    """As built: batch norm is the identity in eval mode, but for its eps."""
    config = replace(presets.load(preset), {"model.width": 8, "model.latent_dim": 8})
    networks = build_networks(config.model, config.data, random_stream(0, "init"), 3)
    for network in networks:
        network.eval()
    return networks


def test_generators_by_hand() -> None:
    """Every layer of norm 1: what is left is up-sampling, sums and batch norm."""
    generator, _ = fresh("celeba64")
    ones = dict.fromkeys([*map_sides(generator, 64), "stem"], 1.0)
    assert product(pieces(generator, ones, {})) == pytest.approx(2**4, rel=1e-3)
    generator, _ = fresh("sagan-celeba64")
    ones = dict.fromkeys([*map_sides(generator, 64), "stem"], 1.0)
    assert product(pieces(generator, ones, {})) == pytest.approx((2 + 2) ** 4, rel=1e-3)
    block = generator.blocks[1]
    for norm, scale in ((block.norm1, 3.0), (block.norm2, 5.0)):
        nn.init.constant_(norm.weight[0], scale)  # one channel is enough
    expected = (2 + 2) ** 3 * (2 + 3 * 5 * 2)
    assert product(pieces(generator, ones, {})) == pytest.approx(expected, rel=1e-3)


def test_a_residual_discriminator_by_hand() -> None:
    """Two blocks that halve, two that do not, a sum over 8 x 8 pixels, and one row of weights."""
    _, discriminator = fresh("sngan-cifar10")
    sides = map_sides(discriminator, 32)
    row = discriminator.score.weight.norm().item()
    found = product(pieces(discriminator, dict.fromkeys(sides, 1.0), sides))
    assert found == pytest.approx(0.5 * 2 * 0.5 * 2 * 2 * 2 * 8 * row)
