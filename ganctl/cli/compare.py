"""`ganctl compare`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganctl.cli.outputs import check_file, writing
from ganctl.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ganctl.insight.outline import Outline
    from ganctl.store.runs import Run

MOST_RUNS, MOST_SEEDS = 12, 64
MOST_LETTERS = 20  # of a setting, such as a path, whose end tells it from others


def compare(
    sources: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Runs' folders.")],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Also draw images of the same seeds, a row a run."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Images of each run in the picture.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ..., or mps.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="The table as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what --plot names.")] = False,
) -> None:
    """Put runs side by side: settings that differ, time, scores, health, and their images.

    Scores are those of `score.every`; what was measured in another way has lines of its own.

    \b
    ganctl compare runs/faces32-001 runs/faces32-002
    ganctl compare runs/faces32-001 runs/faces32-002 --plot both.png
    """
    _check_options(sources, plot, n, force)

    from ganctl.cli import show
    from ganctl.insight.outline import outline
    from ganctl.store import runs

    found = [runs.find(source) for source in sources]
    outlines = [outline(run) for run in found]
    if json:
        show.result_json([_plain(each) for each in outlines])
    else:
        _print(outlines)
    if plot is not None:
        _draw(found, plot, n, device)
        if not json:
            show.result(str(plot))


def _check_options(sources: Sequence[Path], plot: Path | None, n: int, force: bool) -> None:
    if not 2 <= len(sources) <= MOST_RUNS:
        hint = "name their folders: ganctl compare runs/a runs/b"
        raise ConfigError(f"compare takes 2 to {MOST_RUNS} runs, not {len(sources)}", hint)
    if not 1 <= n <= MOST_SEEDS:
        raise ConfigError(f"-n is {n}, but it must be from 1 to {MOST_SEEDS}")
    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise ConfigError(f"--plot is {plot}, but images are drawn into a .png file")
        check_file(plot, force=force)


def _print(outlines: Sequence["Outline"]) -> None:
    """A column a run; the scores of each protocol below a line that says how they were measured."""
    from ganctl.cli import show
    from ganctl.insight.outline import best, differing, protocols
    from ganctl.scores.protocol import distance_name, kernel_name

    table = show.table("", ("", *(show.plain(each.name) for each in outlines)))
    for name, values in differing(outlines):
        table.add_row(name, *(show.tail(show.plain(value), MOST_LETTERS) for value in values))
    table.add_section()
    table.add_row("steps", *(f"{each.step:,}" for each in outlines))
    table.add_row("images seen", *(f"{each.images:,}" for each in outlines))
    table.add_row("training time", *(show.duration(each.seconds) for each in outlines))
    table.add_row("diversity", *(_figure(each.diversity, 2) for each in outlines))
    table.add_row("alarms", *(show.plain(", ".join(each.alarms)) or "none" for each in outlines))
    known = protocols(outlines)
    for number, protocol in enumerate(known, 1):
        mark = f" ({number})" if len(known) > 1 else ""
        features = show.plain(protocol.partition(":")[0])
        bests = [best(rows) if (rows := each.scores.get(protocol)) else None for each in outlines]
        names = {"step": "lowest at step", "score_fd": distance_name(features)}
        names |= {"score_kid": kernel_name(features), "score_kid_error": "its standard error"}
        names |= {f"score_{each}": each for each in ("precision", "recall", "density", "coverage")}
        table.add_section()
        for figure, name in names.items():
            cells = ["-" if row is None else _cell(row, figure) for row in bests]
            table.add_row(name + mark, *cells)
    show.result_table(table)
    for number, protocol in enumerate(known, 1):
        show.result(f"({number}) {protocol}" if len(known) > 1 else protocol)
    if not known:
        show.result("No run was scored while it was trained; `ganctl score RUN` scores it now.")


def _cell(row: dict[str, Any], figure: str) -> str:
    from ganctl.insight.panels import number

    if figure == "step":
        return f"{row['step']:,}"
    digits = {"score_fd": 1, "score_kid": 5, "score_kid_error": 5}.get(figure, 3)
    return _figure(number(row, figure), digits)


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _plain(each: "Outline") -> dict[str, Any]:
    """One run as JSON; its scores by their protocols, the best of each."""
    from ganctl.insight.outline import best

    found = {**each._asdict(), "config": each.config.model_dump()}
    found["diversity"] = each.diversity if math.isfinite(each.diversity) else None
    found["scores"] = {protocol: best(rows) for protocol, rows in each.scores.items()}
    return found


def _draw(found: Sequence["Run"], out: Path, n: int, device: str) -> None:
    """The same seeds of the best checkpoint of each run, or else of its newest."""
    import numpy as np

    from ganctl.insight.sample_sheet import sample_sheet
    from ganctl.runtime import choose_device, prepare
    from ganctl.sampling.draw import classes_in_turn, draw
    from ganctl.sampling.pictures import save_png
    from ganctl.store import best
    from ganctl.store.contents import load_networks

    target = choose_device(device)
    prepare(target)
    rows = []
    for run in found:
        try:
            path, kind = best.find(run.folder), best.NAME
        except CheckpointError:
            path, kind = run.newest_checkpoint(), "newest"
        networks, saved = load_networks(path)
        generator = networks.generator_ema
        labels = range(generator.n_classes) if generator.n_classes else [None]
        points = classes_in_turn(range(n), list(labels))
        batches = draw(generator, points, batch_size=n, device=target)
        images = np.concatenate([batch.images for batch in batches])
        rows.append((f"{run.name}, step {saved.step:,} ({kind})", images))
    with writing(out):
        save_png(sample_sheet(rows), out)
