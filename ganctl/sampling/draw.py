"""Drawing images from a generator: an image is the same whatever else is drawn with it."""

import logging
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, starmap
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganctl.distributed import first_does, in_turns
from ganctl.errors import ConfigError
from ganctl.models import Generator, fold, swaps
from ganctl.models.swaps import Swaps
from ganctl.progress import Progress
from ganctl.runtime import Precision, autocast, random_stream, upload
from ganctl.sampling.pictures import PICTURES, enlarged, grid, png, save_picture, save_png, to_uint8
from ganctl.store.durable import replacing

MAX_GRID = 4096  # images in one picture
ANIMATIONS = (".webp", ".gif", ".mp4")
log = logging.getLogger("ganctl")


class Point(NamedTuple):
    """What one image is drawn from."""

    seed: int
    label: int | None = None  # its class; None without classes


class Batch(NamedTuple):
    """Drawn images with what they were drawn from."""

    points: Sequence[Point]
    images: np.ndarray  # (B, H, W, 3) uint8


def each_class(
    seeds: Sequence[int], labels: Sequence[int | None], count: int | None = None
) -> list[Point]:
    """All seeds with the first class, then all with the next; `labels` are [None] without any.

    With `count` just so many points: the last seed is left out of the last classes.
    """
    turns = [(place, seed) for seed in seeds for place in range(len(labels))][:count]
    return [Point(seed, labels[place]) for place, seed in sorted(turns, key=itemgetter(0))]


def classes_in_turn(seeds: Sequence[int], labels: Sequence[int | None]) -> list[Point]:
    """Each seed once, with the next class, the first again after the last."""
    return [Point(*pair) for pair in zip(seeds, cycle(labels), strict=False)]


def latents(latent_dim: int, seeds: Sequence[int], truncation: float | None) -> Tensor:
    """(len(seeds), latent_dim): row i depends on seeds[i] alone.

    With `truncation` T the values follow the normal distribution cut off at -T and T (Brock et al.
    2019, section 3.1), by inverting the distribution function instead of drawing again: so an image
    changes smoothly with T.
    """
    rows = [torch.randn(latent_dim, generator=random_stream(seed, "sample")) for seed in seeds]
    z = torch.stack(rows)
    if truncation is None:
        return z
    half = math.erf(truncation / math.sqrt(2))  # the probability of |z| <= T
    cut = math.sqrt(2) * torch.erfinv(half * torch.erf(z.double() / math.sqrt(2)))
    return cut.float()


