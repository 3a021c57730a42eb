"""The curves of runs as one picture: a panel a figure of metrics.jsonl, a colour a run.

Needs matplotlib, which is not installed by itself.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ganctl.errors import ConfigError
from ganctl.store.journal import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
WIDTH, HEIGHT = 4.2, 2.4  # of a panel, in inches
DPI = 120
MOST_GAMMAS = 12  # panels for attention blocks
PALETTE = 10  # colours of matplotlib's own cycle, told apart most easily


class Panel(NamedTuple):
    """One figure, as it is called in a row, and how it is shown."""

    name: str
    title: str
    logarithmic: bool = False
    spread: str = ""  # the figure that is drawn as a band around it
    alarm: str = ""  # the failure mode that shows in it


PANELS = (
    Panel("d_loss", "D's loss", alarm="discriminator overpowers"),
    Panel("g_loss", "G's loss"),
    Panel("diversity", "diversity (real images: 1)", alarm="mode collapse"),
    Panel("real_score", "D(real), mean and spread", spread="real_spread"),
    Panel("fake_score", "D(fake), mean and spread", spread="fake_spread"),
    Panel("images_per_second", "images/s"),
    Panel("real_outside", "share of D(real) > 1", alarm="discriminator overpowers"),
    Panel("fake_outside", "share of D(fake) < -1", alarm="discriminator overpowers"),
    Panel("sigma_max", "largest sigma"),
    Panel("d_gradient", "norm of D's gradient", logarithmic=True),
    Panel("g_gradient", "norm of G's gradient", logarithmic=True),
    Panel("sigma_drift", "sigma drift", logarithmic=True),
)


def need_matplotlib() -> None:
    """Raise ConfigError if it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        hint = "pip install matplotlib"
        raise ConfigError("plotting needs matplotlib, which is not installed", hint) from None


def draw(runs: Mapping[str, Sequence[Row]]) -> bytes:
    """A PNG of the rows of named runs; panels that no run has figures for are left out."""
    need_matplotlib()
    from matplotlib.figure import Figure

    rows = [row for run in runs.values() for row in run]
    panels = panels_of(rows)
    height = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(COLUMNS * WIDTH, height * HEIGHT + 0.5), dpi=DPI, layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(height, COLUMNS, index + 1)
        for run, color in zip(runs.values(), _colors(len(runs)), strict=True):
            _draw_curve(axes, panel, run, color)
        _finish(axes, panel)
    _name_runs(figure, list(runs), any(row.get("alarms") for row in rows))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def panels_of(rows: Sequence[Row]) -> list[Panel]:
    """The panels that have something to show: figures, and the attention blocks that rows name."""
    gammas = [gamma for row in rows if isinstance(gamma := row.get("gamma"), dict)]
    blocks = list(dict.fromkeys(block for gamma in gammas for block in gamma))[:MOST_GAMMAS]
    known = (*PANELS, *(Panel(f"gamma {block}", f"gamma of {block}") for block in blocks))
    return [p for p in known if any(math.isfinite(number(row, p.name)) for row in rows)]


def number(row: Row, name: str) -> float:
    """A figure of `row`, "gamma BLOCK" being a block's; nan if it is absent or no number."""
    value = row.get(name)
    if name.startswith("gamma "):
        gammas = row.get("gamma")
        value = gammas.get(name.removeprefix("gamma ")) if isinstance(gammas, dict) else None
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _draw_curve(axes: "Axes", panel: Panel, rows: Sequence[Row], color: str) -> None:
    steps = [row["step"] for row in rows]
    values = [number(row, panel.name) for row in rows]
    alone = _without_neighbours(values)
    axes.plot(steps, values, color=color, linewidth=1.2, marker="o", markersize=3, markevery=alone)
    if panel.spread:
        spreads = [number(row, panel.spread) for row in rows]
        pairs = list(zip(values, spreads, strict=True))
        below, above = [v - s for v, s in pairs], [v + s for v, s in pairs]
        axes.fill_between(steps, below, above, color=color, alpha=0.2, linewidth=0)
    failing = [
        (step, value)
        for step, value, row in zip(steps, values, rows, strict=True)
        if panel.alarm and panel.alarm in (row.get("alarms") or [])
    ]
    at, heights = [step for step, _ in failing], [value for _, value in failing]
    axes.plot(at, heights, color=color, marker="x", markersize=4, linestyle="")


def _without_neighbours(values: Sequence[float]) -> list[int]:
    """Where a line would not be seen: at a figure between none."""
    known = [False, *(math.isfinite(value) for value in values), False]
    ends = zip(known, known[1:], known[2:], strict=False)
    return [index for index, (left, here, right) in enumerate(ends) if here and not left | right]


def _finish(axes: "Axes", panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=9, parse_math=False)
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    positive = math.isfinite(axes.yaxis.get_minpos())  # a gradient may be 0 throughout
    if panel.logarithmic and positive:
        axes.set_yscale("log", nonpositive="mask")
    elif panel.name in ("real_outside", "fake_outside"):
        axes.set_ylim(-0.03, 1.03)


def _name_runs(figure: "Figure", names: Sequence[str], alarms: bool) -> None:
    """A legend above all panels; names are shown letter by letter, whatever is in them."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color) for color in _colors(len(names))]
    if alarms:
        lines.append(Line2D([], [], color="gray", marker="x", linestyle=""))
        names = [*names, "an alarm lasts"]
    legend = figure.legend(
        lines, ["run"] * len(lines), loc="outside upper center", ncols=4, fontsize=8, frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)
    figure.supxlabel("step", fontsize=8)


def _colors(count: int) -> list[str]:
    """As many colours as runs: the usual ones, or spread over a scale if there are many."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= PALETTE:
        return [f"C{number}" for number in range(count)]
    return [to_hex(colormaps["turbo"](number / (count - 1))) for number in range(count)]
