"""The article's pair: golden numbers and shapes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ganctl.models import build_networks
from ganctl.models.attention import SelfAttention
from ganctl.models.convnet import Discriminator, Generator
from ganctl.models.spectral import normalized_weights
from ganctl.runtime import random_stream
from ganctl.settings import presets

LAYOUT = {"width": 8, "attention_scaled": True, "attention_pooled": True}


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_celeba64_has_the_published_number_of_parameters() -> None:
    config = presets.load("celeba64")
    generator, discriminator = build_networks(config.model, config.data, random_stream(0, "init"))
    assert count(generator) == 5_361_220
    assert count(discriminator) == 4_319_874


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_every_resolution_gives_images_in_range_and_one_score_each(resolution: int) -> None:
    at = [resolution // 4, resolution // 2]
    generator = Generator(resolution=resolution, latent_dim=5, attention_at=at, **LAYOUT)
    discriminator = Discriminator(resolution=resolution, attention_at=at, **LAYOUT)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


def test_attention_stands_where_it_is_asked_for_in_both_networks() -> None:
    sizes: list[int] = []
    generator = Generator(resolution=64, latent_dim=5, attention_at=[16, 32], **LAYOUT)
    discriminator = Discriminator(resolution=64, attention_at=[16, 32], **LAYOUT)
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.register_forward_hook(lambda _m, args, _o: sizes.append(args[0].shape[-1]))
    discriminator(generator(torch.randn(1, 5)))
    assert sizes == [16, 32, 32, 16]


def test_every_weight_is_normalised_or_none_as_configured() -> None:
    for wanted in (True, False):
        generator = Generator(
            resolution=32, latent_dim=5, attention_at=[16], spectral_norm=wanted, **LAYOUT
        )
        matrices = [
            m for m in generator.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
        ]
        assert len(list(normalized_weights(generator))) == (len(matrices) if wanted else 0)


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    config = presets.load("faces32")
    before = torch.get_rng_state()
    first, _ = build_networks(config.model, config.data, random_stream(7, "init"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    same, _ = build_networks(config.model, config.data, random_stream(7, "init"))
    other, _ = build_networks(config.model, config.data, random_stream(8, "init"))
    weights = [network.stem.weight for network in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.usefixtures("without_values")
def test_both_networks_run_forward_on_a_pretended_gpu() -> None:
    """No GPU is needed: fake tensors have a device and a shape, and refuse to mix devices."""
    with FakeTensorMode(), torch.device("cuda"):
        generator = Generator(resolution=64, latent_dim=5, attention_at=[32], **LAYOUT)
        discriminator = Discriminator(resolution=64, attention_at=[32], **LAYOUT)
        scores = discriminator(generator(torch.randn(4, 5)))
    assert (scores.device.type, scores.shape) == ("cuda", (4,))
