"""The training step, SAGAN's algorithm: tensors in, metrics out. Nothing waits for a GPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ganctl.distributed import average_gradients
from ganctl.models import Discriminator, san
from ganctl.models.spectral import normalized, power_iterate
from ganctl.runtime import autocast
from ganctl.settings.config import Config
from ganctl.training import ema, lecam
from ganctl.training.augment import shown
from ganctl.training.inputs import DInputs, GInputs, StepInputs
from ganctl.training.losses import (
    LOSSES,
    Critic,
    gradient_penalty,
    r1_penalty,
    wasserstein_d,
)
from ganctl.training.memorising import steer
from ganctl.training.metrics import DMetrics, GMetrics, StepMetrics, d_metrics, gradient_norm
from ganctl.training.state import TrainState


def train_step(state: TrainState, inputs: StepInputs, config: Config) -> StepMetrics[Tensor]:
    """Update D once or several times, then G once, then G's average: SAGAN section 4.

    The metrics of D are those of its last update. No tensor is read on the host, shapes are the
    same in each step, and nothing depends on values: so a step may be captured as a CUDA graph.
    """
    set_rates(state, config)
    with finite_statistics(state):
        for parts in inputs.d_updates:
            d = update_discriminator(state, parts, config)
        g = update_generator(state, inputs.g_parts, config)
    state.step += 1
    decay = ema.decay(config.optim.ema_half_life, state.step, config.optim.batch_size)
    ema.update(state.generator_ema, state.generator, decay)
    if inputs.trial is not None:
        steer(state, inputs.trial, config)
    return StepMetrics(d, g)


def update_discriminator(
    state: TrainState, parts: Sequence[DInputs], config: Config
) -> DMetrics[Tensor]:
    """One Adam step of D on real and detached fake images."""
    discriminator, precision = state.discriminator, config.train.precision
    losses, seen = [], []
    sigmas = power_iterate(discriminator)
    for part in parts:
        real, device = part.real.pixels.images(), part.latents.z.device
        with torch.no_grad(), normalized(state.generator), autocast(device, precision):
            fake = state.generator(*part.latents).float()
        real = shown(real, part.real.draws, state, config)
        fake = shown(fake, part.fake_draws, state, config)
        with normalized(discriminator, sigmas):
            with autocast(device, precision):
                # D has no batch norm, so real and fake images can share one pass.
                labels = both(part.real.labels, part.latents.labels)
                scores, aside = scores_to_learn(discriminator, torch.cat([real, fake]), labels)
            loss = LOSSES[config.loss.kind].discriminator(*scores.chunk(2))
            penalty = penalties(discriminator, real, fake, part, config) + aside
            if state.score_averages is not None:
                kept = lecam.regularizer(scores, state.score_averages)
                penalty = penalty + config.loss.lecam * kept
            state.d_scaler.scale((loss + penalty) / len(parts)).backward()
        losses.append(loss.detach())
        seen.append(scores.detach().unflatten(0, (2, -1)))
    loss, scores = average_gradients(discriminator, mean(losses), torch.cat(seen, dim=1))
    gradient = gradient_norm(discriminator, state.d_scaler)
    adam_step(state.d_optimizer, state.d_scaler)
    real_scores, fake_scores = scores
    if state.score_averages is not None:
        lecam.follow(state.score_averages, real_scores, fake_scores)
    return d_metrics(loss, real_scores, fake_scores, gradient)


def update_generator(
    state: TrainState, parts: Sequence[GInputs], config: Config
) -> GMetrics[Tensor]:
    """One Adam step of G through a frozen D, with latents of its own."""
    generator, discriminator, kind = state.generator, state.discriminator, LOSSES[config.loss.kind]
    losses = []
    sigmas = power_iterate(generator)
    with frozen(discriminator), normalized(discriminator):
        for part in parts:
            with normalized(generator, sigmas):
                with autocast(part.latents.z.device, config.train.precision):
                    fake = shown(generator(*part.latents), part.fake_draws, state, config)
                    fake_scores = discriminator(fake, part.latents.labels).float()
                    real_scores = None
                    if part.real is not None:
                        real = shown(part.real.pixels.images(), part.real.draws, state, config)
                        real_scores = discriminator(real, part.real.labels).float()
                loss = kind.generator(fake_scores, real_scores)
                state.g_scaler.scale(loss / len(parts)).backward()
            losses.append(loss.detach())
    (loss,) = average_gradients(generator, mean(losses))
    gradient = gradient_norm(generator, state.g_scaler)
    adam_step(state.g_optimizer, state.g_scaler)
    return GMetrics(loss, gradient)


def scores_to_learn(
    discriminator: Discriminator, images: Tensor, labels: Tensor | None
) -> tuple[Tensor, Tensor | float]:
    """D's scores (B,) of real and then fake images, and with SAN the loss of its direction: ()."""
    if not san.is_sliced(discriminator):
        return discriminator(images, labels).float(), 0.0
    scores, directed = san.split_scores(discriminator, images)
    return scores, wasserstein_d(*directed.chunk(2))


def penalties(
    discriminator: Discriminator, real: Tensor, fake: Tensor, part: DInputs, config: Config
) -> Tensor | float:
    """(): the gradient penalties that the configuration asks for, in fp32.

    Images between a real and a fake one count as of the real one's class.
    """
    at_real, at_fake = (
        critic_of(discriminator, given.labels) for given in (part.real, part.latents)
    )
    total: Tensor | float = 0.0
    if part.mix is not None:
        weight = config.loss.gradient_penalty
        total = total + weight * gradient_penalty(at_real, real, fake, part.mix)
    if config.loss.r1 > 0:
        total = total + config.loss.r1 * r1_penalty(at_real, real)
    if config.loss.r2 > 0:
        total = total + config.loss.r2 * r1_penalty(at_fake, fake)
    return total


def critic_of(discriminator: Discriminator, labels: Tensor | None) -> Critic:
    """D as a function of images of these classes, as the GAN's loss teaches it."""
    if san.is_sliced(discriminator):
        return partial(san.function_scores, discriminator)
    return partial(discriminator, labels=labels)


def set_rates(state: TrainState, config: Config) -> None:
    """Both learning rates for this step: constant, or falling linearly to zero."""
    if config.optim.lr_decay is None:
        return
    start, end = config.optim.lr_decay
    share = min(1.0, max(0.0, (end - state.step) / (end - start)))
    state.g_optimizer.param_groups[0]["lr"] = share * config.optim.g_lr
    state.d_optimizer.param_groups[0]["lr"] = share * config.optim.d_lr


def adam_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Update the weights; a step whose gradients overflowed in fp16 is left out by `scaler`."""
    scaler.step(optimizer)  # the scaler of other runs is off and only passes the call on
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def both(real_labels: Tensor | None, fake_labels: Tensor | None) -> Tensor | None:
    """The classes of real and then fake images; None without classes."""
    if real_labels is None or fake_labels is None:
        return None
    return torch.cat([real_labels, fake_labels])


def mean(losses: Sequence[Tensor]) -> Tensor:
    """(): of the parts' losses."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).mean()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients for the weights of `network`, though through them for its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@contextmanager
def finite_statistics(state: TrainState) -> Iterator[None]:
    """In fp16, G's batch norm forgets a batch whose maps overflowed, as the scaler skips its step.

    The running statistics would otherwise never be finite again.
    """
    if not state.g_scaler.is_enabled():
        yield
        return
    statistics = ema.statistics(state.generator)
    before = [each.clone() for each in statistics]
    yield
    for now, old in zip(statistics, before, strict=True):
        now.copy_(torch.where(now.isfinite().all(), now, old))