def draw(
    generator: Generator,
    points: Sequence[Point],
    *,
    batch_size: int,
    truncation: float | None = None,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[Batch]:
    """The images of `points` in order, batch by batch.

    Several processes draw the batches in turns, and the first one gets them all, the others none.
    """
    given = in_shares(
        generator, points, lambda _, images: to_uint8(images), batch_size=batch_size,
        truncation=truncation, device=device, precision=precision,
    )  # fmt: skip
    for wanted, images in given:
        yield Batch(wanted, images[: len(wanted)])


def in_shares(
    generator: Generator,
    points: Sequence[Point],
    make: Callable[[Sequence[Point], Tensor], np.ndarray],
    *,
    batch_size: int,
    truncation: float | None = None,
    device: torch.device,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Iterator[tuple[Sequence[Point], np.ndarray]]:
    """The points of each batch, and what `make` makes of them and their images; see `drawn`.

    Several processes take the batches in turns, and the first one gets all, the others none;
    `progress` is told how many batches are done.
    """
    # The first process chooses, as what is faster is measured, and all must compute alike.
    used = Swaps(*first_does(lambda: list(swaps.choose(device, precision, generator))))

    def work(own: Sequence[Sequence[Point]]) -> Iterator[np.ndarray]:
        given = drawn(
            generator, [point for batch in own for point in batch], used, batch_size=batch_size,
            truncation=truncation, device=device, precision=precision,
        )  # fmt: skip
        return starmap(make, given)

    batches = [points[start : start + batch_size] for start in range(0, len(points), batch_size)]
    return in_turns(batches, work, progress)


@torch.no_grad()
def drawn(
    generator: Generator,
    points: Sequence[Point],
    used: Swaps,
    *,
    batch_size: int,
    truncation: float | None = None,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[tuple[Sequence[Point], Tensor]]:
    """The points of each batch, and their images (batch_size, 3, R, R) in [-1, 1] on the device.

    The generator computes with `used`. Every batch has the same shape, the last one padded: on the
    CPU an image then has the same bits at any position.
    """
    network = fold(generator).to(device)
    swaps.apply(used, network)
    for start in range(0, len(points), batch_size):
        wanted = points[start : start + batch_size]
        padded = [*wanted, *[wanted[-1]] * (batch_size - len(wanted))]
        z = latents(generator.latent_dim, [point.seed for point in padded], truncation)
        inputs = [z]
        if generator.n_classes:
            inputs.append(torch.tensor([point.label for point in padded]))
        with autocast(device, precision):
            images = network(*(upload(part, device) for part in inputs))
        yield wanted, images


def check_out(out: Path, n: int) -> None:
    """ConfigError if n images cannot go to a file of that name."""
    if out.suffix.lower() in ANIMATIONS:
        raise ConfigError(f"{out} would be an animation", hint="it needs --interpolate K")
    if out.suffix.lower() not in (*PICTURES, ".npz", ".zip", ""):
        hint = "use .png or .jpg (a grid), .npz, .zip, or a name without suffix: a folder of PNGs"
        raise ConfigError(f"cannot write images to a {out.suffix} file", hint)
    if out.suffix.lower() in PICTURES and n > MAX_GRID:
        hint = "use --out FOLDER, images.zip or images.npz for so many"
        raise ConfigError(f"{n:,} images are too many for one picture (at most {MAX_GRID:,})", hint)


def check_names(points: Sequence[Point], out: Path) -> None:
    """ConfigError if two images of a folder or a .zip would get one name: seeds name them."""
    if out.suffix.lower() not in (".zip", "") or len(set(points)) == len(points):
        return
    seed = next(point.seed for point, count in Counter(points).items() if count > 1)
    raise ConfigError(
        f"seed {seed} is there twice, and images in {out} are named by their seeds",
        "name each seed and class once, or use --out images.npz or a grid",
    )


def write(
    batches: Iterable[Batch],
    n: int,
    out: Path,
    columns: int | None,
    classes: Sequence[str] = (),
    scale: int | None = None,
) -> None:
    """Write n images as `out` is named: a .png or .jpg grid, .npz, or a .zip or folder of PNGs.

    `columns` and `scale` are of the grid, in which a row is a class if there are `columns`. With
    `classes` there is a folder for each, and labels in the .npz.
    A file is complete or absent, and of a folder that is not complete it is said; memory stays
    constant but for the grid.
    """
    check_out(out, n)
    if out.suffix == "":
        _write_folder(batches, n, out, classes)
        return
    if out.suffix.lower() in PICTURES:
        points, images = zip(*_singly(batches), strict=True)
        places = None if columns is None else _places(points, columns)
        save_picture(enlarged(grid(np.stack(images), columns, places), scale), out)
        return
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        if out.suffix.lower() == ".npz":
            _write_arrays(batches, n, archive)
        else:
            for point, image in _singly(batches):
                archive.writestr(_name(point, classes), png(image))


def _write_folder(batches: Iterable[Batch], n: int, out: Path, classes: Sequence[str]) -> None:
    written = 0
    try:
        for point, image in _singly(batches):
            path = out / _name(point, classes)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(image, path)
            written += 1
    finally:
        if 0 < written < n:
            log.warning("%s has only %s of %s images", out, f"{written:,}", f"{n:,}")


def _places(points: Sequence[Point], columns: int) -> list[int]:
    """The cell of each point, in rows of so many columns: another class begins another row."""
    places: list[int] = []
    for before, point in zip([None, *points], points, strict=False):
        following = places[-1] + 1 if places else 0
        new_row = before is not None and before.label != point.label
        places.append(math.ceil(following / columns) * columns if new_row else following)
    return places


def _write_arrays(batches: Iterable[Batch], n: int, archive: zipfile.ZipFile) -> None:
    """What `numpy.savez(images=..., seeds=...)` writes, without holding all images."""
    points: list[Point] = []
    with archive.open("images.npy", "w", force_zip64=True) as file:
        for batch in batches:
            if not points:
                header = np.lib.format.header_data_from_array_1_0(batch.images)
                np.lib.format.write_array_header_1_0(
                    file, {**header, "shape": (n, *batch.images.shape[1:])}
                )
            file.write(batch.images.tobytes())
            points += batch.points
    arrays = {"seeds": [point.seed for point in points]}
    if points[0].label is not None:
        arrays["labels"] = [point.label or 0 for point in points]
    for name, values in arrays.items():
        with archive.open(f"{name}.npy", "w") as file:
            np.lib.format.write_array(file, np.array(values, dtype=np.int64))


def _singly(batches: Iterable[Batch]) -> Iterator[tuple[Point, np.ndarray]]:
    for batch in batches:
        yield from zip(batch.points, batch.images, strict=True)


def _name(point: Point, classes: Sequence[str]) -> str:
    """A file's path: never outside of where it is put, whatever the class is called."""
    name = f"seed-{point.seed:09}.png"
    if point.label is None:
        return name
    return f"{point.label:03}-{re.sub(r'[^A-Za-z0-9_-]+', '-', classes[point.label])}/{name}"
