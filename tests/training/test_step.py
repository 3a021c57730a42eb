"""One training step: who is updated, on which device, and the same numbers by parts."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, batches_of, given
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ganctl.models.spectral import power_iterate
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.store.contents import first_bad_tensor
from ganctl.training import state
from ganctl.training.inputs import latents
from ganctl.training.losses import LOSSES, Loss
from ganctl.training.metrics import Meter
from ganctl.training.step import set_rates, train_step, update_discriminator, update_generator

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
@pytest.mark.usefixtures("without_values")
def test_a_whole_step_runs_on_the_meta_device(
    faces: np.ndarray, tiny: Callable[..., Config], changes: dict[str, object]
) -> None:
    """Any tensor made on another device than the networks' would raise here."""
    config = tiny(**changes)
    trained = state.create(config, torch.device("meta"))
    metrics = train_step(trained, given(faces, config, device="meta"), config)
    assert all(
        figure.device.type == "meta" and figure.dim() == 0 for figure in (*metrics.d, *metrics.g)
    )


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("preset", [name for name in presets.names() if "32" not in name])
def test_a_step_of_every_preset_runs_on_the_meta_device(preset: str) -> None:
    config = presets.load(preset)
    config = replace(config, {"optim.batch_size": 2, "train.precision": "fp32"})
    images = np.zeros((3, config.data.resolution, config.data.resolution, 3), np.uint8)
    with torch.device("meta"):
        trained = state.create(config, torch.device("meta"), N_CLASSES)
    metrics = train_step(trained, given(images, config, device="meta"), config)
    assert metrics.g.loss.shape == ()


@pytest.mark.parametrize("changes", [{}, {"model__conditional": False}, {"loss__r1": 1.0}])
def test_a_step_of_the_residual_pair_changes_every_weight(
    faces: np.ndarray, tiny_resnet: Callable[..., Config], changes: dict[str, object]
) -> None:
    """After two: in the first, gamma = 0 keeps gradients from the attention's convolutions."""
    config = tiny_resnet(**changes)
    trained = state.create(config, CPU, N_CLASSES)
    before = [weights(network) for network in (trained.generator, trained.discriminator)]
    for step in range(2):
        train_step(trained, given(faces, config, step), config)
    for network, old in zip((trained.generator, trained.discriminator), before, strict=True):
        for (name, new), was in zip(network.named_parameters(), old, strict=True):
            assert new.isfinite().all()
            assert not torch.equal(new, was), name


