"""`ganctl sample`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from ganctl.cli.show import ProgressBar
    from ganctl.sample import Batch
    from ganctl.state import Description

MAX_IMAGES = 10_000_000


def sample(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="CKPT|RUN", help="A checkpoint or a run's folder.  (default: the newest run)"
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the first image; the next has the next seed.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Exactly these seeds, for example 0-63 or 3,5,8-10.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="x.png: a grid; x.npz; x.zip; x: a folder of PNGs.  (default: a grid here)"
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The live weights instead of their average.")
    ] = False,
    truncation: Annotated[
        float | None, typer.Option(help="Cut the latents' distribution off here, for example 0.7.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images drawn at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32 repeats images exactly; auto is faster where it can be.")
    ] = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.")] = False,
) -> None:
    """Draw images from a checkpoint, which is all that is needed.

    \b
    ganctl sample
    ganctl sample runs/celeba64-001/ckpt.pt -n 64 --out faces.png
    ganctl sample -n 50000 --out images.npz
    ganctl sample --seeds 7,12,40-47 --truncation 0.7 --out chosen/
    """
    numbers = parse_seeds(seeds) if seeds is not None else range(seed, seed + n)
    if not 1 <= len(numbers) <= MAX_IMAGES:
        raise ConfigError(f"-n is {n:,}, but it must be from 1 to {MAX_IMAGES:,}")
    if min(numbers) < 0 or max(numbers) >= 2**62:
        raise ConfigError("seeds must be from 0 to 2^62")
    if truncation is not None and not 0.01 <= truncation <= 10:
        raise ConfigError(f"--truncation is {truncation}, but it must be from 0.01 to 10")
    if not 1 <= batch_size <= 65536:
        raise ConfigError(f"--batch-size is {batch_size}, but it must be from 1 to 65536")

    from ganctl import runs
    from ganctl import sample as sampler
    from ganctl.cli import show
    from ganctl.runtime import choose_device, choose_precision, prepare
    from ganctl.state import load_networks

    if out is not None:
        sampler.check_out(out, len(numbers))
        if out.exists() and not force:
            raise ConfigError(f"{out} exists", hint="--force replaces it")
    path = runs.find_checkpoint(source)
    target = choose_device(device)
    prepare(target)
    networks, saved = load_networks(path)
    if out is None:
        out = _default_name(saved, numbers, raw, truncation, precision)
        sampler.check_out(out, len(numbers))
    generator = networks.generator if raw else networks.generator_ema
    batches = sampler.draw(
        generator,
        numbers,
        batch_size=batch_size,
        truncation=truncation,
        device=target,
        precision=choose_precision(precision, target),
    )
    try:
        with show.ProgressBar("drawing") as progress:
            sampler.write(_counted(batches, progress, len(numbers)), len(numbers), out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    show.result(str(out))


def parse_seeds(text: str) -> list[int]:
    """The numbers in "3,5,8-10", in that order."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None:
            raise ConfigError(f"--seeds {text!r} is not a list of numbers and ranges like 3,5,8-10")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= MAX_IMAGES:
            raise ConfigError(f"--seeds {text!r} asks for more than {MAX_IMAGES:,} images")
        numbers += range(first, last + 1)
    return numbers


def _default_name(
    saved: "Description",
    numbers: Sequence[int],
    raw: bool,
    truncation: float | None,
    precision: str,
) -> Path:
    """A grid in the current folder whose name says what it shows: drawn again, it is the same."""
    run = re.sub(r"[^A-Za-z0-9._-]", "-", saved.run.name)
    name = f"{run}-step{saved.step}-seeds{numbers[0]}-{numbers[-1]}"
    name += "-raw" if raw else ""
    name += f"-truncation{truncation:g}" if truncation is not None else ""
    name += f"-{precision}" if precision != "fp32" else ""
    return Path(f"{name}.png")


def _counted(batches: "Iterable[Batch]", progress: "ProgressBar", total: int) -> "Iterator[Batch]":
    done = 0
    for seeds, images in batches:
        done += len(seeds)
        progress(done, total)
        yield seeds, images
