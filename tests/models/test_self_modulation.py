"""Self-modulation against plain loops, and a generator that has it."""

from typing import Any

import torch

from ganctl.models import build_networks, fold, pieces
from ganctl.models.convnet import Generator
from ganctl.models.self_modulation import MappingNetwork, ModulatedBatchNorm2d
from ganctl.models.spectral import normalized_weights
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import replace

LAYOUT: dict[str, Any] = {
    "width": 8, "latent_dim": 6, "attention_at": [], "attention_scaled": True,
    "attention_pooled": True,
}  # fmt: skip


def test_modulated_batch_norm_equals_loops_written_from_the_paper() -> None:
    torch.manual_seed(0)
    norm = ModulatedBatchNorm2d(3, 5).double()
    x, style = torch.randn(4, 3, 2, 2).double() * 2 + 1, torch.randn(4, 5).double()
    found = norm.train()(x, style)
    for channel in range(3):
        values = x[:, channel]
        unit = (values - values.mean()) / (values.var(unbiased=False) + norm.norm.eps).sqrt()
        for image in range(4):
            factor = norm.scale.bias[channel] + sum(
                norm.scale.weight[channel, i] * style[image, i] for i in range(5)
            )
            summand = norm.shift.bias[channel] + sum(
                norm.shift.weight[channel, i] * style[image, i] for i in range(5)
            )
            torch.testing.assert_close(found[image, channel], unit[image] * factor + summand)


def test_a_new_one_hardly_modulates() -> None:
    norm = ModulatedBatchNorm2d(64, 128)
    x, style = torch.randn(8, 64, 4, 4), torch.randn(8, 128)
    plain = torch.nn.BatchNorm2d(64, affine=False)(x)
    assert 0.05 < (norm(x, style) - plain).std() < 0.5


def test_the_mapping_keeps_the_size_of_latent_vectors() -> None:
    torch.manual_seed(0)
    style = MappingNetwork(128)(torch.randn(1000, 128))
    assert style.shape == (1000, 128)
    assert 0.7 < style.square().mean().sqrt() < 1.4


def test_in_bf16_factors_are_not_rounded() -> None:
    norm = ModulatedBatchNorm2d(2, 3).eval()
    torch.nn.init.zeros_(norm.scale.weight)
    torch.nn.init.zeros_(norm.shift.weight)
    torch.nn.init.constant_(norm.scale.bias, 1 + 2**-9)
    x = torch.full((1, 2, 1, 1), 1000.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert (norm(x, torch.ones(1, 3)) > 1001).all()


def test_every_map_depends_on_the_latent_vector_beside_the_first() -> None:
    """With the first map held still, other latent vectors draw other images."""
    torch.manual_seed(0)
    for modulated in (True, False):
        generator = Generator(resolution=32, self_modulation=modulated, **LAYOUT)
        generator.stem.register_forward_hook(lambda _m, _a, out: torch.ones_like(out))
        with torch.no_grad():
            images = generator.eval()(torch.randn(2, 6))
        assert torch.equal(images[0], images[1]) is not modulated


def test_convolutions_are_normalised_and_modulations_are_not() -> None:
    generator = Generator(resolution=32, self_modulation=True, **LAYOUT)
    names = {name for name, _, _ in normalized_weights(generator)}
    assert names == {"stem", "stages.0.conv", "stages.1.conv", "to_rgb"}


def test_folding_changes_no_image() -> None:
    torch.manual_seed(0)
    generator = Generator(resolution=32, self_modulation=True, **LAYOUT)
    generator.train()(torch.randn(32, 6))
    z = torch.randn(5, 6)
    folded = fold(generator)
    assert not list(normalized_weights(folded))
    with torch.no_grad():
        torch.testing.assert_close(folded(z), generator.eval()(z), atol=1e-6, rtol=0)


def test_modulated_pieces_have_no_bound() -> None:
    generator = Generator(resolution=32, self_modulation=True, **LAYOUT)
    norms = dict.fromkeys(("stem", "stages.0.conv", "stages.1.conv", "to_rgb"), 1.0)
    unbounded = [piece.name for piece in pieces(generator, norms, {}) if piece.bound is None]
    assert unbounded == ["mapping", "stem_norm", "stages.0.norm", "stages.1.norm"]


def test_the_article_has_none_of_it() -> None:
    config = presets.load("celeba64")
    assert not config.model.model_dump()["self_modulation"]
    small = replace(config, {"model.width": 8})
    generator, _ = build_networks(small.model, small.data, random_stream(0, "init"))
    assert not any(
        isinstance(m, MappingNetwork | ModulatedBatchNorm2d) for m in generator.modules()
    )
