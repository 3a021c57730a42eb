"""One training step: who is updated, on which device, and the same numbers by parts."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, batches_of
from torch import nn

from ganctl.errors import DivergedError
from ganctl.models.spectral import power_iterate
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.store import checkpoint, runs
from ganctl.store.runs import Run
from ganctl.training import noise, state, train
from ganctl.training.losses import LOSSES
from ganctl.training.metrics import METRICS
from ganctl.training.saving import Saver
from ganctl.training.state import TrainState
from ganctl.training.stopping import StopRequest

CPU = torch.device("cpu")


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def unchanged(network: nn.Module, before: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss__kind": "nonsaturating", "loss__r1": 1.0},
        {"loss__kind": "wasserstein", "loss__gradient_penalty": 10.0, "optim__d_steps_per_g": 2},
        {"optim__grad_accumulation": 2, "data__flip": True, "data__dequantize": True},
        {"model__g_spectral_norm": False, "model__attention": {"at": [], "scaled": False, "pooled": False}},
    ],
)  # fmt: skip
def test_a_whole_step_runs_on_the_meta_device(
    faces: np.ndarray, tiny: Callable[..., Config], changes: dict[str, object]
) -> None:
    """Any tensor made on another device than the networks' would raise here."""
    config = tiny(**changes)
    trained = state.create(config, torch.device("meta"))
    metrics = train.train_step(trained, batches_of(faces, config, "meta"), config)
    assert metrics.device.type == "meta"
    assert metrics.shape == (len(METRICS),)


@pytest.mark.parametrize("preset", [name for name in presets.names() if "32" not in name])
def test_a_step_of_every_preset_runs_on_the_meta_device(preset: str) -> None:
    config = presets.load(preset)
    config = replace(config, {"optim.batch_size": 2, "train.precision": "fp32"})
    images = np.zeros((3, config.data.resolution, config.data.resolution, 3), np.uint8)
    with torch.device("meta"):
        trained = state.create(config, torch.device("meta"), N_CLASSES)
    metrics = train.train_step(trained, batches_of(images, config, "meta"), config)
    assert metrics.shape == (len(METRICS),)


@pytest.mark.parametrize("changes", [{}, {"model__conditional": False}, {"loss__r1": 1.0}])
def test_a_step_of_the_residual_pair_changes_every_weight(
    faces: np.ndarray, tiny_resnet: Callable[..., Config], changes: dict[str, object]
) -> None:
    """After two: in the first, gamma = 0 keeps gradients from the attention's convolutions."""
    config = tiny_resnet(**changes)
    trained = state.create(config, CPU, N_CLASSES)
    before = [weights(network) for network in (trained.generator, trained.discriminator)]
    for _ in range(2):
        train.train_step(trained, batches_of(faces, config), config)
    for network, old in zip((trained.generator, trained.discriminator), before, strict=True):
        for (name, new), was in zip(network.named_parameters(), old, strict=True):
            assert new.isfinite().all()
            assert not torch.equal(new, was), name


