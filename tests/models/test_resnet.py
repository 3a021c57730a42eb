"""The papers' pair: golden numbers, shapes, and the mistakes that others made."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import conv2d, relu
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reference
from ganctl.models import build_networks, least_weights, spectral
from ganctl.models.attention import SelfAttention
from ganctl.models.resnet import DownBlock, Generator
from ganctl.models.spectral import normalized_weights
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import replace

CLASSES = {"sagan-imagenet128": 1000, "sagan-imagenet128-64": 1000}

# Parameters of G and D: StudioGAN's logs, and a count by layers of the authors' code.
PARAMETERS = {
    "sagan-imagenet128": (42_078_852, 39_463_618),
    "sagan-imagenet128-64": (42_017_412, 39_448_258),
    "sngan-cifar10": (4_276_739, 1_053_824),
    "sngan-cifar10-cond": (4_304_387, 1_055_104),
    "sagan-cifar10": (4_386_308, 1_075_586),
    "sagan-celeba64": (12_241_156, 10_146_562),
    "sngan-celeba64": (12_220_675, 10_141_441),
}
# Multiplications an image, in units of 10^9, of the plain form: shortcuts on the large side.
GIGA_MACS = {
    "sagan-imagenet128": (9.2159, 4.7351),
    "sagan-imagenet128-64": (9.5095, 4.8819),
    "sngan-cifar10": (1.6811, 0.2721),
    "sngan-cifar10-cond": (1.6811, 0.2721),
    "sagan-cifar10": (1.7047, 0.2786),
    "sagan-celeba64": (1.9973, 0.6605),
    "sngan-celeba64": (1.9553, 0.6448),
}


@cache
def pair_on_meta(preset: str) -> tuple[nn.Module, nn.Module, int]:
    config = presets.load(preset)
    n_classes = CLASSES.get(preset, 10)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(spectral, "START_ITERATIONS", 1)  # there are no values to iterate on
        networks = build_networks(config.model, config.data, torch.Generator("cpu"), n_classes)
    return *networks, n_classes


@pytest.mark.parametrize("preset", PARAMETERS)
def test_the_presets_have_the_published_numbers_of_parameters(preset: str) -> None:
    *networks, _ = pair_on_meta(preset)
    found = tuple(sum(p.numel() for p in network.parameters()) for network in networks)
    assert found == PARAMETERS[preset]


@pytest.mark.parametrize("preset", GIGA_MACS)
def test_the_plain_form_has_the_published_number_of_multiplications(preset: str) -> None:
    """Counted by torch. The plain form is the one that ganctl's networks are tested against."""
    config = presets.load(preset)
    with torch.device("meta"):
        generator, discriminator = reference.build(config, CLASSES.get(preset, 10))
        z, labels = torch.randn(1, 128), torch.zeros(1, dtype=torch.int64)
        for network in (generator, discriminator):
            network.eval()
        with FlopCounterMode(display=False) as g_count:
            images = generator(z, labels)
        with FlopCounterMode(display=False) as d_count:
            discriminator(images, labels)
    found = [count.get_total_flops() / 2e9 for count in (g_count, d_count)]
    assert found == pytest.approx(GIGA_MACS[preset], rel=2e-3)


@pytest.mark.parametrize("preset", PARAMETERS)
def test_images_and_scores_have_their_shapes(preset: str) -> None:
    generator, discriminator, _ = pair_on_meta(preset)
    size = presets.load(preset).data.resolution
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    images = generator(torch.randn(2, 128, device="meta"), labels)
    assert images.shape == (2, 3, size, size)
    assert discriminator(images, labels).shape == (2,)


@pytest.mark.parametrize(
    ("preset", "g_size", "d_size"),
    [("sagan-imagenet128", 32, 32), ("sagan-imagenet128-64", 64, 64), ("sagan-cifar10", 16, 16)],
)
def test_attention_stands_where_the_papers_have_it(preset: str, g_size: int, d_size: int) -> None:
    generator, discriminator, _ = pair_on_meta(preset)
    sizes: list[int] = []
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.register_forward_hook(lambda _m, args, _o: sizes.append(args[0].shape[-1]))
    labels = torch.zeros(1, dtype=torch.int64, device="meta")
    discriminator(generator(torch.randn(1, 128, device="meta"), labels), labels)
    assert sizes == [g_size, d_size]


@pytest.mark.parametrize("preset", PARAMETERS)
def test_the_estimate_of_weights_is_below_them_and_of_their_order(preset: str) -> None:
    config = presets.load(preset)
    estimates = least_weights(config.model, config.data, CLASSES.get(preset, 10))
    for least, true in zip(estimates, PARAMETERS[preset], strict=True):
        assert 0.7 * true < least < true


@pytest.mark.parametrize("halve", [True, False])
def test_a_shortcut_sees_its_input_and_not_what_relu_left_of_it(halve: bool) -> None:
    """The bug of an in-place ReLU: with all convolutions but the shortcut at zero, -1 stays -1."""
    block = DownBlock(4, 4, 4, halve, 1.0, spectral_norm=False)
    for layer in (block.conv1, block.conv2):
        nn.init.zeros_(layer.weight)
    if block.shortcut is not None:
        nn.init.dirac_(block.shortcut.weight)
    x = -torch.ones(1, 4, 4, 4)
    assert torch.equal(block(x), -torch.ones(1, 4, 2 if halve else 4, 2 if halve else 4))
    assert torch.equal(x, -torch.ones(1, 4, 4, 4))


