"""ganctl's networks against plain PyTorch ones with the same weights: images, scores, gradients."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks import reference
from ganctl import presets
from ganctl.config import replace
from ganctl.models import build_networks
from ganctl.runtime import random_stream

SIZES = {
    "celeba64": {},
    "narrow, unscaled": {"model.width": 16, "model.attention": {"at": [16, 32], "scaled": False, "pooled": True}},
    "full attention": {"model.width": 16, "model.attention": {"at": [32], "scaled": True, "pooled": False}},
    "32 px": {"data.resolution": 32, "model.width": 24, "model.attention": {"at": [8], "scaled": True, "pooled": True}},
    "128 px": {"data.resolution": 128, "model.width": 8},
}  # fmt: skip


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the largest value of the reference."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_images_scores_and_gradients_equal_the_references(size: str) -> None:
    config = replace(presets.load("celeba64"), SIZES[size])
    ours = build_networks(config.model, config.data, random_stream(0, "init"))
    theirs = reference.build(config)
    z = torch.randn(2, config.model.latent_dim, generator=random_stream(0, "z"))
    for network, plain in zip(ours, theirs, strict=True):
        for module in network.modules():
            if hasattr(module, "gamma"):
                nn.init.constant_(module.gamma, 0.5)  # at its start, 0, attention would not count
        reference.load(plain, network)
        plain.eval()  # its spectral norm would iterate
        for part in (network, plain):
            for module in part.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.train()
    images, scores, gradients = [], [], []
    for generator, discriminator in (ours, theirs):
        image = generator(z)
        score = discriminator(image)
        score.sum().backward()
        images.append(image.detach())
        scores.append(score.detach())
        named = [*generator.named_parameters(), *discriminator.named_parameters()]
        gradients.append([parameter.grad for _, parameter in named])
    assert error(*images) < 1e-5
    assert error(*scores) < 1e-5
    for mine, plain_gradient in zip(*gradients, strict=True):
        assert error(mine, plain_gradient) < 1e-4
