"""LeCam regularisation by hand, and its averages in a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import given

from ganctl.errors import CheckpointError
from ganctl.models.spectral import normalized, power_iterate
from ganctl.settings.config import Config
from ganctl.store import runs
from ganctl.training import lecam, state
from ganctl.training.losses import LOSSES
from ganctl.training.step import train_step, update_discriminator
from tests.training.test_resume import trained

CPU = torch.device("cpu")


def test_only_scores_beyond_the_other_kinds_average_pay() -> None:
    scores = torch.tensor([2.0, -1.0, 1.5, -3.0])  # two real ones, two fake ones
    averages = torch.tensor([1.0, -0.5])
    found = lecam.regularizer(scores, averages)
    expected = ((2 + 0.5) ** 2 + 0) / 2 + (0 + (1 + 3) ** 2) / 2
    assert found.item() == pytest.approx(expected)


def test_the_averages_move_by_a_hundredth_and_never_to_what_is_not_finite() -> None:
    averages = torch.zeros(2)
    lecam.follow(averages, torch.tensor([1.0, 3.0]), torch.tensor([-4.0, -4.0]))
    torch.testing.assert_close(averages, torch.tensor([0.02, -0.04]))
    lecam.follow(averages, torch.tensor([torch.inf]), torch.tensor([-4.0]))
    torch.testing.assert_close(averages, torch.tensor([0.02, -0.0796]))


def test_gradients_draw_scores_towards_the_other_average() -> None:
    scores = torch.tensor([2.0, 1.0, -3.0, -2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(lecam.regularizer(scores, torch.zeros(2)), scores)
    assert gradient.tolist() == [2.0, 1.0, -3.0, -2.0]


def test_a_step_adds_it_to_ds_loss_with_the_averages_from_before(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    """The gradient of D is that of the plain loss plus the weight times the regulariser's."""
    config, averages = tiny(loss__lecam=0.3), torch.tensor([0.2, -0.3])
    current, plain = state.create(config, CPU), state.create(tiny(), CPU)
    assert current.score_averages is not None
    current.score_averages.copy_(averages)
    seen: list[torch.Tensor] = []
    current.discriminator.register_forward_hook(lambda _m, _a, out: seen.append(out))
    parameters = list(plain.discriminator.parameters())
    (part,) = given(faces, config).d_updates[0]
    update_discriminator(current, [part], config)
    assert not torch.equal(current.score_averages, averages)

    sigmas = power_iterate(plain.discriminator)
    with torch.no_grad(), normalized(plain.generator):
        fake = plain.generator(*part.latents)
    with normalized(plain.discriminator, sigmas):
        scores = plain.discriminator(torch.cat([part.real.pixels.images(), fake]), None)
        torch.testing.assert_close(scores, seen[0])
        regularizer = lecam.regularizer(scores, averages)
        assert regularizer > 0.01
        loss = LOSSES["hinge"].discriminator(*scores.chunk(2)) + 0.3 * regularizer
        expected = torch.autograd.grad(loss, parameters)
    first = [current.d_optimizer.state[p] for p in current.discriminator.parameters()]
    beta = config.optim.betas[0]
    for moments, gradient in zip(first, expected, strict=True):
        torch.testing.assert_close(moments["exp_avg"], (1 - beta) * gradient)
    assert plain.score_averages is None


def test_the_averages_do_not_depend_on_how_a_batch_is_cut(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    found = []
    for parts in (1, 2, 4):
        config = tiny(loss__lecam=0.3, optim__grad_accumulation=parts)
        current = state.create(config, CPU)
        current.generator.eval()  # batch norm would see the parts
        update_discriminator(current, given(faces, config).d_updates[0], config)
        found.append(current.score_averages)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__lecam": 0.3}, {"loss__lecam": 0.3, "train__precision": "bf16"}, {"model__san": True},
        {"loss__kind": "relativistic", "loss__r1": 1.0, "loss__r2": 1.0, "model__d_spectral_norm": False,
         "model__g_spectral_norm": False},
    ],
)  # fmt: skip
def test_interrupted_equals_uninterrupted(
    tiny: Callable[..., Config], faces: np.ndarray, changes: dict[str, Any]
) -> None:
    whole, parts = (runs.create(Path(name), "x", tiny()) for name in ("whole", "parts"))
    expected = trained(whole, tiny(**changes, train__steps=5, train__checkpoint_every=5), faces)
    for steps in (2, 5):
        found = trained(parts, tiny(**changes, train__steps=steps), faces, resume=steps > 2)
    assert found == expected


def test_a_checkpoint_without_averages_is_refused_by_a_run_that_has_them(
    tiny: Callable[..., Config],
) -> None:
    current = state.create(tiny(loss__lecam=0.3), CPU)
    payload = current.payload()
    del payload["score_averages"]
    with pytest.raises(CheckpointError, match="score_averages is missing"):
        current.load(payload, Path("x.pt"))


@pytest.mark.parametrize("san", [False, True])
def test_r1_and_r2_together_are_differentiated_twice(
    faces: np.ndarray, tiny: Callable[..., Config], san: bool
) -> None:
    """With networks without spectral norm, as R3GAN has them."""
    config = tiny(
        loss__kind="relativistic", loss__r1=1.0, loss__r2=1.0, loss__lecam=0.3, model__san=san,
        model__d_spectral_norm=False, model__g_spectral_norm=False,
    )  # fmt: skip
    current = state.create(config, CPU)
    before = [p.clone() for n in (current.generator, current.discriminator) for p in n.parameters()]
    metrics = train_step(current, given(faces, config), config)
    train_step(current, given(faces, config, 1), config)
    after = [p for n in (current.generator, current.discriminator) for p in n.parameters()]
    assert metrics.d.loss.isfinite()
    # A bias of D's last layer cancels in the differences.
    assert sum(torch.equal(a, b) for a, b in zip(before, after, strict=True)) <= 1
    assert all(p.isfinite().all() for p in after)
