"""The losses by hand and against torch's; the penalties on functions with a known gradient."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ganctl.training.losses import LOSSES, gradient_penalty, r1_penalty

REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])


def test_hinge_by_hand() -> None:
    d, g, _ = LOSSES["hinge"]
    assert d(REAL, FAKE).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    assert g(FAKE, None).item() == pytest.approx(2 / 3)
    assert d(torch.zeros(4), torch.zeros(4)).item() == 2


def test_nonsaturating_is_cross_entropy_of_the_logits() -> None:
    d, g, _ = LOSSES["nonsaturating"]
    ones, zeros = torch.ones(3), torch.zeros(3)
    cross_entropy = binary_cross_entropy_with_logits
    torch.testing.assert_close(
        d(REAL, FAKE), cross_entropy(REAL, ones) + cross_entropy(FAKE, zeros)
    )
    torch.testing.assert_close(g(FAKE, None), cross_entropy(FAKE, ones))


def test_wasserstein_by_hand() -> None:
    d, g, _ = LOSSES["wasserstein"]
    assert d(REAL, FAKE).item() == pytest.approx(-2 / 3 - 0.5)
    assert g(FAKE, None).item() == pytest.approx(2 / 3)


def test_relativistic_is_cross_entropy_of_the_differences_of_pairs() -> None:
    d, g, relative = LOSSES["relativistic"]
    assert relative
    by_hand = [math.log(1 + math.exp(-gap)) for gap in (5.0, 0.5, -2.0)]
    assert d(REAL, FAKE).item() == pytest.approx(sum(by_hand) / 3)
    ones = torch.ones(3)
    torch.testing.assert_close(g(FAKE, REAL), binary_cross_entropy_with_logits(FAKE - REAL, ones))
    assert d(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(math.log(2))
    torch.testing.assert_close(d(REAL + 7, FAKE + 7), d(REAL, FAKE))


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_push_the_scores_apart_for_d_and_up_for_g(kind: str) -> None:
    real, fake = (torch.zeros(2, requires_grad=True) for _ in range(2))
    d_real, d_fake = torch.autograd.grad(LOSSES[kind].discriminator(real, fake), [real, fake])
    (g_fake,) = torch.autograd.grad(LOSSES[kind].generator(fake, real.detach()), [fake])
    assert (d_real < 0).all()
    assert (d_fake > 0).all()
    assert (g_fake < 0).all()


class Linear(nn.Module):
    """D(x) = a * sum(x): its gradient is a everywhere."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.slope * images.flatten(1).sum(1)


def test_penalties_of_a_linear_score_by_hand() -> None:
    critic, real, fake = Linear(0.5), torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    size = 0.5 * math.sqrt(12)
    mix = torch.rand(4, 1, 1, 1)
    penalty = gradient_penalty(critic, real, fake, mix)
    assert penalty.item() == pytest.approx((size - 1) ** 2, rel=1e-5)
    assert r1_penalty(critic, real).item() == pytest.approx(size**2 / 2, rel=1e-5)
    penalty.backward()
    assert critic.slope.grad.item() == pytest.approx(2 * (size - 1) * math.sqrt(12), rel=1e-5)


def test_gradient_penalty_looks_between_real_and_fake() -> None:
    seen = []

    class Recorder(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    mix = torch.tensor([0.25, 1.0])[:, None, None, None]
    gradient_penalty(Recorder(1.0), torch.ones(2, 3, 1, 1), torch.zeros(2, 3, 1, 1), mix)
    assert torch.equal(seen[0], mix.expand(2, 3, 1, 1))
