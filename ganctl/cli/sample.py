"""`ganctl sample`."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ganctl.cli import launching
from ganctl.cli.outputs import check_file, check_folder, name_part, writing
from ganctl.cli.points import (
    Raw,
    Seed,
    Seeds,
    Source,
    Truncation,
    check_choice,
    check_number,
    check_truncation,
    choose_seeds,
    parse_classes,
)
from ganctl.errors import ConfigError
from ganctl.processes import place

if TYPE_CHECKING:
    import numpy as np

    from ganctl.cli.show import ProgressBar
    from ganctl.sampling.draw import Batch
    from ganctl.store.contents import Description

Part = TypeVar("Part", "Batch", "np.ndarray")

DEFAULT_IMAGES = 64
MAX_SCALE = 64
WALK_SEEDS = 5  # that --interpolate goes through, if none are named


def sample(
    context: typer.Context,
    source: Source = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="How many images, of all classes together.  (default: 64, or with classes as many"
            " of each)",
        ),
    ] = None,
    seed: Seed = None,
    seeds: Seeds = None,
    classes: Annotated[
        str | None,
        typer.Option("--class", help="Draw these classes: names or numbers, as dress or 0-3,7."),
    ] = None,
    walk: Annotated[
        int | None,
        typer.Option("--interpolate", metavar="K", help="K images on the way to the next seed."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="x.png, x.jpg: a grid; x.npz; x.zip; x: a folder of PNGs; x.webp, x.gif, x.mp4:"
            " the way of --interpolate.  (default: a grid here)"
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Enlarge pictures and animations: K x K for each pixel.  (default: so that the"
            " longer side has 512 or more)",
        ),
    ] = None,
    best: Annotated[
        bool,
        typer.Option("--best", help="The run's checkpoint with the best KID, if it is scored."),
    ] = False,
    raw: Raw = False,
    truncation: Truncation = None,
    batch_size: Annotated[int, typer.Option(help="Images drawn at a time.")] = 64,
    processes: Annotated[str | None, typer.Option(metavar="N", help=launching.HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ..., or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32 repeats images exactly; auto is faster where it can be.")
    ] = "fp32",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file that --out names.")
    ] = False,
) -> None:
    """Draw images from a checkpoint, which is all that is needed.

    With classes a grid has one row a class, and the same seeds in each row.

    \b
    ganctl sample
    ganctl sample runs/celeba64-001/ckpt.pt -n 64 --out faces.png
    ganctl sample runs/celeba64-001 --best
    ganctl sample -n 50000 --out images.npz --processes all
    ganctl sample --seeds 7,12,40-47 --truncation 0.7 --out chosen/
    ganctl sample --class dress,3 -n 16
    ganctl sample --seeds 3,8,5,3 --interpolate 20 --out way.webp
    """
    _check_options(n, seed, seeds, walk, truncation, batch_size)
    _check_scale(scale, out)
    if walk is not None and (processes is not None or place().size > 1):
        raise ConfigError("--interpolate is for one process", "leave --processes out")
    if (code := launching.shared(context.obj, processes)) is not None:
        raise typer.Exit(code)

    from ganctl import distributed
    from ganctl.cli import show
    from ganctl.runtime import choose_device, choose_precision, prepare
    from ganctl.sampling import draw as drawing
    from ganctl.sampling import interpolate
    from ganctl.store import runs
    from ganctl.store.contents import load_networks

    if out is not None:
        _check_place(out, n or 1, walk, force=force)
    with distributed.joined(device) as own_device:
        find = runs.find_best if best else runs.find_checkpoint
        path = Path(distributed.first_does(lambda: str(find(source))))
        target = choose_device(own_device)
        arithmetic = choose_precision(precision, target)
        prepare(target, arithmetic)
        networks, saved = load_networks(path)
        generator = networks.generator if raw else networks.generator_ema
        names = saved.data.classes if generator.n_classes else []
        labels = parse_classes(classes, names)
        if walk is not None:
            count = n or max(WALK_SEEDS, len(labels) if classes else 0)
            numbers = choose_seeds(seeds, seed or 0, count)
            points = drawing.classes_in_turn(numbers, labels)
        else:
            numbers = choose_seeds(seeds, seed or 0, math.ceil((n or DEFAULT_IMAGES) / len(labels)))
            points = drawing.each_class(numbers, labels, n)
        options = raw, truncation, precision, classes, walk, scale
        out = out or _default_name(saved, numbers, seeds, *options)
        with _drawing(out, batch_size, walk) as progress:
            if walk is not None:
                interpolate.check_way(out, len(points), walk)
                rows = interpolate.interpolate(
                    generator, points, walk,
                    truncation=truncation, device=target, precision=arithmetic,
                )  # fmt: skip
                interpolate.write_way(
                    _counted(rows, progress, walk * (len(points) - 1)), out, scale
                )
            else:
                drawing.check_names(points, out)
                batches = drawing.draw(
                    generator, points, batch_size=batch_size,
                    truncation=truncation, device=target, precision=arithmetic,
                )  # fmt: skip
                columns = len(numbers) if len(labels) > 1 else None
                counted = _counted(batches, progress, len(points))
                if distributed.is_first():
                    drawing.write(counted, len(points), out, columns, names, scale)
                else:
                    deque(counted, 0)  # they go to the first process, which writes them
    if place().rank == 0:
        show.result(str(out))


@contextmanager
def _drawing(out: Path, batch_size: int, walk: int | None) -> "Iterator[ProgressBar]":
    """A bar for what is drawn into `out`; an error that says what to do if there is no room."""
    from ganctl.cli import show
    from ganctl.training.memory import memory_explained

    lower = memory_explained(*_what_to_lower(batch_size, walk))
    with lower, writing(out), show.ProgressBar("drawing") as progress:
        yield progress


def _what_to_lower(batch_size: int, walk: int | None) -> tuple[str, str]:
    """What is done with most memory, and a hint with less of it."""
    if walk is not None:
        hint = f"--interpolate {max(1, walk // 4)} needs about a quarter of it"
        return f"drawing {walk} images at a time", hint
    if batch_size == 1:
        return "drawing one image at a time", "end other programs, or use another --device"
    hint = f"--batch-size {max(1, batch_size // 4)} needs about a quarter of it"
    return f"drawing {batch_size:,} images at a time", hint


def _check_options(
    n: int | None,
    seed: int | None,
    seeds: str | None,
    walk: int | None,
    truncation: float | None,
    batch_size: int,
) -> None:
    """ConfigError if an option has a value that it cannot have, or does not fit another."""
    if n is not None:
        check_number(n)
    check_choice(seeds, seed, n)
    check_truncation(truncation)
    if not 1 <= batch_size <= 65536:
        raise ConfigError(f"--batch-size is {batch_size}, but it must be from 1 to 65536")
    if walk is not None and not 1 <= walk <= 1000:
        raise ConfigError(f"--interpolate is {walk}, but it must be from 1 to 1000")


def _check_scale(scale: int | None, out: Path | None) -> None:
    if scale is None:
        return
    if not 1 <= scale <= MAX_SCALE:
        raise ConfigError(f"--scale is {scale}, but it must be from 1 to {MAX_SCALE}")
    if out is not None and out.suffix.lower() in ("", ".npz", ".zip"):
        hint = "what goes to folders, .zip and .npz has the size that the networks draw"
        raise ConfigError(f"--scale is for pictures and animations, but --out is {out}", hint)


def _check_place(out: Path, n: int, walk: int | None, *, force: bool) -> None:
    """ConfigError or StorageError if `out` cannot be written, whatever the checkpoint is."""
    from ganctl.sampling.draw import check_out

    if walk is None:
        check_out(out, n)
    if out.suffix:
        check_file(out, force=force)
    else:
        check_folder(out)


def _default_name(
    saved: "Description",
    numbers: Sequence[int],
    seeds: str | None,
    raw: bool,
    truncation: float | None,
    precision: str,
    classes: str | None,
    walk: int | None,
    scale: int | None,
) -> Path:
    """A grid in the current folder whose name says what it shows: drawn again, it is the same."""
    which = seeds if seeds is not None else f"{numbers[0]}-{numbers[-1]}"
    name = f"{name_part(saved.run.name)}-step{saved.step}-seeds{name_part(which)}"
    name += f"-class-{name_part(classes)}" if classes else ""
    name += f"-interpolate{walk}" if walk is not None else ""
    name += "-raw" if raw else ""
    name += f"-truncation{truncation:g}" if truncation is not None else ""
    name += f"-{precision}" if precision != "fp32" else ""
    name += f"-scale{scale}" if scale is not None else ""
    return Path(f"{name}.png")


def _counted(parts: "Iterable[Part]", progress: "ProgressBar", total: int) -> "Iterator[Part]":
    """`parts` as they are, batches or rows of images, while the bar moves on."""
    done = 0
    for part in parts:
        done += len(part[-1]) if isinstance(part, tuple) else len(part)
        progress(done, total)
        yield part
