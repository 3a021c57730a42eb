"""`ganctl runs`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.errors import CheckpointError

if TYPE_CHECKING:
    from rich.table import Table

    from ganctl.store.overview import Overview

SPARED = (
    "size",
    "score or loss",
    "preset",
)  # columns that a narrow terminal can do without, in turn


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What the runs' folders are in.")
    ] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="The same as JSON, in plain units.")] = False,
) -> None:
    """List runs, a line each: what they are of, how far they are, and how they stand.

    \b
    ganctl runs
    ganctl runs /data/runs --json
    """
    from ganctl.cli import show
    from ganctl.store import overview

    found = overview.below(folder)
    if json:
        show.result_json([each._asdict() | {"folder": str(each.folder)} for each in found])
        return
    if not found:
        raise CheckpointError(f"there is no run in {folder}/", "train one with `ganctl train`")
    rows = [_row(each) for each in found]
    for count in range(len(SPARED) + 1):
        table = _table(rows, SPARED[:count])
        if show.fits(table):
            break
    show.result_table(table)


def _row(run: "Overview") -> dict[str, str]:
    """What is said of a run, by column."""
    from ganctl.cli import show

    losses = "" if run.losses is None else "D {:.2f} G {:+.2f}".format(*run.losses)
    return {
        "run": show.plain(run.folder.name),
        "preset": show.plain(run.preset),
        "data": show.plain(Path(run.data).name),
        "step": f"{run.step:,} of {'?' if run.steps is None else f'{run.steps:,}'}",
        "state": run.state,
        "score or loss": losses if run.kid is None else f"KID {run.kid:.4f}",
        "last change": f"{show.duration(max(0, time.time() - run.changed_at))} ago",
        "size": f"{run.size / 1e6:,.0f} MB",
    }


def _table(rows: Sequence[Mapping[str, str]], spared: Sequence[str]) -> "Table":
    from ganctl.cli import show

    names = [name for name in rows[0] if name not in spared]
    table = show.table("", names)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table
