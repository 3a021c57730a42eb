"""Scores: how far generated images are from real ones, and real ones from each other."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganctl.data.stored import ImageArray
from ganctl.distributed import first_does
from ganctl.errors import CheckpointError, ConfigError, DataError
from ganctl.models import Generator
from ganctl.progress import Progress
from ganctl.runtime import random_stream
from ganctl.sampling.draw import Point, classes_in_turn, in_shares
from ganctl.sampling.pictures import to_uint8
from ganctl.scores import kid, prdc, statistics
from ganctl.scores.features import BATCH, Features
from ganctl.scores.frechet import frechet_distance
from ganctl.scores.protocol import Protocol
from ganctl.scores.statistics import Statistics

TRAINING, HELD_OUT = "training images", "images held out"  # which of a run's, in words
LEAST = max(kid.LEAST, prdc.LEAST)  # images of each kind


class Scores(NamedTuple):
    """Of one set of images against real ones; what each means is said where it is computed."""

    fd: float
    kid: float
    kid_error: float
    precision: float
    recall: float
    density: float
    coverage: float


class Scored(NamedTuple):
    """A checkpoint or a set of images, and its scores."""

    what: str
    step: int | None  # of a checkpoint
    scores: Scores


class Floor(NamedTuple):
    """What real images get against other real ones: no generator can be told from perfect below."""

    scores: Scores
    images: int  # of each side

    def as_data(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"images": self.images, **self.scores._asdict()}


class Report(NamedTuple):
    """Scores that were measured in one way, and how."""

    scored: list[Scored]
    protocol: Protocol
    floor: Floor | None


def compare(real: Statistics | None, fake: Statistics | None) -> Scores:
    """The scores of the second set against the first.

    Of several processes the first one has the statistics, and tells the others the scores.
    """
    return Scores(*first_does(lambda: _compared(real, fake)))


def _compared(real: Statistics | None, fake: Statistics | None) -> list[float]:
    assert real is not None and fake is not None
    try:
        distance = frechet_distance(real.gaussian, fake.gaussian)
        return [distance, *kid.kid(real.kept, fake.kept), *prdc.prdc(real.kept, fake.kept)]
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise DataError("these images' distance cannot be computed: no eigenvalues") from error


class RealImages:
    """`count` of a set of real images, always the same ones, and others for the floor."""

    def __init__(
        self, images: ImageArray, which: str, count: int, numbers: np.ndarray | None = None
    ) -> None:
        """images: (N, H, W, 3) uint8; numbers: which of them make the set, by default all.

        `which` is the set in words. DataError or ConfigError if there are too few.
        """
        numbers = np.arange(len(images)) if numbers is None else numbers
        total = len(numbers)
        statistics.check_count(total, LEAST, which)
        if count < LEAST:
            raise ConfigError(
                f"{count:,} images were asked for, but scores need {LEAST} of each kind or more",
                "and thousands, for figures that tell generators apart",
            )
        if count > total:
            raise ConfigError(
                f"{count:,} images were asked for, but there are only {total:,} ({which})",
                f"ask for {total:,} or fewer",
            )
        stream = random_stream(0, "score order", total)
        self._order = numbers[torch.randperm(total, generator=stream).numpy()]
        half = min(count, total // 2)
        self._sides = self._order[:half], self._order[half : max(2 * half, count)]  # of the floor
        self.images, self.count = images, count
        self.which = which if count == total else f"{which}, at random from {total:,}"

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return int(self.images.shape[1])

    @cached_property
    def digest(self) -> str:
        """Of the pixels that are compared with."""
        return statistics.digest(self.images, self._order[: self.count])

    def statistics(self, features: Features, progress: Progress) -> Statistics | None:
        """Of the images that are compared with; see `statistics.of_images`.

        Where those are all there are, they are measured by the floor's sides: each image once.
        """
        half, both = len(self._sides[0]), sum(map(len, self._sides))
        if self.count < both or half < LEAST:
            order = self._order[: self.count]
            return statistics.of_images(self.images, order, features, progress)
        one = self._side(0, features, lambda done, _: progress(done, both))
        other = self._side(1, features, lambda done, _: progress(half + done, both))
        return statistics.joined(one, other) if one and other else None

    def floor(self, features: Features, progress: Progress) -> Floor | None:
        """`count` others against these; where there are not so many, one half against the other.

        None if half of them are too few.
        """
        half = len(self._sides[0])
        if half < LEAST:
            return None
        return Floor(compare(*(self._side(i, features, progress) for i in (0, 1))), half)

    def _side(self, which: int, features: Features, progress: Progress) -> Statistics | None:
        return statistics.of_images(self.images, self._sides[which], features, progress)

    def protocol(self, features: Features, fake: str, fake_images: int) -> Protocol:
        """That of a comparison with these."""
        return Protocol(
            features=features.name,
            weights=features.digest,
            resize=features.resize,
            resolution=self.resolution,
            real=self.which,
            real_digest=self.digest,
            real_images=self.count,
            fake=fake,
            fake_images=fake_images,
        )


def of_generator(
    generator: Generator,
    count: int,
    features: Features,
    progress: Progress,
    truncation: float | None = None,
) -> Statistics | None:
    """Of the images of seeds 0 to count - 1, in fp32; seed k has the next class after seed k - 1's.

    `ganctl sample` draws the same of each seed and class. CheckpointError if one is not finite.
    Several processes share the work, and the first of them has the answer, the others None.
    """
    labels = range(generator.n_classes) if generator.n_classes else [None]
    points = classes_in_turn(range(count), list(labels))

    def rows(batch: Sequence[Point], images: Tensor) -> np.ndarray:
        if not images.isfinite().all():
            raise CheckpointError("the generator draws images that are not finite")
        return statistics.rows_of(to_uint8(images)[: len(batch)], features)

    found = in_shares(
        generator, points, rows, batch_size=BATCH, truncation=truncation, device=features.device,
        progress=statistics.by_images(progress, count),
    )  # fmt: skip
    return statistics.measured(found, features, count)


def fake_words(count: int, *, raw: bool = False, truncation: float | None = None) -> str:
    """Which images `of_generator` measures."""
    kind = "live" if raw else "averaged"
    cut = f", truncation {truncation:g}" if truncation is not None else ""
    return f"seeds 0 to {count - 1:,} of the {kind} generator{cut}"