def test_real_images_keep_their_classes_and_fake_ones_get_drawn_ones(
    faces: np.ndarray, tiny_resnet: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D sees each real image with its own class, and each fake with the one it was made for."""
    config = tiny_resnet()
    trained, batches = state.create(config, CPU, N_CLASSES), batches_of(faces, config)
    seen: list[torch.Tensor] = []
    made: list[torch.Tensor] = []
    trained.discriminator.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    trained.generator.register_forward_pre_hook(lambda _m, args: made.append(args[1]))
    train.train_step(trained, batches, config)
    order, _ = batches.drawn(0, 4)
    assert seen[0][:4].tolist() == [index % N_CLASSES for index in order]
    assert torch.equal(seen[0][4:], made[0])
    assert torch.equal(seen[1], made[1])


def test_drawn_classes_are_equally_likely(tiny_resnet: Callable[..., Config]) -> None:
    labels = noise.noise(tiny_resnet(), 5, 10_000, CPU, "d", 0).labels
    assert labels is not None
    counts = torch.bincount(labels, minlength=5)
    assert counts.sum() == 10_000
    assert (counts - 2000).abs().max() < 200


def test_rates_fall_linearly_from_one_step_to_another(
    faces: np.ndarray, tiny_resnet: Callable[..., Config]
) -> None:
    config = tiny_resnet(optim__lr_decay=[2, 6], optim__g_lr=0.4, optim__d_lr=0.8)
    trained = state.create(config, CPU, N_CLASSES)
    found = []
    for step in range(6):
        trained.step = step
        train.set_rates(trained, config)
        found.append([o.param_groups[0]["lr"] for o in (trained.g_optimizer, trained.d_optimizer)])
    shares = [1, 1, 1, 0.75, 0.5, 0.25]
    assert np.allclose(found, [[0.4 * share, 0.8 * share] for share in shares])


def test_gs_batches_may_be_a_multiple_of_ds(
    faces: np.ndarray, tiny_resnet: Callable[..., Config]
) -> None:
    config = tiny_resnet(optim__g_batch_multiple=3)
    trained = state.create(config, CPU, N_CLASSES)
    sizes: list[int] = []
    trained.generator.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    train.train_step(trained, batches_of(faces, config), config)
    assert sizes == [4, 12]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_step_updates_both_networks_and_the_average(
    faces: np.ndarray, tiny: Callable[..., Config], kind: str, precision: str
) -> None:
    config = tiny(loss__kind=kind, train__precision=precision)
    trained = state.create(config, CPU)
    networks = (trained.generator, trained.discriminator, trained.generator_ema)
    before = [weights(network) for network in networks]
    metrics = train.train_step(trained, batches_of(faces, config), config)
    assert metrics.isfinite().all()
    assert trained.step == 1
    assert not any(unchanged(n, b) for n, b in zip(networks, before, strict=True))
    assert all(p.dtype == torch.float32 for p in trained.generator.parameters())


def test_fp16_has_a_scaler_for_each_network_and_a_step_that_overflows_is_skipped(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    config = tiny(train__precision="fp16")
    trained = state.create(config, CPU)
    trained.d_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = weights(trained.discriminator)
    train.update_discriminator(trained, batches_of(faces, config), config, 0)
    assert unchanged(trained.discriminator, before)
    assert trained.d_scaler.get_scale() == 2.0**59
    assert trained.g_scaler.get_scale() == 2.0**16


def test_each_network_is_updated_in_its_own_half_only(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    config = tiny()
    trained = state.create(config, CPU)
    g_before, d_before = weights(trained.generator), weights(trained.discriminator)
    train.update_discriminator(trained, batches_of(faces, config), config, 0)
    assert unchanged(trained.generator, g_before)
    assert not unchanged(trained.discriminator, d_before)
    assert all(p.grad is None for p in trained.generator.parameters())
    d_before = weights(trained.discriminator)
    train.update_generator(trained, CPU, config)
    assert unchanged(trained.discriminator, d_before)
    assert not unchanged(trained.generator, g_before)
    assert all(p.grad is None and p.requires_grad for p in trained.discriminator.parameters())


def test_the_step_equals_the_one_written_out_plainly(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    """Two passes of D, hinge and Adam by hand, against update_discriminator and update_generator."""
    config = tiny()
    trained = state.create(config, CPU)
    plain = copy.deepcopy(trained)
    train.train_step(trained, batches_of(faces, config), config)

    g, d = plain.generator, plain.discriminator
    real = batches_of(faces, config).at(0, 4)
    power_iterate(d)
    fake = g(noise.latents(config, 4, "d latents", 0, 0, 0)).detach()
    d_loss = (1 - d(real)).relu().mean() + (1 + d(fake)).relu().mean()
    for p, gradient in zip(
        d.parameters(), torch.autograd.grad(d_loss, list(d.parameters())), strict=True
    ):
        # Adam's first step with beta1 = 0: m = g, v = 0.1 g^2 corrected to g^2.
        p.data -= config.optim.d_lr * gradient / (gradient.abs() + 1e-8)
    power_iterate(g)
    g_loss = -d(g(noise.latents(config, 4, "g latents", 0, 0, 0))).mean()
    for p, gradient in zip(
        g.parameters(), torch.autograd.grad(g_loss, list(g.parameters())), strict=True
    ):
        p.data -= config.optim.g_lr * gradient / (gradient.abs() + 1e-8)
    for ours, theirs in ((trained.generator, g), (trained.discriminator, d)):
        off = [
            (p - q).abs().mean()
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)
        ]
        assert max(off) < 2e-6  # rounding may turn the sign of a vanishing gradient here and there


def test_several_discriminator_steps_see_different_images_and_latents(
    faces: np.ndarray, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(optim__d_steps_per_g=3)
    updates: list[int] = []
    original = train.update_discriminator

    def record(trained: TrainState, batches: object, config: Config, update: int) -> torch.Tensor:
        updates.append(update)
        return original(trained, batches, config, update)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "update_discriminator", record)
    trained, batches = state.create(config, CPU), batches_of(faces, config)
    for _ in range(2):
        train.train_step(trained, batches, config)
    assert updates == [0, 1, 2, 3, 4, 5]


def test_accumulated_gradients_and_figures_equal_those_of_the_whole_batch(
    faces: np.ndarray, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For D, whose score of an image does not depend on the batch; with the same latents."""
    z = torch.randn(4, 8)
    monkeypatch.setattr(
        noise, "latents", lambda _c, count, _p, _r, _u, part: z[part * count : (part + 1) * count]
    )
    moments, figures = [], []
    for parts in (1, 2, 4):
        config = tiny(optim__grad_accumulation=parts)
        trained = state.create(config, CPU)
        trained.generator.eval()  # batch norm would see the parts
        figures.append(train.update_discriminator(trained, batches_of(faces, config), config, 0))
        first = trained.d_optimizer.state_dict()["state"]
        moments.append([first[i]["exp_avg"] for i in sorted(first)])
    for other in moments[1:]:
        for a, b in zip(moments[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    for measured in figures[1:]:
        torch.testing.assert_close(measured, figures[0], rtol=1e-4, atol=1e-6)


def test_latents_are_a_function_of_seed_purpose_and_position(tiny: Callable[..., Config]) -> None:
    config = tiny()
    a = noise.latents(config, 4, "g latents", 3, 0)
    assert torch.equal(a, noise.latents(config, 4, "g latents", 3, 0))
    for other in (
        noise.latents(config, 4, "d latents", 3, 0),
        noise.latents(config, 4, "g latents", 4, 0),
        noise.latents(tiny(train__seed=1), 4, "g latents", 3, 0),
    ):
        assert not torch.equal(a, other)


@pytest.mark.parametrize("where", ["generator", "d_optimizer"])
def test_a_value_that_is_not_finite_is_never_published(
    tiny: Callable[..., Config], faces: np.ndarray, where: str
) -> None:
    config = tiny()
    run, trained = runs.create(Path("run"), "x", config), state.create(config, CPU)
    train.train_step(trained, batches_of(faces, config), config)
    with torch.no_grad():
        if where == "generator":
            next(trained.generator.parameters())[0] = math.nan
        else:
            trained.d_optimizer.state_dict()["state"][0]["exp_avg"][0] = math.inf
    message = f"by step 1: {where}.*; no checkpoint is good"
    with pytest.raises(DivergedError, match=message) as caught:
        Saver(run, config, CPU, {}).save(trained, must=False)
    assert "ganctl resume" not in str(caught.value.hint)  # there is nothing to go back to
    assert not list(run.checkpoints.iterdir())


def poisoned_at(step: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first `times` that training comes to `step`, a weight of G is not a number any more."""
    left = [times]
    honest = train.train_step

    def poisoned(current: TrainState, *rest: Any) -> torch.Tensor:
        metrics = honest(current, *rest)
        if current.step == step and left[0] > 0:
            left[0] -= 1
            with torch.no_grad():
                current.generator.to_rgb.bias.fill_(math.nan)
            metrics = metrics * math.nan
        return metrics

    monkeypatch.setattr(train, "train_step", poisoned)


def trained_in(run: Run, config: Config, faces: np.ndarray) -> TrainState:
    current = state.create(config, CPU)
    data = batches_of(faces, config)
    train.train(current, data, config, run, {}, Silent(), StopRequest())
    return current


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_first_bad_tensor(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(train__steps=9, train__checkpoint_every=2, train__log_every=1)
    run = runs.create(Path("run"), "x", config)
    poisoned_at(5, 1, monkeypatch)
    message = (
        "diverged by step 5: d_loss is nan .the first bad tensor is generator.to_rgb.bias.;"
        " step-000000004.pt is good"
    )
    with pytest.raises(DivergedError, match=message):
        trained_in(run, config, faces)
    assert run.newest_checkpoint().name == "step-000000004.pt"


def test_a_run_may_roll_back_and_go_on_with_other_noise(
    tiny: Callable[..., Config],
    faces: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tiny(train__steps=9, train__checkpoint_every=2, train__log_every=1, train__rollbacks=2)
    well = trained_in(runs.create(Path("well"), "x", config), config, faces)
    run = runs.create(Path("run"), "x", config)
    poisoned_at(5, 2, monkeypatch)
    current = trained_in(run, config, faces)
    assert (current.step, current.rollbacks, well.rollbacks) == (9, 2, 0)
    assert caplog.text.count("rolled back to step 4") == 2
    assert not torch.equal(current.generator.to_rgb.bias, well.generator.to_rgb.bias)
    rows = [
        json.loads(row)["step"] for row in (run.folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == list(range(1, 10))
    poisoned_at(5, 3, monkeypatch)
    with pytest.raises(DivergedError):
        trained_in(runs.create(Path("third"), "x", config), config, faces)


def test_after_a_roll_back_both_networks_see_other_noise(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[tuple[str, int], torch.Tensor] = {}
    config, honest = tiny(), noise.latents
    for rollbacks in (0, 1):
        current = state.create(config, CPU)
        current.rollbacks = rollbacks

        def remember(settings: Config, count: int, purpose: str, *at: int) -> torch.Tensor:
            drawn[purpose, rollbacks] = honest(settings, count, purpose, *at)  # noqa: B023
            return drawn[purpose, rollbacks]  # noqa: B023

        monkeypatch.setattr(noise, "latents", remember)
        train.train_step(current, batches_of(faces, config), config)
    for purpose in ("d latents", "g latents"):
        assert not torch.equal(drawn[purpose, 0], drawn[purpose, 1])


def test_a_roll_back_is_exact_and_survives_resuming(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolled back at 5 to 4 and on to 9, in one go and with a stop at 6."""
    changes: dict[str, Any] = {
        "train__checkpoint_every": 2, "train__log_every": 1, "train__rollbacks": 1,
    }  # fmt: skip
    results = []
    for name, steps in (("whole", [9]), ("parts", [6, 9])):
        run = runs.create(Path(name), "x", tiny())
        poisoned_at(5, 1, monkeypatch)
        for last in steps:
            config = tiny(**changes, train__steps=last)
            current = state.create(config, CPU)
            if last != steps[0]:
                path = run.newest_checkpoint()
                current.load(checkpoint.read(path)[0], path)
            data = batches_of(faces, config)
            train.train(current, data, config, run, {}, Silent(), StopRequest())
        results.append(checkpoint.read(run.newest_checkpoint())[1]["sections"])
    assert results[0] == results[1]


def test_a_save_is_due_by_steps_and_by_minutes(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of a clock that cannot be set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: -1e9)
    config = tiny(train__checkpoint_every=10, train__checkpoint_minutes=2.0)
    run = runs.create(Path("run"), "x", config)
    saver = Saver(run, config, CPU, {})
    assert [step for step in range(1, 31) if saver.due(step)] == [10, 20, 30]
    now[0] += 119
    assert not saver.due(3)
    now[0] += 1
    assert saver.due(3)
    assert saver.save(state.create(config, CPU), must=False)
    assert not saver.due(4)
    never = Saver(run, tiny(train__checkpoint_minutes=0.0, train__checkpoint_every=10), CPU, {})
    now[0] += 1e9
    assert not never.due(3)


class Silent:
    def stepped(self, step: int) -> None: ...

    def measured(self, row: train.Row) -> None: ...

    def saved(self, step: int, path: str) -> None: ...
