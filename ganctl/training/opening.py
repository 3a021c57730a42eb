"""The images of a run, prepared now or before, with a word on what is odd about them."""

import logging
from functools import partial

from ganctl.data import held_out
from ganctl.data.duplicates import groups_of_equal
from ganctl.data.images import Images
from ganctl.data.labels import class_names, labels_of
from ganctl.data.packing import PackedImages, opened, pack
from ganctl.data.sources import Source, fetch, open_source
from ganctl.distributed import each_machine_does, size
from ganctl.errors import DataError
from ganctl.progress import Progress
from ganctl.settings.config import Config
from ganctl.training.memory import memory_for_images

SHOWN_COPIES = 5  # groups of equal images that are named, and images of each
SHOWN_SKIPPED = 5  # unreadable files that are named; the cache's index lists all

log = logging.getLogger("ganctl")


def open_images(config: Config, progress: Progress) -> Images:
    """The images that `config` names, their classes, and which of them are held out."""
    source = source_for(config.data.source, config.data.resolution, progress)
    names = classes_for(config, source)  # mistakes come before all the work
    packed = open_pixels(source, config.data.resolution, config.data.crop, progress)
    labels = labels_of(source, packed, names)
    data, n = config.data, len(packed.images)
    chosen = held_out.draw(data.held_out, n, config.train.seed, packed.fingerprint, labels.numbers)
    if config.augment.adaptive() and len(chosen) < 2:  # of one there is no spread
        raise DataError(
            f"augment.probability is adaptive, but of {n} images too few can be held out for it",
            hint=f"give {held_out.ENOUGH} images or more, or --set augment.probability=0.8",
        )
    return Images(packed, labels, chosen)


def source_for(where: str, resolution: int, progress: Progress) -> Source:
    """The images at `where`; of several processes one on each machine downloads them."""
    if size() > 1:
        each_machine_does(lambda _: fetch(where), progress)
    return open_source(where, resolution)


def open_pixels(
    source: Source, resolution: int, crop: int | None, progress: Progress
) -> PackedImages:
    """The images of `source`, prepared now or before, with a word on those left out."""
    asked = source, resolution, crop
    with memory_for_images():
        packed = each_machine_does(partial(pack, *asked), progress) or opened(*asked)
    if packed.skipped:
        log.warning("%d of %d files were left out:", len(packed.skipped), len(source))
        for entry in packed.skipped[:SHOWN_SKIPPED]:
            log.info("  %s: %s", entry.name, entry.reason)
        if len(packed.skipped) > SHOWN_SKIPPED:
            log.info("  ... all are listed in %s", packed.index)
    return packed


def classes_for(config: Config, source: Source) -> list[str]:
    """The name of each image's class; [] for an unconditional model, which needs none."""
    return class_names(source, config.data.attribute) if config.model.conditional else []


def say_duplicates(images: Images, config: Config) -> None:
    """A word on images that are there more than once, by name."""
    groups = groups_of_equal(images.packed.images)
    if not groups:
        return
    source = open_source(config.data.source, config.data.resolution)
    left_out = {entry.name for entry in images.packed.skipped}
    names = [name for i in range(len(source)) if (name := source.name(i)) not in left_out]
    copies = sum(len(group) - 1 for group in groups)
    log.warning("%d of %d images are copies of others:", copies, len(images.packed.images))
    for group in groups[:SHOWN_COPIES]:
        log.info("  %s", " = ".join(names[number] for number in group[:SHOWN_COPIES]))
