"""`ganctl plot`."""

from pathlib import Path
from typing import Annotated

import typer

from ganctl.cli.outputs import check_file, writing
from ganctl.errors import ConfigError
from ganctl.store.durable import replacing


def plot(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Runs' folders.  (default: the newest run)"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("curves.png"),
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.")] = False,
) -> None:
    """Draw losses, scores, health, sigma and gamma of one or more runs into a picture.

    Needs matplotlib: pip install matplotlib

    \b
    ganctl plot
    ganctl plot runs/faces32-001 runs/faces32-002 --out both.png
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {out}, but curves are drawn into a .png file")
    check_file(out, force=force)

    from ganctl.cli import show
    from ganctl.insight import curves
    from ganctl.store import runs

    drawn = {}
    for run in [runs.find(source) for source in sources] if sources else [runs.find(None)]:
        name = show.plain(run.folder)
        drawn[name] = curves.Curves(run.journal.rows(), curves.marks(run.journal.events()))
        if not drawn[name].rows:
            hint = "a run writes them every train.log_every steps"
            raise ConfigError(f"{run.folder} has no figures in metrics.jsonl yet", hint)
    curves.need_matplotlib()
    rows = [row for run in drawn.values() for row in run.rows if "score_kid" in row]
    if len({str(row.get("score_protocol")) for row in rows}) > 1:
        show.note("warning: not all scores were measured in one way: `ganctl compare` says how")
    with writing(out), replacing(out) as temporary:
        temporary.write_bytes(curves.draw(drawn))
    show.result(str(out))
