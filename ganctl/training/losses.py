"""What D and G minimise, and the penalties on D's gradient. All in fp32; scores are (B,)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import relu, softplus

Critic = Callable[[Tensor], Tensor]  # images (B, 3, H, W) to scores (B,)


class Loss(NamedTuple):
    """A pair of losses, each a mean over the batch: (). One entry in LOSSES is all a loss needs."""

    discriminator: Callable[[Tensor, Tensor], Tensor]  # of real and fake scores
    generator: Callable[
        [Tensor, Tensor | None], Tensor
    ]  # of fake scores, and real ones if relative
    relative: bool = False  # whether G's loss compares with real scores


def hinge_d(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]: SAGAN eq. 4; 2 where D is 0."""
    return relu(1 - real_scores).mean() + relu(1 + fake_scores).mean()


def negative_mean(fake_scores: Tensor, real_scores: Tensor | None) -> Tensor:
    """-E[D(G(z))]: SAGAN eq. 4, and the Wasserstein generator's."""
    return -fake_scores.mean()


def nonsaturating_d(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """-E[log s(D(x))] - E[log(1 - s(D(G(z))))], s the sigmoid: Goodfellow et al. 2014, eq. 1."""
    return softplus(-real_scores).mean() + softplus(fake_scores).mean()


def nonsaturating_g(fake_scores: Tensor, real_scores: Tensor | None) -> Tensor:
    """-E[log s(D(G(z)))]: Goodfellow et al. 2014, section 3."""
    return softplus(-fake_scores).mean()


def wasserstein_d(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """E[D(G(z))] - E[D(x)]: Arjovsky et al. 2017, with the sign that D minimises."""
    return fake_scores.mean() - real_scores.mean()


def relativistic_d(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """E[-log s(D(x) - D(G(z)))], each real image beside a fake one: Huang et al. 2024, eq. 2.

    R3GAN, https://arxiv.org/abs/2501.05441; it needs R1 and R2, and no normalisation.
    """
    return softplus(fake_scores - real_scores).mean()


def relativistic_g(fake_scores: Tensor, real_scores: Tensor | None) -> Tensor:
    """E[-log s(D(G(z)) - D(x))]: the same game, with the sides changed."""
    assert real_scores is not None
    return softplus(real_scores - fake_scores).mean()


LOSSES = {
    "hinge": Loss(hinge_d, negative_mean),
    "nonsaturating": Loss(nonsaturating_d, nonsaturating_g),
    "wasserstein": Loss(wasserstein_d, negative_mean),
    "relativistic": Loss(relativistic_d, relativistic_g, relative=True),
}


def gradient_penalty(discriminator: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(): E[(|grad D(x)| - 1)^2] between real and fake images: Gulrajani et al. 2017, eq. 3.

    real, fake: (B, 3, H, W); mix: (B, 1, 1, 1) in [0, 1], the share of the real image.
    """
    between = (mix * real + (1 - mix) * fake).detach()
    return (_gradient(discriminator, between).flatten(1).norm(dim=1) - 1).square().mean()


def r1_penalty(discriminator: Critic, images: Tensor) -> Tensor:
    """(): E[|grad D(x)|^2] / 2 at real images (B, 3, H, W): Mescheder et al. 2018, eq. 9.

    At generated images it is R2, their eq. 10.
    """
    return _gradient(discriminator, images).square().flatten(1).sum(1).mean() / 2


def _gradient(discriminator: Critic, images: Tensor) -> Tensor:
    """(B, 3, H, W): of each score with respect to its image, differentiable once more."""
    images = images.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        scores = discriminator(images)
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient
