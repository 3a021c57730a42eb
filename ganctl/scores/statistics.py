"""What is kept of a set of images to compare it with others; of real images, in the cache.

A file in the cache is called by what it was measured of: the pixels and the features, never a path.
It is written and read as a checkpoint is, so it is whole or measured anew.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganctl.cache import cache_folder
from ganctl.data.stored import ImageArray
from ganctl.distributed import all_do, first_does, in_turns, is_first
from ganctl.errors import CheckpointError, DataError, StorageError
from ganctl.progress import Progress
from ganctl.scores.features import BATCH, Features
from ganctl.scores.frechet import Gaussian, Moments
from ganctl.scores.protocol import KEPT
from ganctl.store import checkpoint

VERSION = 1  # of what is in a file: raise it when the same images give other figures

log = logging.getLogger("ganctl")


@dataclass(frozen=True)
class Statistics:
    """Of a set of images."""

    count: int
    gaussian: Gaussian
    kept: Tensor  # (min(count, KEPT), D) fp32: the features of the first ones


def measured(
    found: Iterable[tuple[Sized, np.ndarray]], features: Features, total: int
) -> Statistics | None:
    """Of batches of images, `total` in all, each with `rows_of` it.

    None if there are none, as in all but the first of several processes.
    """
    moments, kept = Moments(features.width), []
    for batch, rows in found:
        of_batch = torch.from_numpy(rows[: len(batch)])
        if moments.count < KEPT:
            kept.append(of_batch[: KEPT - moments.count])
        moments.add(of_batch)
    return Statistics(total, moments.gaussian(), torch.cat(kept)) if kept else None


def joined(one: Statistics, other: Statistics) -> Statistics:
    """Of the images of both, two or more of each, `one`'s before the others."""
    moments = Moments(one.kept.shape[1])
    for part in (one, other):
        moments.add_counted(part.gaussian, part.count)
    kept = torch.cat([one.kept, other.kept])[:KEPT]
    return Statistics(moments.count, moments.gaussian(), kept)


def rows_of(images: np.ndarray, features: Features) -> np.ndarray:
    """(BATCH, D) fp32: the features of images (B, H, W, 3) uint8, B <= BATCH, and then zeros."""
    found = features.of(images).numpy()
    return np.pad(found, ((0, BATCH - len(found)), (0, 0)))


def by_images(progress: Progress, total: int) -> Progress:
    """What is to be told of batches, to tell `progress` of images."""
    return lambda batches, _: progress(min(batches * BATCH, total), total)


def of_images(
    images: ImageArray, order: np.ndarray, features: Features, progress: Progress
) -> Statistics | None:
    """Of `images` (N, H, W, 3) at the places `order`, from the cache or measured now.

    Several processes share the work, and the first of them has the answer, the others None.
    """
    path, identity = all_do(lambda: _place(images, order, features))
    found = _read(path, identity, features.width) if is_first() else None
    if first_does(lambda: found is not None):
        return found

    def work(own: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        return (rows_of(np.ascontiguousarray(images[numbers]), features) for numbers in own)

    told = by_images(progress, len(order))
    rows: Iterator[tuple[np.ndarray, np.ndarray]] = in_turns(_batches(order), work, told)
    found = measured(rows, features, len(order))
    if found is not None:
        _write(path, identity, found)
    return found


def _place(
    images: ImageArray, order: np.ndarray, features: Features
) -> tuple[Path, dict[str, object]]:
    """Where the statistics of just this are kept, and what they are of."""
    identity = {"version": VERSION, "kept": KEPT, "features": features.name}
    identity |= {"weights": features.digest, "images": digest(images, order), "n": len(order)}
    name = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:32]
    return cache_folder() / "scores" / f"{name}.pt", identity


def digest(images: ImageArray, order: np.ndarray) -> str:
    """SHA-256 of the size of images (N, H, W, 3) and the pixels of those at the places `order`."""
    found = hashlib.sha256(repr(images.shape[1:]).encode())
    for numbers in _batches(order):
        found.update(np.ascontiguousarray(images[numbers]).data)
    return found.hexdigest()


def _batches(order: np.ndarray) -> list[np.ndarray]:
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def _read(path: Path, identity: dict[str, object], width: int) -> Statistics | None:
    """What is in `path`; None, with a word, unless it is whole and of just this."""
    if not path.exists():
        return None
    try:
        payload, metadata = checkpoint.read(path)
        mean, covariance, kept = (payload[name] for name in ("mean", "covariance", "kept"))
        shapes = [tuple(part.shape) for part in (mean, covariance, kept)]
        count = metadata["statistics"]["n"]
        expected = [(width,), (width, width), (min(count, KEPT), width)]
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        log.warning("the statistics %s are damaged, and measured anew: %s", path, error)
        return None
    if metadata["statistics"] != identity or shapes != expected:
        log.warning("the statistics %s are of another protocol, and are not used", path)
        return None
    return Statistics(count, Gaussian(mean, covariance), kept)


def _write(path: Path, identity: dict[str, object], found: Statistics) -> None:
    """Keep `found` for the next time; if that fails there is only a warning."""
    gaussian = found.gaussian
    payload = {"mean": gaussian.mean, "covariance": gaussian.covariance, "kept": found.kept}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        checkpoint.write(path, payload, {"statistics": identity})
    except (OSError, StorageError) as error:
        log.warning("the statistics of real images were not kept: %s", error)


def check_count(count: int, least: int, which: str) -> None:
    """DataError unless there are as many images as a comparison needs; `which` are they."""
    if count < least:
        raise DataError(
            f"scores need {least} images of each kind or more, not {count} ({which})",
            hint="and thousands, for figures that tell generators apart",
        )