def test_what_is_normalised_is_what_the_papers_normalise() -> None:
    """In D everything, the classes' embedding too; in G everything but batch norm's tables."""
    generator, discriminator, _ = pair_on_meta("sagan-cifar10")
    kinds = nn.Conv2d | nn.Linear | nn.Embedding
    d_layers = [name for name, m in discriminator.named_modules() if isinstance(m, kinds)]
    assert sorted(w.layer for w in normalized_weights(discriminator)) == sorted(d_layers)
    assert "projection" in d_layers
    normalized = {w.layer for w in normalized_weights(generator)}
    for name, module in generator.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert name in normalized
        elif isinstance(module, nn.Embedding):
            assert name not in normalized
    plain, _, _ = pair_on_meta("sngan-cifar10")
    assert not list(normalized_weights(plain))


def small(**changes: Any) -> Generator:
    config = replace(presets.load("sngan-cifar10-cond"), {"model.width": 8, **changes})
    generator, _ = build_networks(config.model, config.data, random_stream(0, "init"), 3)
    assert isinstance(generator, Generator)
    return generator


def test_a_new_generator_ignores_its_class_and_a_changed_row_changes_that_class_alone() -> None:
    generator = small().eval()
    z = torch.randn(1, 128).expand(3, -1)
    images = generator(z, torch.arange(3))
    torch.testing.assert_close(images[0], images[1])
    with torch.no_grad():
        generator.blocks[0].norm1.scale.weight[1] *= 2
    changed = generator(z, torch.arange(3))
    assert not torch.allclose(changed[1], images[1])
    torch.testing.assert_close(changed[[0, 2]], images[[0, 2]])


def test_the_projection_adds_the_inner_product_with_the_classes_row() -> None:
    config = replace(presets.load("sngan-cifar10-cond"), {"model.width": 8})
    _, d = build_networks(config.model, config.data, random_stream(0, "init"), 3)
    x = torch.randn(2, 3, 32, 32)
    features = x
    for block in d.blocks:
        features = block(features)
    features = relu(features).sum((2, 3))
    expected = d.score(features).squeeze(1) + (d.projection.weight[[2, 0]] * features).sum(1)
    torch.testing.assert_close(d(x, torch.tensor([2, 0])), expected)


def test_a_conditional_network_without_labels_says_so() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        small()(torch.randn(2, 128))


def test_initial_kernels_have_the_papers_gains() -> None:
    """SNGAN: sqrt 2 for the residual 3 x 3 kernels, 1 elsewhere."""
    generator = small()
    for layer, gain in ((generator.blocks[0].conv2, 2**0.5), (generator.blocks[0].shortcut, 1.0)):
        fans = layer.weight[0, 0].numel() * (layer.in_channels + layer.out_channels)
        assert 0.97 < layer.weight.abs().max() / (gain * (6 / fans) ** 0.5) <= 1.0001


@pytest.mark.usefixtures("without_values")
def test_both_networks_run_forward_on_a_pretended_gpu() -> None:
    config = replace(presets.load("sagan-cifar10"), {"model.width": 8})
    with FakeTensorMode(), torch.device("cuda"):
        networks = build_networks(config.model, config.data, torch.Generator("cpu"), 3)
        labels = torch.zeros(4, dtype=torch.int64)
        scores = networks[1](networks[0](torch.randn(4, 128), labels), labels)
    assert (scores.device.type, scores.shape) == ("cuda", (4,))


def test_the_blocks_up_sampled_shortcut_equals_the_plain_order() -> None:
    block = small().blocks[0].eval()
    x = torch.randn(2, 16, 4, 4)
    up = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    plain = conv2d(up, block.shortcut.weight, block.shortcut.bias)
    residual = block.conv2(
        relu(
            block.norm2(
                block.conv1(relu(block.norm1(x, torch.zeros(2).long()))), torch.zeros(2).long()
            )
        )
    )
    torch.testing.assert_close(block(x, torch.zeros(2).long()), plain + residual)


@pytest.mark.parametrize("preset", ["sagan-celeba64", "celeba64"])
def test_maps_stay_channels_last_from_end_to_end(preset: str) -> None:
    """Convolutions and the fused attention are much slower otherwise, and nothing would say so."""
    config = replace(presets.load(preset), {"model.width": 16})
    pair = build_networks(config.model, config.data, random_stream(0, "init"), 0)
    lost = []

    def check(module: nn.Module, _: Any, maps: torch.Tensor) -> None:
        if not maps.is_contiguous(memory_format=torch.channels_last):
            lost.append(f"{type(module).__name__} {tuple(maps.shape)}")
        if isinstance(module, SelfAttention):
            lost.extend("projection" for each in module._projections(maps) if each.stride(2) != 1)

    for network in pair:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | SelfAttention):
                module.register_forward_hook(check)
    with torch.no_grad():
        pair[1](pair[0](torch.randn(2, config.model.latent_dim)))
    assert lost == []
