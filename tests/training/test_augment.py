"""Augmentation: against rolled and masked images, differentiable, drawn sample by sample."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import batches_of, inputs_of
from torch import Tensor, nn

from ganctl.settings.config import Config
from ganctl.training import augment, state
from ganctl.training.augment import WIDTH, augmented, draws
from ganctl.training.inputs import Inputs
from ganctl.training.losses import gradient_penalty, r1_penalty
from ganctl.training.step import train_step, update_discriminator, update_generator
from tests.training.test_inputs import joined, tensors

CPU = torch.device("cpu")
ALL = ["colour", "translation", "cutout"]
AUGMENTED: dict[str, Any] = {"augment__policy": ALL, "augment__probability": 0.8}


def some(count: int = 5, side: int = 16) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, side, side, generator=stream) * 2 - 1, draws(0, "test", 0, count)


def test_colour_is_that_of_plain_loops() -> None:
    images, drawn = some()
    found = augmented(images, drawn, ["colour"], 1.0)
    for image, row, ours in zip(images, drawn, found, strict=True):
        expected = image + (row[1] - 0.5)
        for y in range(16):
            for x in range(16):
                grey = expected[:, y, x].mean()
                expected[:, y, x] = (expected[:, y, x] - grey) * (2 * row[2]) + grey
        level = expected.mean()
        expected = (expected - level) * (0.5 + row[3]) + level
        torch.testing.assert_close(ours, expected)


def test_translation_is_a_roll_whose_border_is_zero() -> None:
    images, drawn = some(64)
    found = augmented(images, drawn, ["translation"], 1.0)
    seen = set()
    for image, row, ours in zip(images, drawn, found, strict=True):
        down, right = (int(np.floor(float(share) * 5)) - 2 for share in row[5:7])
        expected = image.roll((down, right), (1, 2))
        expected[:, : max(down, 0)], expected[:, 16 + min(down, 0) :] = 0, 0
        expected[:, :, : max(right, 0)], expected[:, :, 16 + min(right, 0) :] = 0, 0
        assert torch.equal(ours, expected)
        seen.add((down, right))
    assert {down for down, _ in seen} == {right for _, right in seen} == {-2, -1, 0, 1, 2}


def test_cutout_is_a_square_of_zeros_with_its_centre_anywhere() -> None:
    images, drawn = some(200)
    found = augmented(images, drawn, ["cutout"], 1.0)
    areas = set()
    for image, row, ours in zip(images, drawn, found, strict=True):
        top, left = (int(np.floor(float(share) * 17)) - 4 for share in row[8:10])
        expected = image.clone()
        expected[:, max(top, 0) : top + 8, max(left, 0) : left + 8] = 0
        assert torch.equal(ours, expected)
        areas.add(int((ours == 0).all(0).sum()))
    assert {16, 64} <= areas  # in a corner, and whole


def test_with_probability_0_images_stay_as_they_are_and_with_a_half_half_of_them() -> None:
    images, drawn = some(400)
    assert torch.equal(augmented(images, drawn, ALL, 0.0), images)
    assert torch.equal(augmented(images, drawn, ALL, torch.zeros(())), images)
    assert torch.equal(augmented(images, drawn, [], 1.0), images)
    for kind in ALL:
        changed = (augmented(images, drawn, [kind], torch.tensor(0.5)) != images).flatten(1).any(1)
        assert 0.38 < changed.float().mean() < 0.62
        as_number = augmented(images, drawn, [kind], 0.5)
        assert torch.equal(as_number, augmented(images, drawn, [kind], torch.tensor(0.5)))


def test_the_higher_the_probability_the_more_of_the_same_images_are_changed() -> None:
    images, drawn = some(100)
    few, many = (
        (augmented(images, drawn, ["cutout"], p) != images).flatten(1).any(1) for p in (0.3, 0.6)
    )
    assert (few <= many).all()
    assert few.sum() < many.sum()


def test_gradients_are_those_of_finite_differences_also_the_second_ones() -> None:
    images, drawn = some(3, 8)
    images = images.double().requires_grad_()

    def change(x: Tensor) -> Tensor:  # in fp64, as small differences need
        y = x
        chosen = torch.ones(3, 1, 1, 1, dtype=torch.bool)
        y = augment._colour(y, drawn.double(), chosen)
        down, right = (m.double() for m in augment._moves(8, drawn, chosen))
        y = down[:, None] @ y @ right[:, None].mT
        return augment._cutout(y, drawn, chosen)

    assert torch.autograd.gradcheck(change, [images])
    assert torch.autograd.gradgradcheck(lambda x: change(x).square(), [images])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_exact_under_autocast(precision: str) -> None:
    images, drawn = some()
    plain = augmented(images, drawn, ALL, 1.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = augmented(images, drawn, ALL, 1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)
    assert augmented(images.bfloat16(), drawn, ALL, 1.0).dtype == torch.float32


def test_penalties_go_through_it() -> None:
    """R1 and the gradient penalty at augmented images, and their gradients for D."""
    images, drawn = some(4, 8)
    critic = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)
    )
    changed = augmented(images, drawn, ALL, 1.0)
    total = r1_penalty(critic, changed) + gradient_penalty(
        critic, changed, -changed, torch.rand(4, 1, 1, 1)
    )
    gradients = torch.autograd.grad(total, list(critic.parameters())[:3])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_draws_are_uniform_and_each_column_has_its_own() -> None:
    drawn = draws(0, "d real/0", 0, 20_000)
    assert drawn.shape == (20_000, WIDTH)
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    torch.testing.assert_close(drawn.mean(0), torch.full((WIDTH,), 0.5), atol=0.01, rtol=0)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.03


def test_draws_do_not_depend_on_how_a_batch_is_cut(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    inputs = inputs_of(faces, tiny(**AUGMENTED, loss__kind="hinge"))
    for at in (inputs.d_at, inputs.g_at):
        whole = list(tensors(at(40, 64)))
        parts = joined([at(40, 7), at(47, 50), at(97, 7)])
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_real_and_fake_images_and_both_updates_are_drawn_apart(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    inputs = inputs_of(faces, tiny(**AUGMENTED))
    again, other = inputs.d_at(0, 8), inputs.d_at(0, 8, rollbacks=1)
    found = [
        again.real.draws, again.fake_draws, inputs.g_at(0, 8).fake_draws, other.real.draws,
        other.fake_draws, inputs.d_at(8, 8).real.draws,
    ]  # fmt: skip
    assert len({tuple(drawn.flatten().tolist()) for drawn in found if drawn is not None}) == 6


def test_without_a_policy_nothing_is_drawn(faces: np.ndarray, tiny: Callable[..., Config]) -> None:
    inputs = inputs_of(faces, tiny())
    given = inputs.d_at(0, 4)
    assert (given.real.draws, given.fake_draws, inputs.g_at(0, 4).fake_draws) == (None, None, None)


def test_d_is_shown_changed_images_in_both_updates(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    """Real and fake ones in its own, fake ones in G's, each by its own draws."""
    config = tiny(augment__policy=["cutout"], augment__probability=1.0)
    trained = state.create(config, CPU)
    seen: list[Tensor] = []
    made: list[Tensor] = []
    trained.discriminator.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    trained.generator.register_forward_hook(lambda _m, _a, out: made.append(out))
    inputs = inputs_of(faces, config).of(0)
    update_discriminator(trained, inputs.d_updates[0], config)
    update_generator(trained, inputs.g_parts, config)
    part, g_part = inputs.d_updates[0][0], inputs.g_parts[0]
    assert part.real.draws is not None
    assert part.fake_draws is not None
    assert g_part.fake_draws is not None
    real = augmented(batches_of(faces, config).at(0, 4), part.real.draws, ["cutout"], 1.0)
    fake = augmented(made[0], part.fake_draws, ["cutout"], 1.0)
    assert torch.equal(seen[0], torch.cat([real, fake]))
    assert torch.equal(seen[1], augmented(made[1], g_part.fake_draws, ["cutout"], 1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"train__precision": "bf16"},
        {"train__precision": "fp16"},
        {"loss__kind": "nonsaturating", "loss__r1": 1.0},
        {
            "loss__kind": "wasserstein",
            "loss__gradient_penalty": 10.0,
            "optim__grad_accumulation": 2,
        },
    ],
)
def test_a_step_with_it_updates_both_networks(
    faces: np.ndarray, tiny: Callable[..., Config], changes: dict[str, Any]
) -> None:
    config = tiny(**AUGMENTED, **changes)
    trained = state.create(config, CPU)
    before = [p.clone() for n in (trained.generator, trained.discriminator) for p in n.parameters()]
    metrics = train_step(trained, inputs_of(faces, config).of(0), config)
    assert torch.stack([*metrics.d, *metrics.g]).isfinite().all()
    after = [p for n in (trained.generator, trained.discriminator) for p in n.parameters()]
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_inputs_without_augmentation_are_those_of_older_versions(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    """Augmentation draws from streams of its own."""
    plain, changed = (
        Inputs(c, batches_of(faces, c), 0).d_at(0, 4) for c in (tiny(), tiny(**AUGMENTED))
    )
    assert torch.equal(plain.latents.z, changed.latents.z)
    assert torch.equal(plain.real.pixels.levels, changed.real.pixels.levels)
