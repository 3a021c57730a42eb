"""The folded generator draws what the generator draws."""

import copy

import pytest
import torch
from torch import nn

from ganctl.models import build_networks, fold
from ganctl.models.convnet import Generator
from ganctl.models.spectral import normalized_weights
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import replace


@pytest.mark.parametrize("spectral_norm", [True, False])
@pytest.mark.parametrize("resolution", [32, 128])
def test_folding_changes_no_image(resolution: int, spectral_norm: bool) -> None:
    torch.manual_seed(0)
    generator = Generator(
        resolution=resolution, width=16, latent_dim=12, attention_at=[8, 16], attention_scaled=False,
        attention_pooled=True, spectral_norm=spectral_norm,
    )  # fmt: skip
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-0.5, 0.5)
            elif hasattr(module, "gamma"):
                module.gamma.fill_(0.7)
        generator.to_rgb.bias.uniform_(-0.5, 0.5)
        generator.train()(torch.randn(32, 12))
    before = copy.deepcopy(generator.state_dict())
    z = torch.randn(5, 12)
    with torch.no_grad():
        expected = generator.eval()(z)
        folded = fold(generator)(z)
    assert expected.std() > 0.1
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("preset", ["sagan-cifar10", "sngan-cifar10"])
def test_the_papers_generators_lose_their_sigma_and_no_image_changes(
    preset: str,
) -> None:
    config = replace(presets.load(preset), {"model.width": 8})
    generator, _ = build_networks(config.model, config.data, random_stream(0, "init"), 3)
    generator.train()(torch.randn(32, 128), torch.arange(32) % 3)
    before = copy.deepcopy(generator.state_dict())
    z, labels = torch.randn(5, 128), torch.arange(5) % 3
    folded = fold(generator)
    assert not list(normalized_weights(folded))
    with torch.no_grad():
        expected = generator.eval()(z, labels)
        torch.testing.assert_close(folded(z, labels), expected, atol=1e-6, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_folding_draws_no_random_numbers() -> None:
    config = replace(presets.load("celeba64"), {"model.width": 8})
    generator, _ = build_networks(config.model, config.data, random_stream(0, "init"))
    before = torch.get_rng_state()
    fold(generator)
    assert torch.equal(torch.get_rng_state(), before)
