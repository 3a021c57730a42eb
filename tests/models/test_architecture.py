"""An architecture is one record: a third one is a module and an entry, an unknown one an error."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from ganctl import models
from ganctl.models import (
    architecture,
    architecture_of,
    build_networks,
    fold,
    least_weights,
    pieces,
)
from ganctl.models.architecture import Architecture
from ganctl.models.bounds import Piece, product
from ganctl.models.layers import head, linear
from ganctl.runtime import random_stream
from ganctl.settings import config, presets
from ganctl.settings.sections import DataConfig, Section


class PlainConfig(Section):
    resolutions: ClassVar = [32]
    conditional: ClassVar = False

    architecture: Literal["plain"] = "plain"
    latent_dim: int = 6


class PlainGenerator(architecture.Generator):
    n_classes = 0

    def __init__(self, latent_dim: int, resolution: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layer = linear(latent_dim, 3 * resolution**2)
        self.resolution = resolution

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layer(z).unflatten(1, (3, self.resolution, self.resolution)).tanh()


class PlainDiscriminator(architecture.Discriminator):
    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.layer = head(3 * resolution**2)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layer(images.flatten(1)).squeeze(1)


def build(
    model: PlainConfig, data: DataConfig, n_classes: int
) -> tuple[PlainGenerator, PlainDiscriminator]:
    return PlainGenerator(model.latent_dim, data.resolution), PlainDiscriminator(data.resolution)


def chain(
    network: nn.Module, norms: Mapping[str, float], sides: Mapping[str, int]
) -> Iterator[Piece]:
    yield Piece("layer", norms["layer"])


PLAIN = Architecture(
    PlainGenerator, PlainDiscriminator, build,
    lambda model, data, _: (model.latent_dim * 3 * data.resolution**2, 3 * data.resolution**2),
    lambda generator: nn.Sequential(generator), chain,
)  # fmt: skip
DATA = presets.load("faces32").data


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> PlainConfig:
    monkeypatch.setitem(models.ARCHITECTURES, "plain", PLAIN)
    return PlainConfig()


def test_a_third_architecture_is_built_folded_bounded_and_sized_by_its_record(
    plain: Any,
) -> None:
    generator, discriminator = build_networks(plain, DATA, random_stream(0, "init"))
    assert architecture_of(generator) is architecture_of(discriminator) is PLAIN
    z = torch.randn(2, 6)
    assert torch.equal(fold(generator)(z), generator(z))
    assert discriminator(generator(z)).shape == (2,)
    assert least_weights(plain, DATA) == (6 * 3072, 3072)
    assert product(pieces(generator, {"layer": 1.5}, {})) == 1.5


def test_an_unknown_architecture_is_an_error_everywhere(plain: Any) -> None:
    generator, discriminator = build_networks(plain, DATA, random_stream(0, "init"))
    del models.ARCHITECTURES["plain"]
    try:
        for task in (
            lambda: architecture_of(generator),
            lambda: fold(generator),
            lambda: pieces(discriminator, {}, {}),
        ):
            with pytest.raises(TypeError, match=r"Plain.* is of no known architecture"):
                task()
        with pytest.raises(KeyError):
            build_networks(plain, DATA, random_stream(0, "init"))
        with pytest.raises(KeyError):
            least_weights(plain, DATA)
    finally:
        models.ARCHITECTURES["plain"] = PLAIN  # for monkeypatch to take away


def test_settings_and_records_have_the_same_architectures() -> None:
    assert list(config.architectures()) == list(models.ARCHITECTURES)


@pytest.mark.parametrize("preset", ["celeba64", "sagan-cifar10"])
def test_folding_stays_on_the_networks_device(preset: str) -> None:
    """On a device without values, where a tensor made elsewhere would not fit."""
    loaded = presets.load(preset)
    with torch.device("meta"):
        generator, _ = build_networks(loaded.model, loaded.data, random_stream(0, "init"), 3)
    folded = fold(generator)
    assert {p.device.type for p in folded.parameters()} == {"meta"}
    labels = [torch.zeros(2, dtype=torch.long, device="meta")] * bool(generator.n_classes)
    images = folded(torch.empty(2, generator.latent_dim, device="meta"), *labels)
    assert images.device.type == "meta"


def test_a_score_is_not_rounded_by_autocast() -> None:
    """bf16 has eight bits: near 100 its numbers are half apart."""
    layer = head(64)
    with torch.no_grad():
        layer.bias.fill_(100.123)
    features = torch.randn(16, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        scores = layer(features)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, layer(features.float()))


@pytest.mark.parametrize("preset", ["faces32", "sngan-cifar10", "sagan-cifar10"])
def test_the_scores_of_a_discriminator_are_fp32_in_a_bf16_step(preset: str) -> None:
    loaded = presets.load(preset)
    _, discriminator = build_networks(loaded.model, loaded.data, random_stream(0, "init"), 3)
    with torch.autocast("cpu", torch.bfloat16):
        scores = discriminator(torch.randn(4, 3, 32, 32), torch.arange(4) % 3)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_a_class_gain_of_a_third_of_a_per_cent_is_felt_in_bf16() -> None:
    """bf16 has no number between 1 and 1.0078."""
    loaded = presets.load("sagan-cifar10")
    generator, _ = build_networks(loaded.model, loaded.data, random_stream(0, "init"), 2)
    norm = generator.blocks[0].norm1
    with torch.no_grad():
        norm.scale.weight[1] = 1.003
    x = torch.randn(64, norm.norm.num_features, 8, 8).bfloat16()
    plain, scaled = (norm(x, torch.full((64,), label)).float() for label in (0, 1))
    assert plain.dtype == scaled.dtype == torch.float32
    ratio = (scaled.abs().mean() / plain.abs().mean()).item()
    assert ratio == pytest.approx(1.003, abs=2e-4)
    assert math.isfinite(ratio)


def test_a_gain_of_mixed_classes_is_felt_in_a_bf16_step() -> None:
    """Shares of classes are multiplied with the tables, which autocast would round as well."""
    loaded = presets.load("sagan-cifar10")
    generator, _ = build_networks(loaded.model, loaded.data, random_stream(0, "init"), 2)
    norm = generator.blocks[0].norm1
    with torch.no_grad():
        norm.scale.weight.fill_(1.003)
    x = torch.randn(64, norm.norm.num_features, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        scaled = norm(x, torch.full((64, 2), 0.5))
    ratio = (scaled.float().abs().mean() / norm.norm(x).float().abs().mean()).item()
    assert scaled.dtype == torch.bfloat16
    assert ratio == pytest.approx(1.003, abs=2e-4)