def test_real_images_keep_their_classes_and_fake_ones_get_drawn_ones(
    faces: np.ndarray, tiny_resnet: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D sees each real image with its own class, and each fake with the one it was made for."""
    config = tiny_resnet()
    trained = state.create(config, CPU, N_CLASSES)
    seen: list[torch.Tensor] = []
    made: list[torch.Tensor] = []
    trained.discriminator.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    trained.generator.register_forward_pre_hook(lambda _m, args: made.append(args[1]))
    train_step(trained, given(faces, config), config)
    order, _ = batches_of(faces, config).drawn(0, 4)
    assert seen[0][:4].tolist() == [index % N_CLASSES for index in order]
    assert torch.equal(seen[0][4:], made[0])
    assert torch.equal(seen[1], made[1])


def test_rates_fall_linearly_from_one_step_to_another(
    faces: np.ndarray, tiny_resnet: Callable[..., Config]
) -> None:
    config = tiny_resnet(optim__lr_decay=[2, 6], optim__g_lr=0.4, optim__d_lr=0.8)
    trained = state.create(config, CPU, N_CLASSES)
    found = []
    for step in range(8):
        trained.step = step
        set_rates(trained, config)
        found.append([o.param_groups[0]["lr"] for o in (trained.g_optimizer, trained.d_optimizer)])
    shares = [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert np.allclose(found, [[0.4 * share, 0.8 * share] for share in shares])


def test_gs_batches_may_be_a_multiple_of_ds(
    faces: np.ndarray, tiny_resnet: Callable[..., Config]
) -> None:
    config = tiny_resnet(optim__g_batch_multiple=3)
    trained = state.create(config, CPU, N_CLASSES)
    sizes: list[int] = []
    trained.generator.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    train_step(trained, given(faces, config), config)
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
    metrics = train_step(trained, given(faces, config), config)
    assert torch.stack([*metrics.d, *metrics.g]).isfinite().all()
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
    update_discriminator(trained, given(faces, config).d_updates[0], config)
    assert unchanged(trained.discriminator, before)
    assert trained.d_scaler.get_scale() == 2.0**59
    assert trained.g_scaler.get_scale() == 2.0**16


def test_each_network_is_updated_in_its_own_half_only(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    config = tiny()
    trained = state.create(config, CPU)
    g_before, d_before = weights(trained.generator), weights(trained.discriminator)
    update_discriminator(trained, given(faces, config).d_updates[0], config)
    assert unchanged(trained.generator, g_before)
    assert not unchanged(trained.discriminator, d_before)
    assert all(p.grad is None for p in trained.generator.parameters())
    d_before = weights(trained.discriminator)
    update_generator(trained, given(faces, config).g_parts, config)
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
    train_step(trained, given(faces, config), config)

    g, d = plain.generator, plain.discriminator
    real = batches_of(faces, config).at(0, 4)
    power_iterate(d)
    fake = g(latents(config, 0, "d/0", 0, 4).z).detach()
    d_loss = (1 - d(real)).relu().mean() + (1 + d(fake)).relu().mean()
    for p, gradient in zip(
        d.parameters(), torch.autograd.grad(d_loss, list(d.parameters())), strict=True
    ):
        # Adam's first step with beta1 = 0: m = g, v = 0.1 g^2 corrected to g^2.
        p.data -= config.optim.d_lr * gradient / (gradient.abs() + 1e-8)
    power_iterate(g)
    g_loss = -d(g(latents(config, 0, "g/0", 0, 4).z)).mean()
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


def test_accumulated_gradients_and_figures_equal_those_of_the_whole_batch(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    """For D, whose score of an image does not depend on the batch."""
    moments, figures = [], []
    for parts in (1, 2, 4):
        config = tiny(optim__grad_accumulation=parts)
        trained = state.create(config, CPU)
        trained.generator.eval()  # batch norm would see the parts
        updates = given(faces, config).d_updates
        assert [len(update) for update in updates] == [parts]
        figures.append(torch.stack(update_discriminator(trained, updates[0], config)))
        first = trained.d_optimizer.state_dict()["state"]
        moments.append([first[i]["exp_avg"] for i in sorted(first)])
    for other in moments[1:]:
        for a, b in zip(moments[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    for measured in figures[1:]:
        torch.testing.assert_close(measured, figures[0], rtol=1e-4, atol=1e-6)


def test_a_relative_loss_is_one_entry_in_the_table(
    faces: np.ndarray, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G's loss is then given D's scores of as many real images."""
    seen: list[tuple[torch.Size, torch.Size]] = []

    def relative(fake_scores: torch.Tensor, real_scores: torch.Tensor | None) -> torch.Tensor:
        assert real_scores is not None
        seen.append((fake_scores.shape, real_scores.shape))
        return (real_scores - fake_scores).mean()

    monkeypatch.setitem(
        LOSSES, "hinge", Loss(LOSSES["hinge"].discriminator, relative, relative=True)
    )
    config = tiny(optim__grad_accumulation=2)
    trained = state.create(config, CPU)
    before = weights(trained.generator)
    train_step(trained, given(faces, config), config)
    assert seen == [((2,), (2,))] * 2
    assert not unchanged(trained.generator, before)


HOST_READS = {"item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"}


class Reads(TorchDispatchMode):
    """Notes operations whose result a host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = function.overloadpacket.__name__
        copied = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if name in HOST_READS or copied:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"loss__kind": "wasserstein", "loss__gradient_penalty": 10.0}, {"loss__r1": 1.0, "optim__lr_decay": [1, 9]}])  # fmt: skip
@pytest.mark.parametrize("family", ["tiny", "tiny_resnet"])
def test_a_step_reads_nothing_back_from_the_device(
    faces: np.ndarray, family: str, changes: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """No .item(), .cpu() or branch on a value: so it can be captured."""
    config: Config = request.getfixturevalue(family)(**changes)
    trained, inputs = state.create(config, CPU, N_CLASSES), given(faces, config)
    with Reads() as reads:
        train_step(trained, inputs, config)
    assert reads.found == []
    with Reads() as reads:
        trained.generator.to_rgb.bias[0].item()
    assert reads.found == ["_local_scalar_dense"]


def overflow(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
    return output * math.inf


def test_an_overflow_in_fp16_skips_a_step_and_harms_nothing(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    """Neither weights nor batch norm's statistics, and the row is the mean of the other steps."""
    config = tiny(train__precision="fp16")
    trained = state.create(config, CPU)
    for scaler in ("d_scaler", "g_scaler"):
        setattr(trained, scaler, torch.amp.GradScaler("cpu", init_scale=1.0))
    meter = Meter(config, trained)
    meter.add(first := train_step(trained, given(faces, config), config))
    before = [*weights(trained.generator), *weights(trained.discriminator)]
    hook = trained.generator.stages[0].conv.register_forward_hook(overflow)
    broken = train_step(trained, given(faces, config, 1), config)
    hook.remove()
    meter.add(broken)
    assert not broken.g.loss.isfinite()
    assert unchanged(trained.generator, before[: len(weights(trained.generator))])
    assert unchanged(trained.discriminator, before[len(weights(trained.generator)) :])
    assert first_bad_tensor(trained.payload()) is None
    row = meter.read(CPU)
    assert row is not None
    assert (row["step"], row["d_loss"]) == (2, pytest.approx(first.d.loss.item(), abs=1e-4))


def test_fp16_steps_that_all_overflow_are_no_figures(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    config = tiny(train__precision="fp16")
    trained = state.create(config, CPU)
    trained.generator.stages[0].conv.register_forward_hook(overflow)
    meter = Meter(config, trained)
    meter.add(train_step(trained, given(faces, config), config))
    assert meter.read(CPU) is None
