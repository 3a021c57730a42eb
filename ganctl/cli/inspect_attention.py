"""`ganctl inspect-attention`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.cli.outputs import check_file, name_part, writing
from ganctl.cli.points import (
    Seed,
    Seeds,
    Source,
    check_choice,
    check_number,
    choose_seeds,
    parse_classes,
    parse_network,
)
from ganctl.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from ganctl.data.batches import Batches
    from ganctl.insight.attention_maps import Figures
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
            help="Show where this pixel looks; can be repeated.  (default: four of each image: the"
            " most focused, a typical one, and those that look elsewhere)",
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
        typer.Option(
            "--class", help="Draw these classes in turn: names or numbers, as dress or 0-3."
        ),
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

    In the table: how many positions a query attends to, how far away, what gamma = 0 changes, and
    what of that uniform maps change: the rest is that of an average of the whole image.

    \b
    ganctl inspect-attention
    ganctl inspect-attention runs/celeba64-001 --query 20,24 --query 44,24 --seeds 3,5,8
    ganctl inspect-attention ckpt.pt --network d --data photos/
    ganctl inspect-attention ckpt.pt -n 1000 --json
    """
    _check_options(network, data, n, rows, out)
    if out is not None:
        check_file(out, force=force)
    check_choice(seeds, seed, None)
    numbers = choose_seeds(seeds, seed or 0, n)
    pixels = _parse_queries(queries or [])

    from ganctl.cli import show
    from ganctl.insight import attention_views
    from ganctl.insight.attention_maps import Query
    from ganctl.insight.attention_sheet import attention_sheet
    from ganctl.runtime import choose_device, prepare
    from ganctl.sampling.draw import classes_in_turn
    from ganctl.sampling.pictures import save_png
    from ganctl.store import runs
    from ganctl.training.memory import memory_explained

    path = runs.find_checkpoint(source)
    target = choose_device(device)
    prepare(target)
    names = parse_network(network)
    subject = attention_views.open_checkpoint(path, names, raw=raw, device=target)
    _check_inside(pixels, subject.saved.config.data.resolution)
    points = classes_in_turn(numbers, parse_classes(classes, subject.classes))
    views = attention_views.generated_views(subject, points, rows)
    if data is not None:
        real = _real_images(data, subject.saved, target)
        views.append(attention_views.real_view(subject, real, n, rows))
    asked = [Query(*pixel) for pixel in pixels]
    hint = "look at fewer: a lower -n, or --network d"
    with (
        memory_explained(f"looking at {n:,} images", hint),
        show.ProgressBar("looking") as progress,
    ):
        findings = attention_views.look(
            subject, views, queries=asked, shown=rows, progress=progress
        )
    out = out or _default_name(
        subject.saved,
        {
            "network": network, "n": n, "rows": rows, "seed": seed, "seeds": seeds,
            "class": classes, "query": " ".join(queries or []), "data": data, "raw": raw,
        },
    )  # fmt: skip
    with writing(out):
        save_png(attention_sheet(findings.reports, findings.row_names), out)
    step = subject.saved.step
    if json:
        from ganctl.insight.attention_verdict import verdict

        blocks = [{**asdict(each), "verdict": verdict(each)} for each in findings.figures]
        where = {"checkpoint": str(path), "step": step, "picture": str(out)}
        show.result_json({**where, "blocks": blocks})
    else:
        weights = f"G's {'live' if raw else 'averaged'} weights"
        _print_table(findings.figures, f"{path}, step {step:,}, {weights}")
        show.result(str(out))


def _check_options(network: str, data: str | None, n: int, rows: int, out: Path | None) -> None:
    """ConfigError if an option has a value that it cannot have, or does not fit another."""
    parse_network(network)
    if data is not None and network == "g":
        raise ConfigError("--data is for D, but --network is g", hint="leave one of them out")
    check_number(n)
    if not 1 <= rows <= MAX_ROWS:
        raise ConfigError(f"--rows is {rows}, but it must be from 1 to {MAX_ROWS}")
    if out is not None and out.suffix.lower() != ".png":
        hint = f"--out {out.stem or 'attention'}.png"
        raise ConfigError(f"the picture is a PNG file, but --out is {out}", hint)


def _real_images(where: str, saved: "Description", device: "torch.device") -> "Batches":
    """The stream of images that training on `where` would see, with the checkpoint's classes."""
    import numpy as np

    from ganctl.cli import show
    from ganctl.data.images import Images
    from ganctl.data.labels import Labels, labels_of
    from ganctl.data.sources import open_source
    from ganctl.settings.config import replace
    from ganctl.training import opening

    config = replace(saved.config, {"data.source": where})
    with show.ProgressBar("preparing images") as progress:
        source = open_source(config.data.source, config.data.resolution)
        names = opening.classes_for(config, source)
        packed = opening.open_pixels(source, config.data.resolution, config.data.crop, progress)
    labels, classes = labels_of(source, packed, names), saved.data.classes
    unknown = [name for name in labels.classes if name not in classes]
    if unknown:
        hint = f"the checkpoint's are {', '.join(classes[:20])}"
        raise DataError(f"{where} has a class {unknown[0]!r}", hint)
    if labels.classes:
        numbers = np.array([classes.index(name) for name in labels.classes])
        labels = Labels(tuple(classes), numbers[labels.numbers])
    return Images(packed, labels).batches(config, device)


def _parse_queries(texts: Sequence[str]) -> list[tuple[int, int]]:
    pixels = [_parse_query(text) for text in texts]
    if len(pixels) > MAX_QUERIES:
        raise ConfigError(f"--query is given {len(pixels)} times, but at most {MAX_QUERIES} fit")
    return pixels


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


def _default_name(saved: "Description", options: Mapping[str, object]) -> Path:
    """A file in the current folder whose name says what it shows: drawn again, it is the same."""
    name = f"{name_part(saved.run.name)}-step{saved.step}-attention"
    usual = {"network": "both", "n": IMAGES, "rows": ROWS}
    named = {key: value for key, value in options.items() if value and value != usual.get(key)}
    chosen = "".join(f"-{key}{'' if value is True else value}" for key, value in named.items())
    return Path(f"{name}-{part}.png" if (part := name_part(chosen)) else f"{name}.png")


def _print_table(blocks: "Sequence[Figures]", title: str) -> None:
    from ganctl.cli import show
    from ganctl.insight.attention_verdict import share_by_place, verdict

    columns = ("images", "gamma", "entropy\n(of max)", "positions", "distance\n(uniform)")
    table = show.table(title, ("block", *columns))
    table.add_column("gamma = 0\nchanges")
    table.add_column("uniform maps\nchange", justify="right")
    for block in blocks:
        if block.score is None or block.score_shift is None:
            effect = f"images by {block.image_change:.3g} of 255"
            uniform = f"{block.image_change_uniform:.3g}"
        else:
            without = block.score - block.score_shift
            effect = (
                f"score {block.score:+.3f} to {without:+.3f}, mean change {block.score_change:.2g}"
            )
            uniform = f"{block.score_change_uniform:.2g}"
        table.add_row(
            f"{block.network}.{block.block}",
            f"{block.images:,}\n{block.data}",
            f"{block.gamma:+.4f}",
            f"{block.entropy:.3f}\n({block.entropy_share:.1%})",
            f"{block.effective_positions:.1f}\nof {block.keys}",
            f"{block.distance:.1f} px\n({block.uniform_distance:.1f} px)",
            effect,
            uniform if (share := share_by_place(block)) is None else f"{uniform}\n({share:.0%})",
        )
    show.result_table(table)
    for block in blocks:
        show.result(verdict(block))
