"""The training algorithm: `train_step` is SAGAN's, `train` is the order of events around it."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ganctl import checkpoint, ema
from ganctl.config import Config
from ganctl.data.batches import Batches
from ganctl.errors import CheckpointError, DivergedError, StoppedError
from ganctl.journal import Row
from ganctl.losses import LOSSES, gradient_penalty, r1_penalty
from ganctl.models.attention import SelfAttention
from ganctl.models.spectral import normalized_weights, power_iterate
from ganctl.pictures import grid, save_png, to_uint8
from ganctl.runs import Run
from ganctl.runtime import autocast, random_stream, synchronize, upload
from ganctl.saving import Saver
from ganctl.state import TrainState
from ganctl.stopping import StopRequest

PREVIEWS = 64  # images in a preview grid ...
PREVIEW_BATCH = 16  # ... drawn so many at a time
METRICS = ("d_loss", "g_loss", "real_score", "fake_score")

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

    Raises StoppedError after a signal, DivergedError at a value that is not finite once
    config.train.rollbacks are used up, and StorageError if checkpoints cannot be saved; what was
    saved before is untouched.
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
    meter = Meter(state.step)
    while state.step < last_step:
        meter.add(train_step(state, batches, config))
        watcher.stepped(state.step)
        stopped_by = stop.signal_number  # read once: a signal may come while we save
        ending = state.step == last_step or stopped_by is not None
        if ending or state.step % every.log_every == 0:
            row = meter.read(state, config, batches.device)
            check_finite(row, state, saver)
            saver.run.journal.measure(row)
            watcher.measured(row)
        if ending or state.step % every.preview_every == 0:
            save_preview(state, config, saver.run, batches.device)
        due = ending or stop.take_save_request() or saver.due(state.step)
        if due and (path := saver.save(state, must=ending)):
            watcher.saved(state.step, path)
        if stopped_by is not None and state.step < last_step:
            hint = f"go on with: ganctl resume {saver.run.folder}"
            raise StoppedError(f"stopped and saved at step {state.step:,}", hint, stopped_by)


def train_step(state: TrainState, batches: Batches, config: Config) -> Tensor:
    """Update D `d_steps_per_g` times, then G once: SAGAN section 4. (4,): METRICS."""
    d_steps = config.optim.d_steps_per_g
    for update in range(state.step * d_steps, (state.step + 1) * d_steps):
        d_metrics = update_discriminator(state, batches, config, update)
    g_loss = update_generator(state, batches.device, config)
    state.step += 1
    images = state.step * d_steps * config.optim.batch_size
    decay = ema.decay(config.optim.ema_half_life, images, config.optim.batch_size)
    ema.update(state.generator_ema, state.generator, decay)
    return torch.stack([d_metrics[0], g_loss, d_metrics[1], d_metrics[2]])


def update_discriminator(
    state: TrainState, batches: Batches, config: Config, update: int
) -> Tensor:
    """One Adam step of D on real and detached fake images. (3,): loss, mean real and fake score."""
    discriminator, optim = state.discriminator, config.optim
    size = optim.batch_size // optim.grad_accumulation
    power_iterate(discriminator)
    metrics = torch.zeros(3, device=batches.device)
    for part in range(optim.grad_accumulation):
        real = batches.at(update * optim.batch_size + part * size, size)
        noise = latents(config, size, "d latents", state.rollbacks, update, part)
        z = upload(noise, batches.device)
        with autocast(batches.device, config.train.precision):
            with torch.no_grad():
                fake = state.generator(z).float()
            # D has no batch norm, so real and fake images can share one pass.
            scores = discriminator(torch.cat([real, fake])).float()
        real_scores, fake_scores = scores.chunk(2)
        loss = LOSSES[config.loss.kind].discriminator(real_scores, fake_scores)
        penalty = penalties(discriminator, real, fake, config, update, part)
        state.d_scaler.scale((loss + penalty) / optim.grad_accumulation).backward()
        means = torch.stack([loss, real_scores.mean(), fake_scores.mean()])
        metrics += means.detach() / optim.grad_accumulation
    _step(state.d_optimizer, state.d_scaler)
    return metrics


def update_generator(state: TrainState, device: torch.device, config: Config) -> Tensor:
    """One Adam step of G through a frozen D, with latents of its own. (): the loss."""
    optim = config.optim
    size = optim.batch_size // optim.grad_accumulation
    power_iterate(state.generator)
    total = torch.zeros((), device=device)
    with frozen(state.discriminator):
        for part in range(optim.grad_accumulation):
            noise = latents(config, size, "g latents", state.rollbacks, state.step, part)
            z = upload(noise, device)
            with autocast(device, config.train.precision):
                fake_scores = state.discriminator(state.generator(z)).float()
            loss = LOSSES[config.loss.kind].generator(fake_scores)
            state.g_scaler.scale(loss / optim.grad_accumulation).backward()
            total += loss.detach() / optim.grad_accumulation
    _step(state.g_optimizer, state.g_scaler)
    return total


def penalties(
    discriminator: nn.Module, real: Tensor, fake: Tensor, config: Config, update: int, part: int
) -> Tensor:
    """(): the gradient penalties that the configuration asks for, in fp32."""
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


def latents(config: Config, count: int, purpose: str, *position: int) -> Tensor:
    """(count, latent_dim) on the CPU: standard normal, a pure function of seed and position."""
    stream = random_stream(config.train.seed, purpose, *position)
    return torch.randn(count, config.model.latent_dim, generator=stream)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients for the weights of `network`, though through them for its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@dataclass
class Meter:
    """Means of the metrics since they were last read; the device is waited for only then."""

    step: int
    started_at: float = field(default_factory=time.perf_counter)
    total: Tensor | None = None

    def add(self, metrics: Tensor) -> None:
        self.total = metrics if self.total is None else self.total + metrics

    def read(self, state: TrainState, config: Config, device: torch.device) -> Row:
        """One row for metrics.jsonl, and start afresh."""
        assert self.total is not None
        steps = state.step - self.step
        synchronize(device)
        seconds = time.perf_counter() - self.started_at
        means = (self.total / steps).tolist()
        images = config.optim.batch_size * config.optim.d_steps_per_g
        row: Row = {
            "step": state.step,
            "images": state.step * images,
            "images_per_second": round(steps * images / seconds, 2),
            **{name: round(value, 5) for name, value in zip(METRICS, means, strict=True)},
            "gamma": gammas(state),
            "sigma_max": largest_sigma(state),
        }
        self.step, self.started_at, self.total = state.step, time.perf_counter(), None
        return row


def gammas(state: TrainState) -> dict[str, float]:
    """gamma of each attention block, for example {"g.stages.1.attention": 0.02}."""
    return {
        f"{prefix}.{name}": round(module.gamma.item(), 5)
        for prefix, network in (("g", state.generator), ("d", state.discriminator))
        for name, module in network.named_modules()
        if isinstance(module, SelfAttention)
    }


def largest_sigma(state: TrainState) -> float | None:
    """The largest estimated singular value of a raw weight in either network."""
    networks = (state.generator, state.discriminator)
    weights = [weight for network in networks for weight in normalized_weights(network)]
    if not weights:
        return None
    with torch.no_grad():
        return round(torch.stack([norm.sigma(raw) for _, raw, norm in weights]).max().item(), 5)


def check_finite(row: Row, state: TrainState, saver: Saver) -> None:
    """DivergedError if a loss or score of `row` is not finite."""
    for name in METRICS:
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


@torch.no_grad()
def save_preview(state: TrainState, config: Config, run: Run, device: torch.device) -> None:
    """A grid of the same latents each time, through the averaged generator."""
    z = upload(latents(config, PREVIEWS, "preview"), device)
    images = [to_uint8(state.generator_ema(part)) for part in z.split(PREVIEW_BATCH)]
    _save_picture(np.concatenate(images), run, f"{state.step:09}.png")


def save_reals(images: np.ndarray, run: Run) -> None:
    """A grid of real images (B, H, W, 3) uint8, for comparison."""
    _save_picture(images, run, "reals.png")


def _save_picture(images: np.ndarray, run: Run, name: str) -> None:
    try:
        save_png(grid(images), run.samples / name)
    except OSError as error:  # losing a picture must not end a run
        log.warning("the picture %s was not written: %s", name, error.strerror)


def _step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    scaler.step(optimizer)  # the scaler of fp32 and bf16 runs is off and only passes the call on
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
