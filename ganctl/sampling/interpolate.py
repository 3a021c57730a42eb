"""The way from one image to the next, as a grid or an animation."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from ganctl.errors import ConfigError
from ganctl.models import Generator, fold, swaps
from ganctl.runtime import Precision, autocast, upload
from ganctl.sampling import video
from ganctl.sampling.draw import ANIMATIONS, MAX_GRID, Point, latents
from ganctl.sampling.pictures import PICTURES, enlarged, grid, save_picture, scale_for, to_uint8
from ganctl.store.durable import replacing

MAX_FRAMES = 10_000  # of an animation
FRAMES_BYTES = 2**30  # of frames that are enlarged by themselves: Pillow holds all of them
FRAME_MS = 80


@torch.no_grad()
def interpolate(
    generator: Generator,
    points: Sequence[Point],
    steps: int,
    *,
    truncation: float | None = None,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[np.ndarray]:
    """(steps, H, W, 3) uint8 for each pair of neighbours in `points`.

    From one point to just before the next, so that rows continue one another. Latents keep their
    length on the way, and classes are mixed by their shares.
    """
    network = fold(generator).to(device)
    swaps.apply(swaps.choose(device, precision, network), network)
    z = latents(generator.latent_dim, [point.seed for point in points], truncation)
    shares = torch.arange(steps) / steps
    for number, (start, end) in enumerate(pairwise(points)):
        inputs = [between(z[number], z[number + 1], shares)]
        if start.label is not None and end.label is not None:
            ends = one_hot(torch.tensor([start.label, end.label]), generator.n_classes).float()
            inputs.append(torch.lerp(ends[0], ends[1], shares[:, None]))
        with autocast(device, precision):
            images = network(*(upload(part, device) for part in inputs))
        yield to_uint8(images)


def between(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """(K, latent_dim): along the arc from `start`, at share 0, to `end`, at share 1.

    Spherical interpolation (White 2016, https://arxiv.org/abs/1609.04468): the straight line would
    pass through vectors shorter than any that G was trained on. start, end: (latent_dim,).
    """
    angle = torch.acos(torch.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    shares = shares[:, None]
    if angle.sin() < 1e-4:  # the same direction, or opposite ones: no arc is the shortest
        return torch.lerp(start, end, shares)
    first, second = torch.sin((1 - shares) * angle), torch.sin(shares * angle)
    return (first * start + second * end) / torch.sin(angle)


def check_way(out: Path, points: int, steps: int) -> None:
    """ConfigError if the way through so many points cannot go to a file of that name."""
    if points < 2:
        raise ConfigError("--interpolate needs two seeds or more", hint="for example --seeds 0-4")
    if out.suffix.lower() not in (*PICTURES, *ANIMATIONS):
        hint = "use .png or .jpg (a grid), .webp, .gif or .mp4"
        raise ConfigError(f"--interpolate cannot write {out}", hint)
    if out.suffix.lower() == ".mp4":
        video.need_av()
    most = MAX_GRID if out.suffix.lower() in PICTURES else MAX_FRAMES
    if (points - 1) * steps > most:
        raise ConfigError(
            f"{(points - 1) * steps:,} images are more than {out} can hold ({most:,})"
        )


def write_way(rows: Iterable[np.ndarray], out: Path, scale: int | None = None) -> None:
    """A grid with a row from each point to the next, an endless .webp or .gif, or an .mp4.

    Each pixel becomes a square of `scale` x `scale`; None: see `enlarged`. A file is complete or
    absent.
    """
    parts = list(rows)
    images = np.concatenate(parts)
    if out.suffix.lower() in PICTURES:
        save_picture(enlarged(grid(images, columns=len(parts[0])), scale), out)
        return
    if out.suffix.lower() == ".mp4":
        video.write_mp4((enlarged(image, scale) for image in images), out, FRAME_MS)
        return
    scale = scale or _scale_of_frames(images)
    frames = [Image.fromarray(enlarged(image, scale)) for image in images]
    quality = {"lossless": True} if out.suffix.lower() == ".webp" else {}
    with replacing(out) as temporary, temporary.open("wb") as file:
        frames[0].save(
            file, format=out.suffix[1:].upper(), save_all=True, append_images=frames[1:],
            duration=FRAME_MS, loop=0, **quality,
        )  # fmt: skip


def _scale_of_frames(images: np.ndarray) -> int:
    """As for a picture, but less if memory for so many frames would be too large."""
    most = math.isqrt(max(1, FRAMES_BYTES // images.nbytes))
    return min(most, scale_for(*images.shape[1:3]))
