"""How things are shown: results on stdout, everything else on stderr."""

import json
import math
import textwrap
import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ganctl.cli.streams import stderr, stdout

WIDE = 180  # columns of tables in a pipe or a file
NAME_WIDTH = 10  # letters of a table's first column that a narrow terminal leaves it
MINUTE = 60  # seconds between two lines about work in a pipe


console = Console(file=stderr, highlight=False)


def plain(text: object) -> str:
    """Text that cannot steer the terminal: control characters are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def note(text: str) -> None:
    """One line for the user, on stderr; a terminal that is narrower breaks it between words."""
    if console.is_terminal:
        # A word that does not fit, as a path, is left to the terminal: it can be copied whole.
        lines = textwrap.wrap(
            plain(text), console.width, break_long_words=False, break_on_hyphens=False
        )
        text = "\n".join(lines)
    else:
        text = plain(text)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def result(text: str) -> None:
    """One line of results, on stdout."""
    result_text(f"{plain(text)}\n")


def result_text(text: str) -> None:
    """Results on stdout, as they are."""
    print(text, end="", file=stdout, flush=True)


def result_json(value: object) -> None:
    """JSON and nothing else, on stdout."""
    result_text(json.dumps(value, indent=2) + "\n")


def tail(text: str, most: int) -> str:
    """`text`, or its end after an ellipsis if it has more than `most` letters."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


class ProgressBar:
    """A bar in a terminal, for work that counts to a known total.

    Elsewhere one line in the end, and one a minute until then.
    """

    def __init__(self, title: str, patience: float = 0) -> None:
        """`patience`: seconds of work without a word."""
        self.title = title
        self._speaks_at = time.monotonic() + patience
        self._told_at = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(title)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if time.monotonic() < self._speaks_at:
            return
        if console.is_terminal:
            self._bar.start()
            self._bar.update(self._task, completed=done, total=total)
        elif done == total or time.monotonic() - self._told_at >= MINUTE:
            self._told_at = time.monotonic()
            note(f"{self.title}: {done:,} of {total:,}")


def table(title: str, names: Sequence[str]) -> Table:
    """Without rows; the first column is what a row is about, and gives way in a narrow terminal.

    Only to NAME_WIDTH: see `result_table`.
    """
    made = Table(
        title=plain(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    for number, name in enumerate(names):
        if number:
            made.add_column(name, justify="right", no_wrap=True)
        else:
            made.add_column(name, overflow="fold", min_width=NAME_WIDTH)
    return made


def fits(made: Table) -> bool:
    """Whether the table is not wider than what it will be shown in."""
    shown_in = _tables()
    endless = shown_in.options.update_width(10_000)
    return shown_in.measure(made, options=endless).maximum <= shown_in.width


def result_table(made: Table) -> None:
    """A table on stdout; wider than the terminal rather than with a figure or a name cut off."""
    shown_in = _tables()
    endless = shown_in.options.update_width(10_000)
    names = max(shown_in.measure(cell).maximum for cell in made.columns[0].cells)
    least = shown_in.measure(made, options=endless).maximum - max(0, names - NAME_WIDTH)
    shown_in.width = max(shown_in.width, least)
    shown_in.print(made)


def _tables() -> Console:
    terminal = Console(file=stdout, highlight=False)
    return terminal if terminal.is_terminal else Console(file=stdout, highlight=False, width=WIDE)


def duration(seconds: float) -> str:
    """For example 3 h 05 min."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes, hours = round(seconds / 60), round(seconds / 60) // 60
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours} h {minutes % 60:02} min" if hours else f"{minutes} min"
