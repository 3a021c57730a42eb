"""The averaged generator by hand, and its spectral norms by exact linear algebra."""

import pytest
import torch

from ganctl.insight.spectra import singular_values
from ganctl.models.convnet import Generator
from ganctl.models.spectral import normalized_weights, power_iterate
from ganctl.training import ema


def small_generator() -> Generator:
    torch.manual_seed(0)
    return Generator(
        resolution=32, width=8, latent_dim=8, attention_at=[16], attention_scaled=True,
        attention_pooled=True,
    )  # fmt: skip


def test_weights_and_batch_norms_statistics_are_averaged() -> None:
    live = small_generator()
    average = ema.average_of(live)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for p in live.parameters():
            p += torch.randn_like(p)
    live.train()(torch.randn(4, 8))
    ema.update(average, live, 0.75)
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 6
    for name in [*dict(live.named_parameters()), *statistics]:
        mixed = 0.75 * before[name] + 0.25 * live.state_dict()[name]
        torch.testing.assert_close(average.state_dict()[name], mixed)
        assert not torch.equal(mixed, before[name]), name


def test_averaged_weights_keep_norm_one_while_the_live_ones_turn() -> None:
    live = small_generator()
    average = ema.average_of(live)
    for _ in range(150):
        with torch.no_grad():
            for p in live.parameters():
                p += 0.01 * torch.randn_like(p)
        power_iterate(live)
        ema.update(average, live, 0.95)
    ema.ready(average, live)
    for name, weight, norm in normalized_weights(average):
        in_use = singular_values(average.get_submodule(name).weight)[0].item()
        assert in_use == pytest.approx(1, abs=0.01), name
        assert norm.u.norm().item() == pytest.approx(1)
        assert norm.sigma(weight) > 0


def test_a_weights_share_halves_in_one_half_life() -> None:
    share = 1.0
    for step in range(1000, 1010):
        share *= ema.decay(half_life=640, step=step, batch_size=64)
    assert share == pytest.approx(0.5)


def test_early_on_the_average_follows_the_first_steps() -> None:
    early = ema.decay(half_life=1e6, step=1, batch_size=64)
    late = ema.decay(half_life=1e6, step=1_000_000, batch_size=64)
    assert early < 0.01
    assert late == pytest.approx(0.5 ** (64 / 1e6))


def test_the_average_takes_no_gradients_and_stays_in_eval_mode() -> None:
    average = ema.average_of(small_generator())
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())
