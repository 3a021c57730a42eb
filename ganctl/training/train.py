"""The training algorithm: `train_step` is SAGAN's, `train` is the order of events around it."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ganctl.data.batches import Batches
from ganctl.errors import AlarmError, CheckpointError, DivergedError, StoppedError, shell_quoted
from ganctl.models.spectral import power_iterate
from ganctl.runtime import autocast, random_stream, upload
from ganctl.settings.config import Config
from ganctl.store import checkpoint
from ganctl.store.journal import Journal, Row
from ganctl.store.runs import Run
from ganctl.training import ema
from ganctl.training.health import Checkup, Diagnosis, gradient_norm, score_figures
from ganctl.training.losses import LOSSES, gradient_penalty, r1_penalty
from ganctl.training.metrics import FINITE, Meter
from ganctl.training.noise import noise
from ganctl.training.previews import save_preview
from ganctl.training.saving import Saver
from ganctl.training.state import TrainState
from ganctl.training.stopping import StopRequest

log = logging.getLogger("ganctl")


class Watcher(Protocol):
    """What is told of a run's progress; it cannot change the run."""

    def stepped(self, step: int) -> None: ...

    def measured(self, row: Row) -> None: ...

    def saved(self, step: int, path: str) -> None: ...


def train(
    state: TrainState,
    batches: Batches,
    config: Config,
    run: Run,
    data: dict[str, Any],
    watcher: Watcher,
    stop: StopRequest,
) -> None:
    """Train to config.train.steps, writing metrics, previews and checkpoints into `run`.

    Raises StoppedError after a signal, AlarmError at a disease if config.health.on_alarm is stop,
    DivergedError at a value that is not finite once config.train.rollbacks are used up, and
    StorageError if checkpoints cannot be saved; what was saved before is untouched.
    """
    saver = Saver(run, config, batches.device, data)
    while state.step < config.train.steps:
        try:
            _train_on(state, batches, config, saver, watcher, stop)
        except DivergedError as error:
            if state.rollbacks >= config.train.rollbacks:
                raise
            roll_back(state, run, error)


def _train_on(
    state: TrainState,
    batches: Batches,
    config: Config,
    saver: Saver,
    watcher: Watcher,
    stop: StopRequest,
) -> None:
    every, last_step = config.train, config.train.steps
    alarm: Diagnosis | None = None  # that ends the run
    meter = Meter(state.step)
    checkup = Checkup(config, batches, state.generator.n_classes, saver.run.journal.rows())
    while state.step < last_step:
        meter.add(train_step(state, batches, config))
        watcher.stepped(state.step)
        stopped_by = stop.signal_number  # read once: a signal may come while we save
        ending = state.step == last_step or stopped_by is not None
        if ending or state.step % every.log_every == 0:
            row = meter.read(state, config, batches.device)
            check_finite(row, state, saver)
            begun = checkup.complete(row, state.generator_ema)
            report(row, begun, saver.run.journal, watcher)
            if begun and config.health.on_alarm == "stop":
                alarm, ending = begun[0], True
        if ending or state.step % every.preview_every == 0:
            save_preview(state, config, saver.run, batches.device)
        due = ending or stop.take_save_request() or saver.due(state.step)
        if due and (path := saver.save(state, must=ending)):
            watcher.saved(state.step, path)
        if stopped_by is not None and state.step < last_step:
            hint = f"go on with: ganctl resume {shell_quoted(saver.run.folder)}"
            raise StoppedError(f"stopped and saved at step {state.step:,}", hint, stopped_by)
        if alarm is not None and state.step < last_step:
            hint = f"{alarm.advice}; `ganctl resume {shell_quoted(saver.run.folder)}` goes on all the same"
            raise AlarmError(f"stopped and saved at step {state.step:,}, {alarm}", hint)


def train_step(state: TrainState, batches: Batches, config: Config) -> Tensor:
    """Update D `d_steps_per_g` times, then G once: SAGAN section 4. (10,): METRICS.

    Those of D are of its last update.
    """
    set_rates(state, config)
    d_steps = config.optim.d_steps_per_g
    for update in range(state.step * d_steps, (state.step + 1) * d_steps):
        d_metrics = update_discriminator(state, batches, config, update)
    g_metrics = update_generator(state, batches.device, config)
    state.step += 1
    images = state.step * d_steps * config.optim.batch_size
    decay = ema.decay(config.optim.ema_half_life, images, config.optim.batch_size)
    ema.update(state.generator_ema, state.generator, decay)
    return torch.cat([d_metrics, g_metrics])


def set_rates(state: TrainState, config: Config) -> None:
    """Both learning rates for this step: constant, or falling linearly to zero."""
    if config.optim.lr_decay is None:
        return
    start, end = config.optim.lr_decay
    share = min(1.0, (end - state.step) / (end - start))
    state.g_optimizer.param_groups[0]["lr"] = share * config.optim.g_lr
    state.d_optimizer.param_groups[0]["lr"] = share * config.optim.d_lr


