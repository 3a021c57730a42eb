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
from ganctl.training.losses import LOSSES

AHEAD = 2  # steps whose inputs are made, or being made, while one computes


class Latents(NamedTuple):
    """The arguments of a generator."""

    z: Tensor  # (B, latent_dim), standard normal
    labels: Tensor | None  # (B,) int64; None without classes


class Real(NamedTuple):
    """Real images."""

    pixels: Pixels  # B of them
    labels: Tensor | None  # (B,) int64; None without classes


class DInputs(NamedTuple):
    """What a part of an update of D is given."""

    real: Real
    latents: Latents  # as many
    mix: Tensor | None  # (B, 1, 1, 1) in [0, 1]: of the gradient penalty; None without


class GInputs(NamedTuple):
    """What a part of an update of G is given."""

    latents: Latents
    real: Real | None  # as many; None but for losses that compare with them


class StepInputs(NamedTuple):
    """What a training step is given, on the device."""

    d_updates: list[list[DInputs]]  # the parts of each update of D
    g_parts: list[GInputs]  # of the update of G


class Inputs:
    """The inputs of every step of a run."""

    def __init__(self, config: Config, batches: Batches, n_classes: int) -> None:
        """n_classes: of the generated images; 0 without classes."""
        self.config, self.batches, self.n_classes = config, batches, n_classes

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
        g_firsts = [step * g_size * parts + part * g_size for part in range(parts)]
        return StepInputs(
            [[self.d_at(*share(first, size), rollbacks) for first in update] for update in firsts],
            [self.g_at(*share(first, g_size), rollbacks) for first in g_firsts],
        )

    def d_at(self, first: int, count: int, rollbacks: int = 0) -> DInputs:
        """Samples `first` to `first + count` of those that D is ever given."""
        mix = None
        if self.config.loss.gradient_penalty > 0:
            seed, purpose = self.config.train.seed, f"penalty/{rollbacks}"
            shares = random_uniform(seed, purpose, first, count, 1).astype("float32")
            mix = self._sent(torch.from_numpy(shares)[:, :, None, None])
        return DInputs(self._real(first, count), self._latents("d", first, count, rollbacks), mix)

    def g_at(self, first: int, count: int, rollbacks: int = 0) -> GInputs:
        """Samples `first` to `first + count` of those that G is ever given."""
        relative = LOSSES[self.config.loss.kind].relative
        real = self._real(first, count) if relative else None
        return GInputs(self._latents("g", first, count, rollbacks), real)

    def _real(self, first: int, count: int) -> Real:
        return Real(self.batches.pixels_at(first, count), self.batches.labels_at(first, count))

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
