"""`ganctl report`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.cli.outputs import check_file, writing
from ganctl.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ganctl.report.account import Account
    from ganctl.report.inside import Inside

MOST_RUNS = 8  # that can be told apart

log = logging.getLogger("ganctl")


def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Runs' folders.  (default: the newest run)"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The report, an .html file.")] = Path("report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.")] = False,
) -> None:
    """Make a page of one or more runs that opens in any browser, without a network.

    What was trained, previews over time, curves, alarms, images, attention, weights, commands.

    \b
    ganctl report
    ganctl report runs/faces32-001 runs/faces32-002 --out both.html
    """
    if out.suffix.lower() != ".html":
        raise ConfigError(f"--out is {out}, but a report is an .html file")
    if sources and len(sources) > MOST_RUNS:
        raise ConfigError(f"{len(sources)} runs are too many for one report (at most {MOST_RUNS})")
    check_file(out, force=force)

    import torch

    from ganctl.cli import show
    from ganctl.report import account, document
    from ganctl.store import runs
    from ganctl.store.durable import write_text

    found = [runs.find(source) for source in sources] if sources else [runs.find(None)]
    torch.set_num_threads(1)  # as in `inspect-sn`: decompositions on busy cores wait for each other
    subjects = []
    for run in found:
        told = account.account_of(run)
        subjects.append(document.Subject(told, _inside(told)))
    with writing(out):
        write_text(out, document.document(subjects))
    show.result(str(out))


def _inside(told: "Account") -> "Inside | None":
    """What the run's newest checkpoint shows; None, after a word, if nothing can be shown."""
    from ganctl.cli import show
    from ganctl.report import inside

    if told.checkpoint is None:
        return None
    try:
        with show.ProgressBar(f"looking inside {told.name}", patience=1) as progress:
            return inside.look(told.checkpoint, progress)
    except CheckpointError as error:
        log.warning("left out: %s", error.message)
        return None
