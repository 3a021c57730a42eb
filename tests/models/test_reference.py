"""ganctl's networks against plain PyTorch ones with the same weights: images, scores, gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks import reference
from ganctl.models import build_networks
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import replace

N_CLASSES = 3
SIZES = {
    "celeba64": {},
    "narrow, unscaled": {"model.width": 16, "model.attention": {"at": [16, 32], "scaled": False, "pooled": True}},
    "full attention": {"model.width": 16, "model.attention": {"at": [32], "scaled": True, "pooled": False}},
    "32 px": {"data.resolution": 32, "model.width": 24, "model.attention": {"at": [8], "scaled": True, "pooled": True}},
    "128 px": {"data.resolution": 128, "model.width": 8},
}  # fmt: skip
RESIDUAL = {  # preset and changes
    "sagan-celeba64, narrow": ("sagan-celeba64", {"model.width": 16}),
    "sagan-cifar10": ("sagan-cifar10", {"model.width": 32}),
    "sngan-cifar10-cond": ("sngan-cifar10-cond", {"model.width": 128}),
    "sagan-imagenet128, narrow": ("sagan-imagenet128", {"model.width": 8}),
}


def error(ours: Tensor, theirs: Tensor) -> float:
    """The length of the difference, relative to the reference's."""
    return float((ours - theirs).norm() / theirs.norm())


Pair = tuple[nn.Module, nn.Module]
Gradients = list[Tensor]


def both_pairs(size: str, dtype: torch.dtype, seed: int = 0) -> tuple[Pair, Pair, Tensor]:
    """ganctl's networks, the plain ones with the same weights, and latents for them."""
    preset, changes = RESIDUAL.get(size) or ("celeba64", SIZES[size])
    config = replace(presets.load(preset), changes)
    ours = build_networks(config.model, config.data, random_stream(0, "init"), N_CLASSES)
    theirs = reference.build(config, N_CLASSES)
    z = torch.randn(2, config.model.latent_dim, generator=random_stream(seed, "z"))
    for network, plain in zip(ours, theirs, strict=True):
        for module in network.modules():
            if hasattr(module, "gamma"):
                nn.init.constant_(module.gamma, 0.5)  # at its start, 0, attention would not count
            if isinstance(module, nn.Embedding) and not parametrize.is_parametrized(module):
                nn.init.uniform_(module.weight, 0.5, 1.5)  # at their start all classes are equal
        reference.load(plain, network)
        network.to(dtype)
        plain.to(dtype).eval()  # in training mode its spectral norm would iterate
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
    return ours, theirs, z.to(dtype)


def outputs(pair: Pair, z: Tensor) -> tuple[Tensor, Tensor, Gradients, Gradients]:
    """Images, scores, and the gradients of the scores' sum for G and for D."""
    generator, discriminator = pair
    labels = torch.arange(len(z)) % N_CLASSES
    images = generator(z, labels)
    scores = discriminator(images, labels)
    scores.sum().backward()
    gradients = [[p.grad for _, p in sorted(n.named_parameters())] for n in pair]
    return images.detach(), scores.detach(), gradients[0], gradients[1]


@pytest.mark.parametrize("size", [*SIZES, *RESIDUAL])
def test_images_scores_and_gradients_equal_the_references(size: str) -> None:
    """In fp32, to 1e-5; each network's gradient as one long vector.

    A unit whose input is zero but for rounding may get either slope of its ReLU, under any two
    orders of summation, and moves the gradient by 1e-3. So latents without such a unit are sought.
    """
    gradient_errors = []
    for seed in range(24):
        ours, theirs, z = both_pairs(size, torch.float32, seed)
        mine, plain = outputs(ours, z), outputs(theirs, z)
        for found, expected in zip(mine[:2], plain[:2], strict=True):
            assert error(found, expected) < 1e-5
        flat = [torch.cat([g.flatten() for g in part]) for part in (*mine[2:], *plain[2:])]
        gradient_errors.append(max(error(flat[0], flat[2]), error(flat[1], flat[3])))
        assert gradient_errors[-1] < 1e-2
        if gradient_errors[-1] < 1e-5:
            return
    pytest.fail(f"the gradients differ by {gradient_errors}")


@pytest.mark.parametrize("size", [*SIZES, *RESIDUAL])
def test_in_double_precision_every_gradient_is_equal(size: str) -> None:
    """So what differs in fp32 is rounding, in sums such as gamma's that nearly cancel.

    A bias before batch norm has no gradient but rounding: short ones count by the longest.
    """
    ours, theirs, z = both_pairs(size, torch.float64)
    for found, expected in zip(outputs(ours, z)[2:], outputs(theirs, z)[2:], strict=True):
        least = 1e-3 * max(gradient.norm() for gradient in expected)
        for mine, plain in zip(found, expected, strict=True):
            assert (mine - plain).norm() < 1e-10 * max(plain.norm(), least)
