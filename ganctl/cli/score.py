"""`ganctl score`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.cli import launching
from ganctl.cli.points import Raw, Source, Truncation, check_number, check_truncation
from ganctl.errors import CheckpointError, ConfigError, shell_quoted

if TYPE_CHECKING:
    from ganctl.scores.comparison import Floor, RealImages, Report
    from ganctl.scores.features import Features

PATIENCE = 2  # seconds of work without a word
MOST_SIDE = 299  # pixels: no network looks at larger images
DEFAULT_IMAGES = 5000  # of each kind, or half of the real ones if there are not twice as many


def score(
    context: typer.Context,
    source: Source = None,
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="WHERE", help="These images instead of a checkpoint's."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="The real images.  (default: those of the run)"),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="Images of each kind.  (default: 5000, or half of all)")
    ] = None,
    features: Annotated[
        str, typer.Option(help="lite0, inception (then it is FID), or a file with its weights.")
    ] = "lite0",
    unseen: Annotated[
        bool, typer.Option("--held-out", help="Compare with images that the run never trained on.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="All checkpoints of the run, a line each.")
    ] = False,
    raw: Raw = False,
    truncation: Truncation = None,
    processes: Annotated[str | None, typer.Option(metavar="N", help=launching.HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ..., or mps.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Results as JSON.")] = False,
) -> None:
    """Measure how good and how varied images are, beside what real images get: the floor.

    Frechet and kernel distance (lower is better; FID and KID with the features inception only),
    precision, recall, density and coverage (higher is better). A run is not changed.

    \b
    ganctl score
    ganctl score runs/celeba64-001 --all
    ganctl score runs/celeba64-001/best.pt -n 50000 --features inception
    ganctl score -n 50000 --processes all
    ganctl score --images generated/ --data photos/
    """
    _check_options(source, images, data, n, every or unseen, raw, truncation)

    if (code := launching.shared(context.obj, processes)) is not None:
        raise typer.Exit(code)

    from ganctl import distributed
    from ganctl.cli import score_tables
    from ganctl.runtime import choose_device, prepare
    from ganctl.scores.features import open_features

    with distributed.joined(device) as own_device:
        target = choose_device(own_device)
        prepare(target)
        distributed.first_does(lambda: open_features(features, target).name)  # perhaps a download
        measured_with = distributed.all_do(lambda: open_features(features, target))
        if images is not None and data is not None:
            report = _of_folders(images, data, n, measured_with)
        else:
            report = _of_checkpoints(source, data, n, measured_with, unseen, every, raw, truncation)
        if json and distributed.is_first():
            score_tables.print_json(report)
        elif distributed.is_first():
            score_tables.print_report(report)


def _check_options(
    source: Path | None,
    images: str | None,
    data: str | None,
    n: int | None,
    every: bool,
    raw: bool,
    truncation: float | None,
) -> None:
    """ConfigError if an option has a value that it cannot have, or does not fit another."""
    if n is not None:
        check_number(n)
    check_truncation(truncation)
    if images is None:
        return
    if source is not None or every or raw or truncation is not None:
        hint = "leave out the checkpoint or run, --held-out, --all, --raw and --truncation"
        raise ConfigError("--images compares images, not a checkpoint", hint)
    if os.path.isfile(f"{images}/run.json"):
        hint = f"`ganctl score {shell_quoted(images)}` scores it; --data says against what"
        raise ConfigError(f"{images} is a run, not a folder of generated images", hint)
    if data is None:
        hint = f"for example: ganctl score --images {images} --data photos/"
        raise ConfigError("--images needs --data: the real images to compare with", hint)


def _of_folders(images: str, data: str, n: int | None, features: "Features") -> "Report":
    """Both kinds are prepared alike: squares of the side that the first generated image has."""
    from dataclasses import replace

    from ganctl.cli.show import ProgressBar
    from ganctl.data.sources import first_size
    from ganctl.scores.comparison import LEAST, RealImages, Report, Scored, compare
    from ganctl.scores.statistics import check_count
    from ganctl.training.opening import open_pixels, source_for

    with ProgressBar("preparing images") as progress:
        own_side = min(first_size(source_for(images, MOST_SIDE, progress)))
        side = min(own_side, MOST_SIDE)
        fake, real_all = (
            open_pixels(source_for(where, side, progress), side, None, progress).images
            for where in (images, data)
        )
    for where, found in ((images, fake), (data, real_all)):
        check_count(len(found), LEAST, f"images of {where}")
    count = n or min(len(fake), _default(len(real_all)))
    chosen = RealImages(fake, f"images of {images}", count)
    real = RealImages(real_all, f"images of {data}", count)
    with ProgressBar("measuring generated images", PATIENCE) as progress:
        fakes = chosen.statistics(features, progress)
    with ProgressBar("measuring real images", PATIENCE) as progress:
        scores = compare(real.statistics(features, progress), fakes)
    protocol = real.protocol(features, chosen.which, count)
    if side < own_side:
        protocol = replace(protocol, resize=f"made smaller, to {side} px, then {features.resize}")
    return Report([Scored(images, None, scores)], protocol, _floor(real, features))


def _of_checkpoints(
    source: Path | None, data: str | None, n: int | None, features: "Features", unseen: bool,
    every: bool, raw: bool, truncation: float | None,
) -> "Report":  # fmt: skip
    """The checkpoint or all of a run, against the images that it was trained on, or others."""
    from ganctl.cli.show import ProgressBar
    from ganctl.distributed import first_does
    from ganctl.scores.comparison import Report, Scored, compare, fake_words, of_generator
    from ganctl.store import runs
    from ganctl.store.contents import load_networks

    def chosen() -> list[str]:
        run = runs.find(source) if every else None
        found = run.kept_checkpoints() if run else [runs.find_checkpoint(source)]
        return [str(path) for path in found]

    paths = [Path(path) for path in first_does(chosen)]
    real = _real_images(paths[-1], data, n, unseen)
    count = real.count
    with ProgressBar("measuring real images", PATIENCE) as progress:
        expected = real.statistics(features, progress)
    scored = []
    for path in paths:
        networks, described = load_networks(path)
        generator = networks.generator if raw else networks.generator_ema
        title = f"step {described.step:,}" if every else "generated images"
        with ProgressBar(f"measuring {title}", PATIENCE) as progress:
            try:
                found = of_generator(
                    generator.to(features.device), count, features, progress, truncation
                )
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error.message}") from error
        scored.append(Scored(str(path), described.step, compare(expected, found)))
    fake = fake_words(count, raw=raw, truncation=truncation)
    return Report(scored, real.protocol(features, fake, count), _floor(real, features))


def _real_images(path: Path, data: str | None, n: int | None, unseen: bool) -> "RealImages":
    """Those that the checkpoint was trained on, those held out, or the images at `data`."""
    import numpy as np

    from ganctl.cli.show import ProgressBar
    from ganctl.scores.comparison import HELD_OUT, TRAINING, RealImages
    from ganctl.settings.config import replace
    from ganctl.store.contents import load_networks
    from ganctl.training import opening, places

    _, saved = load_networks(path)  # a damaged file is told before the images are prepared
    config = replace(saved.config, {"data.source": data}) if data else saved.config
    with ProgressBar("preparing images") as progress:
        source = opening.source_for(config.data.source, config.data.resolution, progress)
        packed = opening.open_pixels(source, config.data.resolution, config.data.crop, progress)
    images = packed.images
    if packed.fingerprint != saved.data.fingerprint:
        if unseen:
            hint = "leave out --data, or --held-out"
            raise ConfigError(f"{config.data.source} has no images held out from this run", hint)
        which = f"images of {config.data.source}"
        return RealImages(images, which, n or _default(len(images)))
    hidden = places.held_out(saved, path)
    if unseen and not len(hidden):
        hint = "a run holds some out if data.held_out is set"
        raise ConfigError(f"{path}: its run held no images out", hint)
    numbers = hidden if unseen else np.setdiff1d(np.arange(len(images)), hidden)
    count = n or (len(hidden) if unseen else _default(len(numbers)))
    return RealImages(images, HELD_OUT if unseen else TRAINING, count, numbers)


def _default(available: int) -> int:
    """How many real images: so that as many others are left for the floor, if possible."""
    from ganctl.scores.comparison import LEAST

    half = available // 2
    return min(DEFAULT_IMAGES, half if half >= LEAST else available)


def _floor(real: "RealImages", features: "Features") -> "Floor | None":
    from ganctl.cli.show import ProgressBar

    with ProgressBar("measuring other real images", PATIENCE) as progress:
        return real.floor(features, progress)