def update_discriminator(
    state: TrainState, batches: Batches, config: Config, update: int
) -> Tensor:
    """One Adam step of D on real and detached fake images. (8,): D_METRICS."""
    discriminator, optim, n_classes = state.discriminator, config.optim, state.generator.n_classes
    size = optim.batch_size // optim.grad_accumulation
    power_iterate(discriminator)
    total, seen = torch.zeros(1, device=batches.device), []
    for part in range(optim.grad_accumulation):
        position = update * optim.batch_size + part * size
        real, labels = batches.at(position, size), batches.labels_at(position, size)
        given = noise(config, n_classes, size, batches.device, "d", state.rollbacks, update, part)
        with autocast(batches.device, config.train.precision):
            with torch.no_grad():
                fake = state.generator(*given).float()
            # D has no batch norm, so real and fake images can share one pass.
            scores = discriminator(torch.cat([real, fake]), both(labels, given.labels)).float()
        real_scores, fake_scores = scores.chunk(2)
        loss = LOSSES[config.loss.kind].discriminator(real_scores, fake_scores)
        penalty = penalties(discriminator, real, fake, labels, config, update, part)
        state.d_scaler.scale((loss + penalty) / optim.grad_accumulation).backward()
        total += loss.detach() / optim.grad_accumulation
        seen.append(scores.detach().unflatten(0, (2, -1)))
    figures = score_figures(*torch.cat(seen, dim=1))
    gradient = gradient_norm(discriminator, state.d_scaler)
    _step(state.d_optimizer, state.d_scaler)
    return torch.cat([total, figures, gradient])


def update_generator(state: TrainState, device: torch.device, config: Config) -> Tensor:
    """One Adam step of G through a frozen D, with noise of its own. (2,): G_METRICS."""
    optim, n_classes = config.optim, state.generator.n_classes
    size = optim.batch_size * optim.g_batch_multiple // optim.grad_accumulation
    power_iterate(state.generator)
    total = torch.zeros(1, device=device)
    with frozen(state.discriminator):
        for part in range(optim.grad_accumulation):
            given = noise(config, n_classes, size, device, "g", state.rollbacks, state.step, part)
            with autocast(device, config.train.precision):
                fake_scores = state.discriminator(state.generator(*given), given.labels).float()
            loss = LOSSES[config.loss.kind].generator(fake_scores)
            state.g_scaler.scale(loss / optim.grad_accumulation).backward()
            total += loss.detach() / optim.grad_accumulation
    gradient = gradient_norm(state.generator, state.g_scaler)
    _step(state.g_optimizer, state.g_scaler)
    return torch.cat([total, gradient])


def penalties(
    discriminator: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    config: Config,
    update: int,
    part: int,
) -> Tensor:
    """(): the gradient penalties that the configuration asks for, in fp32.

    `labels` are those of the real images; images in between count as of the same class.
    """
    if labels is not None:
        discriminator = partial(discriminator, labels=labels)
    total = torch.zeros((), device=real.device)
    if config.loss.gradient_penalty > 0:
        stream = random_stream(config.train.seed, "penalty", update, part)
        mix = upload(torch.rand(len(real), 1, 1, 1, generator=stream), real.device)
        total = total + config.loss.gradient_penalty * gradient_penalty(
            discriminator, real, fake, mix
        )
    if config.loss.r1 > 0:
        total = total + config.loss.r1 * r1_penalty(discriminator, real)
    return total


def both(real_labels: Tensor | None, fake_labels: Tensor | None) -> Tensor | None:
    """The classes of real and then fake images; None without classes."""
    if real_labels is None or fake_labels is None:
        return None
    return torch.cat([real_labels, fake_labels])


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients for the weights of `network`, though through them for its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def report(row: Row, begun: list[Diagnosis], journal: Journal, watcher: Watcher) -> None:
    """Write `row` down and show it, with a word on each disease that begins with it."""
    journal.measure(row)
    watcher.measured(row)
    for diagnosis in begun:
        log.warning("%s; %s", diagnosis, diagnosis.advice)
        journal.record("alarm", row["step"], **asdict(diagnosis))
    if row["alarms"] != journal.alarms:
        journal.alarms = row["alarms"]
        journal.set_status("running", row["step"])


def check_finite(row: Row, state: TrainState, saver: Saver) -> None:
    """DivergedError if a loss or score of `row` is not finite."""
    for name in FINITE:
        if not math.isfinite(row[name]):
            raise saver.diverged(f"{name} is {row[name]}", state.step, state.payload())


def roll_back(state: TrainState, run: Run, error: DivergedError) -> None:
    """Take `state` back to the newest checkpoint, to go on from there with other latents.

    Raises `error` itself if there is nothing to go back to.
    """
    try:
        path = run.newest_checkpoint()
        payload, _ = checkpoint.read(path)
    except CheckpointError:
        raise error from None
    rollbacks = state.rollbacks
    state.load(payload, path)
    state.rollbacks = rollbacks + 1
    run.journal.cut_metrics(state.step)
    run.journal.record("rolled back", state.step, reason=error.message)
    log.warning("%s; rolled back to step %d", error.message, state.step)


def _step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    scaler.step(optimizer)  # the scaler of fp32 and bf16 runs is off and only passes the call on
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
