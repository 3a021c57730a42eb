"""All that a training step is given: a pure function of the seed and of the samples' numbers.

Sample i of a run's stream is the same whatever else is drawn with it. So it makes no difference
into how many parts a batch is cut, and when, or where, its parts are drawn.
"""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ganctl.data.batches import Batches, Pixels
from ganctl.distributed import share
from ganctl.runtime import random_normal, random_uniform, random_words, upload
from ganctl.settings.config import Config
from ganctl.training import augment
from ganctl.training.losses import LOSSES

AHEAD = 2  # steps whose inputs are made, or being made, while one computes
PROBES = 64  # images of each kind, at most, that D is tried on
STEER_EVERY = 50  # steps after which D is tried to steer augmentation by


class Latents(NamedTuple):
    """The arguments of a generator."""

    z: Tensor  # (B, latent_dim), standard normal
    labels: Tensor | None  # (B,) int64; None without classes


class Real(NamedTuple):
    """Real images."""

    pixels: Pixels  # B of them
    labels: Tensor | None  # (B,) int64; None without classes
    draws: Tensor | None  # (B, augment.WIDTH); None without augmentation


class DInputs(NamedTuple):
    """What a part of an update of D is given."""

    real: Real
    latents: Latents  # as many
    mix: Tensor | None  # (B, 1, 1, 1) in [0, 1]: of the gradient penalty; None without
    fake_draws: Tensor | None  # (B, augment.WIDTH); None without augmentation


class GInputs(NamedTuple):
    """What a part of an update of G is given."""

    latents: Latents
    real: Real | None  # as many; None but for losses that compare with them
    fake_draws: Tensor | None  # (B, augment.WIDTH); None without augmentation


class Trial(NamedTuple):
    """Images that D is tried on, nothing being learnt from them."""

    trained_on: Real
    held_out: Real  # as many that it never saw
    latents: Latents  # as many
    fake_draws: Tensor | None


class StepInputs(NamedTuple):
    """What a training step is given, on the device."""

    d_updates: list[list[DInputs]]  # the parts of each update of D
    g_parts: list[GInputs]  # of the update of G
    trial: Trial | None  # that steers augmentation, in some steps of some runs


class Inputs:
    """The inputs of every step of a run."""

    def __init__(
        self, config: Config, batches: Batches, n_classes: int, unseen: Batches | None = None
    ) -> None:
        """n_classes: of the generated images; 0 without classes. `unseen`: those held out."""
        self.config, self.batches, self.n_classes, self.unseen = config, batches, n_classes, unseen

    def of(self, step: int, rollbacks: int = 0) -> StepInputs:
        """What the step after `step` finished ones is given, in optim.grad_accumulation parts.

        Where several processes share a run, it is this one's share of each part.
        After a roll-back real images come in the same order, everything else is drawn anew.
        """
        optim = self.config.optim
        parts, size = optim.grad_accumulation, optim.batch_size // optim.grad_accumulation
        updates = range(step * optim.d_steps_per_g, (step + 1) * optim.d_steps_per_g)
        firsts = [
            [update * optim.batch_size + part * size for part in range(parts)] for update in updates
        ]
        g_size = size * optim.g_batch_multiple
        steers = self.config.augment.adaptive() and (step + 1) % STEER_EVERY == 0
        g_firsts = [step * g_size * parts + part * g_size for part in range(parts)]
        return StepInputs(
            [[self.d_at(*share(first, size), rollbacks) for first in update] for update in firsts],
            [self.g_at(*share(first, g_size), rollbacks) for first in g_firsts],
            self.trial_after(step + 1) if steers else None,
        )

    def d_at(self, first: int, count: int, rollbacks: int = 0) -> DInputs:
        """Samples `first` to `first + count` of those that D is ever given."""
        mix = None
        if self.config.loss.gradient_penalty > 0:
            seed, purpose = self.config.train.seed, f"penalty/{rollbacks}"
            shares = random_uniform(seed, purpose, first, count, 1).astype("float32")
            mix = self._sent(torch.from_numpy(shares)[:, :, None, None])
        return DInputs(
            self._real("d", first, count, rollbacks),
            self._latents("d", first, count, rollbacks),
            mix,
            self._draws("d fake", first, count, rollbacks),
        )

    def g_at(self, first: int, count: int, rollbacks: int = 0) -> GInputs:
        """Samples `first` to `first + count` of those that G is ever given."""
        relative = LOSSES[self.config.loss.kind].relative
        return GInputs(
            self._latents("g", first, count, rollbacks),
            self._real("g", first, count, rollbacks) if relative else None,
            self._draws("g fake", first, count, rollbacks),
        )

    def trial_after(self, step: int) -> Trial | None:
        """What D is tried on after `step` steps; None if no images are held out.

        The training images are those half-way through all that D has seen: neither its first nor
        its last.
        """
        if self.unseen is None:
            return None
        optim, count = self.config.optim, min(PROBES, len(self.unseen))
        middle = step * optim.d_steps_per_g * optim.batch_size // 2
        first = step * count
        return Trial(
            self._real("trial", middle, count, 0),
            Real(
                self.unseen.pixels_at(first, count),
                self.unseen.labels_at(first, count),
                self._draws("trial held out", first, count, 0),
            ),
            self._latents("trial", first, count, 0),
            self._draws("trial fake", first, count, 0),
        )

    def _draws(self, images: str, first: int, count: int, rollbacks: int) -> Tensor | None:
        """What augmentation does to `images`, of which each kind has draws of its own."""
        if not self.config.augment.policy:
            return None
        seed = self.config.train.seed
        return self._sent(augment.draws(seed, f"{images}/{rollbacks}", first, count))

    def _real(self, network: str, first: int, count: int, rollbacks: int) -> Real:
        return Real(
            self.batches.pixels_at(first, count),
            self.batches.labels_at(first, count),
            self._draws(f"{network} real", first, count, rollbacks),
        )

    def _latents(self, network: str, first: int, count: int, rollbacks: int) -> Latents:
        drawn = latents(self.config, self.n_classes, f"{network}/{rollbacks}", first, count)
        return Latents(
            self._sent(drawn.z), None if drawn.labels is None else self._sent(drawn.labels)
        )

    def _sent(self, tensor: Tensor) -> Tensor:
        return upload(tensor, self.batches.device)


def latents(config: Config, n_classes: int, purpose: str, first: int, count: int) -> Latents:
    """Rows `first` to `first + count` of the latents for `purpose`, on the CPU.

    Classes are all equally likely, as in both papers' code.
    """
    seed, width = config.train.seed, config.model.latent_dim
    z = torch.from_numpy(random_normal(seed, f"{purpose} latents", first, count, width))
    if n_classes == 0:
        return Latents(z, None)
    words = random_words(seed, f"{purpose} labels", first, count, 1)[:, 0]
    return Latents(z, torch.from_numpy((words % n_classes).astype("int64")))


def ahead(
    inputs: Inputs, steps: Iterable[int], rollbacks: int
) -> Generator[StepInputs, None, None]:
    """The inputs of `steps` one after the other, made by a thread while earlier ones are used.

    At most AHEAD of them wait. Close the iterator, as `contextlib.closing` does, to end the thread.
    """
    waiting: deque[Future[StepInputs]] = deque()
    with ThreadPoolExecutor(1, "inputs") as thread:
        try:
            for step in steps:
                waiting.append(thread.submit(inputs.of, step, rollbacks))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
