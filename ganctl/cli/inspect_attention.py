"""`ganctl inspect-attention`."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ganctl.cli.outputs import check_file, name_part
from ganctl.cli.points import (
    MAX_IMAGES,
    Seed,
    Seeds,
    Source,
    check_choice,
    choose_seeds,
    parse_classes,
)
from ganctl.errors import CheckpointError, ConfigError, DataError, StorageError

if TYPE_CHECKING:
    import torch

    from ganctl.cli.show import ProgressBar
    from ganctl.insight.attention_maps import Figures, Inputs, Report
    from ganctl.store.contents import Description

IMAGES, ROWS = 64, 6  # measured, and drawn, if nothing else is asked for
MAX_ROWS, MAX_QUERIES = 64, 8  # of a picture


def inspect_attention(
    source: Source = None,
    n: Annotated[int, typer.Option("-n", help="Images that the figures are means of.")] = IMAGES,
    rows: Annotated[int, typer.Option(help="How many of them are in the picture.")] = ROWS,
    queries: Annotated[
        list[str] | None,
        typer.Option(
            "--query",
            metavar="X,Y",
            help="Show where this pixel looks; can be repeated.  (default: four of each image, the"
            " most focused and those that look elsewhere)",
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="g, d or both.")] = "both",
    data: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="D at real images too: a folder, a zip, or a name."),
    ] = None,
    seed: Seed = None,
    seeds: Seeds = None,
    classes: Annotated[
        str | None,
        typer.Option("--class", help="Of these classes in turn, by name or number: dress, or 0-3."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The generator's live weights instead of their average.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The picture, a PNG file.  (default: one here)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="The figures of each block, and where the picture is.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ..., or mps.")] = "auto",
) -> None:
    """Draw where attention looks, and print how focused it is and what it contributes.

    In the picture: images with numbered queries, where these look, and the images with gamma = 0.

    In the table: how many positions a query attends to, how far away, and what gamma = 0 changes.

    \b
    ganctl inspect-attention
    ganctl inspect-attention runs/celeba64-001 --query 20,24 --query 44,24 --seeds 3,5,8
    ganctl inspect-attention ckpt.pt --network d --data photos/
    ganctl inspect-attention ckpt.pt -n 1000 --json
    """
    if network not in ("g", "d", "both"):
        raise ConfigError(f"--network is {network!r}, but it must be g, d or both")
    if data is not None and network == "g":
        raise ConfigError("--data is for D, but --network is g", hint="leave one of them out")
    if not 1 <= n <= MAX_IMAGES:
        raise ConfigError(f"-n is {n:,}, but it must be from 1 to {MAX_IMAGES:,}")
    if not 1 <= rows <= MAX_ROWS:
        raise ConfigError(f"--rows is {rows}, but it must be from 1 to {MAX_ROWS}")
    if out is not None and out.suffix.lower() != ".png":
        hint = f"--out {out.with_suffix('.png')}"
        raise ConfigError(f"the picture is a PNG file, but --out is {out}", hint)
    if out is not None:
        check_file(out, force=force)
    check_choice(seeds, seed, None)
    numbers = choose_seeds(seeds, seed or 0, n)
    pixels = [_parse_query(text) for text in queries or []]
    if len(pixels) > MAX_QUERIES:
        raise ConfigError(f"--query is given {len(pixels)} times, but at most {MAX_QUERIES} fit")

    from ganctl.cli import show
    from ganctl.insight import attention_maps
    from ganctl.insight.attention_sheet import attention_sheet
    from ganctl.models import Discriminator, Generator
    from ganctl.runtime import choose_device, prepare
    from ganctl.sampling.draw import Point
    from ganctl.sampling.pictures import save_png
    from ganctl.store import runs
    from ganctl.store.contents import load_networks

    path = runs.find_checkpoint(source)
    target = choose_device(device)
    prepare(target)
    networks, saved = load_networks(path)
    generator = (networks.generator if raw else networks.generator_ema).to(target)
    d = networks.discriminator.to(target)
    chosen: dict[str, Generator | Discriminator] = {"g": generator, "d": d}
    looked_at = [name for name in chosen if network in (name, "both")]
    if not any(attention_maps.attention_blocks(chosen[name]) for name in looked_at):
        which = "either network" if network == "both" else network.upper()
        hint = "model.attention.at says which map sizes get a block when a run is started"
        raise ConfigError(f"there is no attention block in {which} of {path}", hint)
    resolution = saved.config.data.resolution
    _check_inside(pixels, resolution)
    asked = [attention_maps.Query(*pixel) for pixel in pixels]
    names = saved.data.classes if generator.n_classes else []
    labels = parse_classes(classes, names)
    points = [Point(*pair) for pair in zip(numbers, cycle(labels), strict=False)]
    attention = saved.config.model.attention
    size = attention_maps.batch_size(attention.at, attention.pooled)
    views = []
    for name in looked_at:
        inputs = attention_maps.generator_inputs(generator, points, size, target)
        if name == "d":
            inputs = attention_maps.generated(generator, inputs)
        row_names = [_row_name("seed", *point, names) for point in points[:rows]]
        views.append(View(name, "generated", len(points), inputs, row_names))
    if data is not None:
        views.append(_real_view(data, saved, n, rows, size, target))
    reports: list[Report] = []
    beside: list[list[str]] = []
    total = sum(view.images for view in views)
    done = 0
    with show.ProgressBar("looking") as progress:
        for view in views:
            found = attention_maps.inspect_blocks(
                chosen[view.network], _counted(view.inputs, progress, done, total),
                name=view.network, data=view.data, resolution=resolution, queries=asked, shown=rows,
            )  # fmt: skip
            reports += found
            beside += [view.row_names] * len(found)
            done += view.images
    figures = [report.figures for report in reports]
    _check_finite(figures, path)
    out = out or _default_name(
        saved,
        {
            "network": network, "n": n, "rows": rows, "seed": seed, "seeds": seeds,
            "class": classes, "query": " ".join(queries or []), "data": data, "raw": raw,
        },
    )  # fmt: skip
    try:
        save_png(attention_sheet(reports, beside), out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    if json:
        blocks = [asdict(block) for block in figures]
        where = {"checkpoint": str(path), "step": saved.step, "picture": str(out)}
        show.result_json({**where, "blocks": blocks})
    else:
        _print_table(figures, f"{path}, step {saved.step:,}")
        show.result(str(out))


class View(NamedTuple):
    """A network and the images that it is seen at work on."""

    network: str
    data: str  # "generated" or "real"
    images: int
    inputs: "Iterator[Inputs]"
    row_names: list[str]  # of the first ones


def _real_view(
    where: str, saved: "Description", n: int, rows: int, size: int, device: "torch.device"
) -> View:
    """D at the first images of the stream that training on `where` would see."""
    import numpy as np

    from ganctl import session
    from ganctl.cli import show
    from ganctl.data.labels import Labels
    from ganctl.settings.config import replace

    config = replace(saved.config, {"data.source": where})
    with show.ProgressBar("preparing images") as progress:
        images = session.open_images(config, progress)
    labels = images.labels
    unknown = [name for name in labels.classes if name not in saved.data.classes]
    if unknown:
        known = ", ".join(saved.data.classes[:20])
        raise DataError(f"{where} has a class {unknown[0]!r}", f"the checkpoint's are {known}")
    if labels.classes:
        known_numbers = np.array([saved.data.classes.index(name) for name in labels.classes])
        labels = Labels(tuple(saved.data.classes), known_numbers[labels.numbers])
    batches = session.Images(images.packed, labels).batches(config, device)
    count = min(n, len(images.packed.images))

    def inputs() -> "Iterator[Inputs]":
        for start in range(0, count, size):
            part = (start, min(size, count - start))
            yield batches.at(*part), batches.labels_at(*part)

    shown = min(rows, count)
    drawn = batches.labels_at(0, shown)
    classes = [None] * shown if drawn is None else drawn.tolist()
    row_names = [
        _row_name("real", number, label, saved.data.classes)
        for number, label in enumerate(classes, 1)
    ]
    return View("d", "real", count, inputs(), row_names)


def _counted(
    batches: "Iterator[Inputs]", progress: "ProgressBar", done: int, total: int
) -> "Iterator[Inputs]":
    """`batches` as they are, while the bar moves on."""
    for images, labels in batches:
        yield images, labels
        done += len(images)
        progress(done, total)


def _row_name(kind: str, number: int, label: int | None, classes: Sequence[str]) -> str:
    return f"{kind} {number}" if label is None else f"{kind} {number}\n{classes[label]}"


def _parse_query(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if match is None:
        hint = "give a pixel by its column and row, for example --query 12,20"
        raise ConfigError(f"--query {text!r} is not x,y", hint)
    return int(match[1]), int(match[2])


def _check_inside(pixels: Sequence[tuple[int, int]], resolution: int) -> None:
    for x, y in pixels:
        if max(x, y) >= resolution:
            hint = f"x and y are from 0 to {resolution - 1}, from the upper left corner"
            outside = f"outside of the images of {resolution} x {resolution} pixels"
            raise ConfigError(f"--query {x},{y} is {outside}", hint)


def _check_finite(blocks: "Sequence[Figures]", path: Path) -> None:
    for block in blocks:
        effect = block.image_change if block.score_change is None else block.score_change
        if not math.isfinite(block.entropy + (effect or 0)):
            name = f"{block.network}.{block.block}"
            raise CheckpointError(f"{path}: {name} computes values that are not finite")


def _default_name(saved: "Description", options: Mapping[str, object]) -> Path:
    """A file in the current folder whose name says what it shows: drawn again, it is the same."""
    name = f"{name_part(saved.run.name)}-step{saved.step}-attention"
    usual = {"network": "both", "n": IMAGES, "rows": ROWS}
    named = {key: value for key, value in options.items() if value and value != usual.get(key)}
    chosen = "".join(f"-{key}{'' if value is True else value}" for key, value in named.items())
    return Path(f"{name}-{part}.png" if (part := name_part(chosen)) else f"{name}.png")


def _print_table(blocks: "Sequence[Figures]", title: str) -> None:
    from ganctl.cli import show

    columns = ("images", "gamma", "entropy\n(of max)", "positions", "distance\n(uniform)")
    table = show.table(title, ("block", *columns))
    table.add_column("gamma = 0 changes")
    for block in blocks:
        if block.score is None or block.score_shift is None:
            effect = f"images by {block.image_change:.3g} of 255"
        else:
            without = block.score - block.score_shift
            effect = (
                f"score {block.score:+.3f} to {without:+.3f}, mean change {block.score_change:.2g}"
            )
        table.add_row(
            f"{block.network}.{block.block}",
            f"{block.images:,}\n{block.data}",
            f"{block.gamma:+.4f}",
            f"{block.entropy:.3f}\n({block.entropy_share:.1%})",
            f"{block.effective_positions:.1f}\nof {block.keys}",
            f"{block.distance:.1f} px\n({block.uniform_distance:.1f} px)",
            effect,
        )
    show.result_table(table)
