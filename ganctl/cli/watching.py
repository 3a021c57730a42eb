"""How a run that goes on is shown: a panel in a terminal, lines in a pipe."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ganctl.cli import show
from ganctl.cli.redrawing import Redrawn
from ganctl.scores.protocol import in_words

PAIR = 31  # columns of a terminal for a figure and its name


class NoWatcher:
    """Nothing, for processes that do not speak for their run."""

    def stepped(self, step: int) -> None:
        pass

    def measured(self, row: Mapping[str, Any]) -> None:
        pass

    def saved(self, step: int, path: str) -> None:
        pass


class PlainWatcher:
    """One line a log interval, for pipes and log files."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step

    def __enter__(self) -> "PlainWatcher":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def stepped(self, step: int) -> None:
        pass

    def measured(self, row: Mapping[str, Any]) -> None:
        numbers = "  ".join(f"{name} {value}" for name, value in summary(row).items())
        show.note(f"step {row['step']:,}/{self.last_step:,}  {numbers}")
        if "score_kid" in row:
            show.note(f"scored step {row['step']:,}: {in_words(row)}")

    def saved(self, step: int, path: str) -> None:
        show.note(f"saved {path}")


class LivePanel:
    """A progress bar and the newest figures, redrawn in place."""

    def __init__(self, title: str, first_step: int, last_step: int, save_every: int) -> None:
        self.title = title
        self.last_step = last_step
        self.save_every = save_every
        self._row: Mapping[str, Any] | None = None
        self._score: str | None = None  # the newest
        self._saved = f"step {first_step:,}" if first_step else "nothing yet"
        self._bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"), BarColumn(None),
            TaskProgressColumn(), TextColumn("left"), TimeRemainingColumn(), expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=last_step, completed=first_step)
        self._drawing = Redrawn(self._panel, show.console)

    def __enter__(self) -> "LivePanel":
        self._drawing.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._drawing.stop()

    def stepped(self, step: int) -> None:
        self._drawing.look()
        self._bar.update(self._task, completed=step)

    def measured(self, row: Mapping[str, Any]) -> None:
        self._row = row
        if "score_kid" in row:
            self._score = f"step {row['step']:,}: {in_words(row)}"

    def saved(self, step: int, path: str) -> None:
        self._saved = f"step {step:,}"

    def _panel(self) -> Panel:
        width = (
            show.console.width - 3
        )  # room for the ^C of a terminal: if it wraps, lines are repeated
        numbers = summary(self._row) | health(self._row) if self._row else {"first figures": "soon"}
        alarm = numbers.pop("alarm", None)
        figures = Table.grid(padding=(0, 2))
        pairs = list(numbers.items())
        columns = min(3, max(1, width // PAIR))
        for left in range(0, len(pairs), columns):
            row = pairs[left : left + columns]
            figures.add_row(*(cell for name, value in row for cell in (f"[dim]{name}", value)))
        lines = [f"[bold red]alarm: {alarm}"] if alarm else []
        lines += [f"[dim]scored[/] {self._score}"] if self._score else []
        step = int(self._bar.tasks[0].completed)
        upcoming = min(self.last_step, (step // self.save_every + 1) * self.save_every)
        saves = self._saved if step == self.last_step else f"{self._saved}, next at {upcoming:,}"
        lines.append(f"[dim]saved[/]  {saves}")
        body = Group(self._bar, figures, *lines)
        return Panel(body, title=show.plain(self.title), title_align="left", width=width)


ProgressWatcher = LivePanel | PlainWatcher


def watcher(title: str, first_step: int, last_step: int, save_every: int) -> ProgressWatcher:
    """What suits stderr: a panel in a terminal, plain lines elsewhere."""
    if show.console.is_terminal:
        return LivePanel(title, first_step, last_step, save_every)
    return PlainWatcher(last_step)


def summary(row: Mapping[str, Any]) -> dict[str, str]:
    """The figures of one metrics row, for people."""
    shown = {
        "images/s": f"{row['images_per_second']:.1f}",
        "D loss": f"{row['d_loss']:.3f}",
        "G loss": f"{row['g_loss']:+.3f}",
        "D(real)": f"{row['real_score']:+.2f}",
        "D(fake)": f"{row['fake_score']:+.2f}",
    }
    if row["gamma"]:
        shown["gamma"] = " ".join(f"{value:+.3f}" for value in row["gamma"].values())
    if row["sigma_max"] is not None:
        shown["raw sigma"] = f"{row['sigma_max']:.2f}"
    if row["diversity"] is not None:
        shown["diversity"] = f"{row['diversity']:.2f}"
    if row["alarms"]:
        shown["alarm"] = ", ".join(row["alarms"])
    return shown


def health(row: Mapping[str, Any]) -> dict[str, str]:
    """More of them, for which a panel has room."""
    shown = {"spreads": f"{row['real_spread']:.2f} {row['fake_spread']:.2f}"}
    if row["real_outside"] is not None:
        shown["outside margins"] = f"{row['real_outside']:.0%} {row['fake_outside']:.0%}"
    if row["memorising_auc"] is not None:
        shown["train v unseen"] = f"{row['memorising_auc']:.2f} AUC"
    if row["augment_p"] is not None:
        shown["augmented"] = f"{row['augment_p']:.0%}"
    gradients = (row["d_gradient"], row["g_gradient"])
    shown["gradients D, G"] = " ".join("-" if g is None else f"{g:.2g}" for g in gradients)
    if row["sigma_drift"] is not None:
        shown["sigma drift"] = f"{row['sigma_drift']:.3f}"
    return shown
