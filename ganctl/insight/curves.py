"""The curves of runs as one picture: a panel for figures that belong together, a colour a run.

Needs matplotlib, which is not installed by itself.
"""

import io
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from ganctl.errors import ConfigError
from ganctl.insight.panels import Line, Panel, has, names_in, number, panels_with, scale_of
from ganctl.store.journal import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
WIDTH, HEIGHT = 4.2, 2.4  # of a panel, in inches
DPI = 120
MOST_LETTERS = 60  # of an event's name
PALETTE = 10  # colours of matplotlib's own cycle, told apart most easily
STYLES: tuple[Any, ...] = ("-", "--", ":")  # of the figures that share a panel
MARKED: dict[str, Any] = {
    "alarm": ":",
    "rolled back": "-.",
    "failed": "-",
}  # events that are vertical lines


class Curves(NamedTuple):
    """What a run wrote down."""

    rows: Sequence[Row]
    events: Sequence[Row] = ()  # of history.jsonl


def need_matplotlib() -> None:
    """Raise ConfigError if it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        hint = "pip install matplotlib"
        raise ConfigError("plotting needs matplotlib, which is not installed", hint) from None


def draw(runs: Mapping[str, Curves]) -> bytes:
    """A PNG of named runs; panels that no run has figures for are left out."""
    need_matplotlib()
    from matplotlib.figure import Figure

    rows = [row for run in runs.values() for row in run.rows]
    panels = panels_with(dict.fromkeys(name for row in rows for name in sorted(names_in(row))))
    height = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(COLUMNS * WIDTH, height * HEIGHT + 0.5), dpi=DPI, layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(height, COLUMNS, index + 1)
        for run, color in zip(runs.values(), _colors(len(runs)), strict=True):
            for line, style in zip(panel.lines, STYLES, strict=False):
                draw_line(axes, line, run.rows, color, style, panel.alarm)
            _mark_events(axes, run, color)
        _finish(axes, panel, rows)
    events = [event for run in runs.values() for event in run.events]
    _name_runs(figure, list(runs), events, any(row.get("alarms") for row in rows))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def draw_line(
    axes: "Axes", line: Line, rows: Sequence[Row], color: str, style: str = "-", alarm: str = ""
) -> None:
    """One figure of a run, with crosses where `alarm` lasts, and a band of its spread."""
    rows = [row for row in rows if has(row, line.figure)]
    steps = [row["step"] for row in rows]
    values = [number(row, line.figure) for row in rows]
    alone = _without_neighbours(values)
    axes.plot(
        steps, values, style, color=color, linewidth=1.2, marker="o", markersize=3, markevery=alone
    )
    if line.spread:
        spreads = [number(row, line.spread) for row in rows]
        pairs = list(zip(values, spreads, strict=True))
        below, above = [v - s for v, s in pairs], [v + s for v, s in pairs]
        axes.fill_between(steps, below, above, color=color, alpha=0.15, linewidth=0)
    failing = [
        (step, value)
        for step, value, row in zip(steps, values, rows, strict=True)
        if alarm and alarm in (row.get("alarms") or [])
    ]
    at, heights = [step for step, _ in failing], [value for _, value in failing]
    axes.plot(at, heights, color=color, marker="x", markersize=4, linestyle="")


def _mark_events(axes: "Axes", run: Curves, color: str) -> None:
    """What happened after the last row, as a failure does, is marked at the end of the curve."""
    last = max((row["step"] for row in run.rows), default=0)
    for event in run.events:
        step = min(event["step"], last)
        axes.axvline(step, color=color, linestyle=MARKED[event["event"]], linewidth=0.8)


def _without_neighbours(values: Sequence[float]) -> list[int]:
    """Where a line would not be seen: at a figure between none."""
    known = [False, *(math.isfinite(value) for value in values), False]
    ends = zip(known, known[1:], known[2:], strict=False)
    return [index for index, (left, here, right) in enumerate(ends) if here and not left | right]


def _finish(axes: "Axes", panel: Panel, rows: Sequence[Row]) -> None:
    axes.set_title(panel.title, fontsize=9, parse_math=False)
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    values = [number(row, line.figure) for row in rows for line in panel.lines]
    scale = scale_of(panel, values)
    if scale == "log":
        axes.set_yscale("log", nonpositive="mask")
    elif scale == "symlog":
        axes.set_yscale("symlog", linthresh=median(abs(v) for v in values if math.isfinite(v)))
    elif panel.share:
        axes.set_ylim(-0.03, 1.03)
    if len(panel.lines) > 1:
        _name_lines(axes, panel)


def _name_lines(axes: "Axes", panel: Panel) -> None:
    from matplotlib.lines import Line2D

    styles = zip(panel.lines, STYLES, strict=False)
    shown = [
        Line2D([], [], color="gray", linestyle=style, label=line.label) for line, style in styles
    ]
    axes.legend(handles=shown, fontsize=6, frameon=False)


def _name_runs(figure: "Figure", names: Sequence[str], events: Sequence[Row], alarms: bool) -> None:
    """A legend above all panels; names are shown letter by letter, whatever is in them."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color) for color in _colors(len(names))]
    if alarms:
        lines.append(Line2D([], [], color="gray", marker="x", linestyle=""))
        names = [*names, "an alarm lasts"]
    for what in dict.fromkeys(_described(event) for event in events):
        style = next(MARKED[event["event"]] for event in events if _described(event) == what)
        lines.append(Line2D([], [], color="gray", linestyle=style))
        names = [*names, what]
    legend = figure.legend(
        lines, ["run"] * len(lines), loc="outside upper center", ncols=4, fontsize=8, frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)
    figure.supxlabel("step", fontsize=8)


def marks(events: Sequence[Row]) -> list[Row]:
    """The events that are marked: failure modes that begin, roll-backs, and how a run failed."""
    return [event for event in events if event["event"] in MARKED]


def _described(event: Row) -> str:
    """What an event is, for a legend."""
    name = event.get("name", "alarm") if event["event"] == "alarm" else event["event"]
    return str(name)[:MOST_LETTERS]


def _colors(count: int) -> list[str]:
    """As many colours as runs: the usual ones, or spread over a scale if there are many."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= PALETTE:
        return [f"C{number}" for number in range(count)]
    return [to_hex(colormaps["turbo"](number / (count - 1))) for number in range(count)]
