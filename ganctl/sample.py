"""Drawing images from a generator: image `seed` is the same whatever else is drawn with it."""

import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganctl.config import Precision
from ganctl.errors import ConfigError
from ganctl.models.convnet import Generator
from ganctl.models.folding import fold
from ganctl.pictures import grid, png, save_png, to_uint8
from ganctl.runtime import autocast, random_stream, upload

MAX_GRID = 4096  # images in one picture
Batch = tuple[Sequence[int], np.ndarray]  # seeds, and (B, H, W, 3) uint8


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


@torch.no_grad()
def draw(
    generator: Generator,
    seeds: Sequence[int],
    *,
    batch_size: int,
    truncation: float | None = None,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[Batch]:
    """The images of `seeds` in order, batch by batch.

    Every batch has the same shape, the last one padded: on the CPU an image then has the same bits
    at any position.
    """
    network = fold(generator).to(device)
    for start in range(0, len(seeds), batch_size):
        wanted = seeds[start : start + batch_size]
        padded = [*wanted, *[wanted[-1]] * (batch_size - len(wanted))]
        z = upload(latents(generator.latent_dim, padded, truncation), device)
        with autocast(device, precision):
            images = network(z)
        yield wanted, to_uint8(images)[: len(wanted)]


def check_out(out: Path, n: int) -> None:
    """ConfigError if n images cannot go to a file of that name."""
    if out.suffix.lower() not in (".png", ".npz", ".zip", ""):
        hint = "use .png (a grid), .npz, .zip, or a name without suffix for a folder of PNGs"
        raise ConfigError(f"cannot write images to a {out.suffix} file", hint)
    if out.suffix.lower() == ".png" and n > MAX_GRID:
        hint = "use --out FOLDER, images.zip or images.npz for so many"
        raise ConfigError(f"{n:,} images are too many for one picture (at most {MAX_GRID:,})", hint)


def write(batches: Iterable[Batch], n: int, out: Path) -> None:
    """Write n images as `out` is named: a .png grid, .npz, .zip of PNGs, or a folder of PNGs.

    A file is complete or absent; memory stays constant but for the grid.
    """
    check_out(out, n)
    if out.suffix == "":
        out.mkdir(parents=True, exist_ok=True)
        for seed, image in _singly(batches):
            save_png(image, out / _name(seed))
        return
    if out.suffix.lower() == ".png":
        save_png(grid(np.concatenate([images for _, images in batches])), out)
        return
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            if out.suffix.lower() == ".npz":
                _write_arrays(batches, n, archive)
            else:
                for seed, image in _singly(batches):
                    archive.writestr(_name(seed), png(image))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _write_arrays(batches: Iterable[Batch], n: int, archive: zipfile.ZipFile) -> None:
    """What `numpy.savez(images=..., seeds=...)` writes, without holding all images."""
    seeds: list[int] = []
    with archive.open("images.npy", "w", force_zip64=True) as file:
        for part, images in batches:
            if not seeds:
                header = np.lib.format.header_data_from_array_1_0(images)
                np.lib.format.write_array_header_1_0(
                    file, {**header, "shape": (n, *images.shape[1:])}
                )
            file.write(images.tobytes())
            seeds += part
    with archive.open("seeds.npy", "w") as file:
        np.lib.format.write_array(file, np.array(seeds, dtype=np.int64))


def _singly(batches: Iterable[Batch]) -> Iterator[tuple[int, np.ndarray]]:
    for seeds, images in batches:
        yield from zip(seeds, images, strict=True)


def _name(seed: int) -> str:
    return f"seed-{seed:09}.png"
