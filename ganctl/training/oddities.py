"""What is odd about images at the start of a run: one line each, with what may be done about it."""

import logging
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np

from ganctl.data.images import Images
from ganctl.data.sources import (
    OTHER_PICTURES,
    FaceSource,
    FolderSource,
    Source,
    ZipSource,
    open_source,
)
from ganctl.data.stored import ImageArray
from ganctl.settings.config import Config
from ganctl.training.loop import Watcher

COMPARED = 64  # prepared images, from the first to the last
OPENED = 16  # files, likewise: a photograph of a camera takes a third of a second
ALIKE = 2.0  # grey levels between images of the same place: less is a folder of copies
OFTEN = 100  # times an hour
HOUR = 3600  # seconds

log = logging.getLogger("ganctl")


def say(images: Images, config: Config) -> None:
    """A warning of each oddity."""
    source = open_source(config.data.source, config.data.resolution)
    for oddity in (
        *few(len(images.packed.images) - len(images.held_out), config),
        *other_pictures(source),
        *sizes(source, config),
        *alike(images.packed.images),
    ):
        log.warning("%s", oddity)


def few(count: int, config: Config) -> Iterator[str]:
    """`count` images are fewer than a batch."""
    batch = config.optim.batch_size
    if count < batch:
        yield (
            f"{count:,} images are fewer than a batch of {batch}: each step shows some of them more"
            f" than once; --batch-size {max(2, count // 2)} seldom does, but more images help more"
        )


def other_pictures(source: Source) -> Iterator[str]:
    """Beside the images of `source` there are pictures that are not read."""
    if not isinstance(source, FolderSource | ZipSource):
        return
    kinds = source.others
    if found := [f"{kinds[suffix]:,} {suffix}" for suffix in OTHER_PICTURES if kinds[suffix]]:
        yield (
            f"{' and '.join(found)} files are not used, only {len(source):,} others: convert them"
            " to PNG or JPEG"
        )


def sizes(source: Source, config: Config) -> Iterator[str]:
    """Images of `source` are smaller than the crop or much larger, or are enlarged."""
    if isinstance(source, FaceSource):
        return
    found = [
        (_shorter_side(source, index), source.name(index)) for index in _some(len(source), OPENED)
    ]
    sides = [(side, name) for side, name in found if side]
    if not sides:
        return
    side, name = min(sides)
    data = config.data

    def share_below(least: int) -> str:
        return f"{sum(each < least for each, _ in sides) / len(sides):.0%}"

    if data.crop is not None and side < data.crop:
        yield (
            f"data.crop is {data.crop}, but {share_below(data.crop)} of the images are smaller, for"
            f" example {name}: of these the largest square is taken; --set data.crop=null takes it"
            " of all"
        )
    elif data.crop is not None and (typical := median(each for each, _ in sides)) > 2 * data.crop:
        yield (
            f"data.crop is {data.crop}: of images with {typical:,.0f} pixels on a side only the"
            f" middle {data.crop} x {data.crop} are used; --set data.crop=null takes the largest"
            " square"
        )
    elif side < data.resolution:
        share = share_below(data.resolution)
        yield (
            f"{share} of the images have less than {data.resolution} pixels on a side, for example"
            f" {name}, and are enlarged: they will be blurred"
        )


def alike(pixels: ImageArray) -> Iterator[str]:
    """(N, R, R, 3) uint8 hardly differ."""
    if len(pixels) < 2:
        return
    some = pixels[_some(len(pixels), COMPARED)].astype(np.float32)
    if (spread := float(some.std(axis=0).mean())) < ALIKE:
        yield (
            f"the images are nearly the same: they differ by {spread:.1f} of 255 grey levels; is"
            " this the right folder?"
        )


def seen_often(images_per_second: float, count: int, held_out: bool) -> str | None:
    """What is to be said of `count` images at this speed, if others are held out or not."""
    times = HOUR * images_per_second / count
    if times < OFTEN:
        return None
    # Adaptive augmentation, which most presets have, goes by images held out.
    always = "" if held_out else " --set augment.probability=0.8"
    return (
        f"each of the {count:,} images is seen {times:,.0f} times an hour: D may learn them by"
        f" heart; more images help, or --set 'augment.policy=[colour,translation,cutout]'{always}"
    )


class SaysHowOften:
    """A watcher that says so once, at the first figures, and passes everything on."""

    def __init__(self, shown: Watcher, count: int, held_out: bool) -> None:
        """`count` images are trained on; `held_out`: others are not."""
        self._shown, self._asked, self._said = shown, (count, held_out), False

    def stepped(self, step: int) -> None:
        """Passed on."""
        self._shown.stepped(step)

    def measured(self, row: Mapping[str, Any]) -> None:
        """Passed on, after a word if one is due."""
        word = None if self._said else seen_often(row["images_per_second"], *self._asked)
        self._said = True
        if word:
            log.warning("%s", word)
        self._shown.measured(row)

    def saved(self, step: int, path: str) -> None:
        """Passed on."""
        self._shown.saved(step, path)


def _some(count: int, most: int) -> list[int]:
    """Indices of up to `most` of `count` images, spread over all."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most))})


def _shorter_side(source: Source, index: int) -> int | None:
    try:
        return min(source.read(index).size)
    except Exception:  # it was left out, whatever Pillow raises for it
        return None
