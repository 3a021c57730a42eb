"""Spectra as pictures: singular values of each layer, and how they went over a run.

Needs matplotlib, which is not installed by itself.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ganctl.insight.curves import need_matplotlib
from ganctl.insight.snapshots import Snapshot
from ganctl.insight.spectra import LayerSpectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORKS = {"g": "generator", "d": "discriminator", "": "all layers"}
STYLES = ("-", "--")  # of the checkpoint, and of the one it is compared with
WIDTH, HEIGHT = 5.5, 3.6  # of a panel, in inches
DPI = 120
COLORS = "turbo"


def draw_spectra(snapshots: Sequence[Snapshot]) -> bytes:
    """A PNG: a panel a network, a line a layer, its singular values divided by the largest.

    A second checkpoint is drawn with broken lines.
    """
    networks = _networks(snapshots[0])
    figure, panels = _panels(len(networks), 1)
    for axes, network in zip(panels, networks, strict=True):
        for snapshot, style in zip(snapshots, STYLES, strict=False):
            layers = [layer for layer in snapshot.layers if layer.network == network]
            for layer, color in zip(layers, _colors(len(layers)), strict=True):
                values = layer.singular_values
                if values[0] == 0:
                    continue
                share = [(number + 0.5) / len(values) for number in range(len(values))]
                name = layer.layer if snapshot is snapshots[0] else None
                heights = [value / values[0] for value in values]
                axes.plot(share, heights, style, color=color, label=name, linewidth=1)
        steps = [f"step {s.step:,}" for s in snapshots if s.step is not None]
        title = f"{NETWORKS[network]} {' and, broken, '.join(steps)}"
        _finish(axes, title, "share of the singular values")
        axes.set_ylabel("singular value / largest", fontsize=8)
        axes.set_yscale("log")
        axes.set_ylim(top=1.2)
    return _png(figure)


def draw_history(snapshots: Sequence[Snapshot]) -> bytes:
    """A PNG: for each network exact sigmas, stable ranks and gammas against the step."""
    networks = _networks(snapshots[0])
    figure, panels = _panels(len(networks), 3)
    steps = [snapshot.step or 0 for snapshot in snapshots]
    for row, network in enumerate(networks):
        names = [s.layer for s in snapshots[0].layers if s.network == network]
        kinds = ("exact sigma", "stable rank", "gamma")
        for axes, kind in zip(panels[3 * row : 3 * row + 3], kinds, strict=True):
            for name, color in zip(names, _colors(len(names)), strict=True):
                found = [_figure(kind, _layer(snapshot, network, name)) for snapshot in snapshots]
                values = [value for value in found if value is not None]
                if values:
                    label = name.removesuffix(".output") if kind == "gamma" else name
                    axes.plot(steps, values, ".-", color=color, label=label, linewidth=1)
            _finish(axes, f"{kind}, {NETWORKS[network]}", "step")
    return _png(figure)


def _figure(kind: str, layer: LayerSpectrum) -> float | None:
    return {
        "exact sigma": layer.singular_values[0],
        "stable rank": layer.stable_rank,
        "gamma": layer.gamma,
    }[kind]


def _layer(snapshot: Snapshot, network: str, name: str) -> LayerSpectrum:
    return next(s for s in snapshot.layers if (s.network, s.layer) == (network, name))


def _networks(snapshot: Snapshot) -> list[str]:
    return list(dict.fromkeys(layer.network for layer in snapshot.layers))


def _panels(rows: int, columns: int) -> "tuple[Figure, list[Axes]]":
    need_matplotlib()
    from matplotlib.figure import Figure

    size = (columns * WIDTH, rows * HEIGHT)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    count = rows * columns
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def _finish(axes: "Axes", title: str, along: str) -> None:
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_xlabel(along, fontsize=8)
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=5, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _colors(count: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    return [colormaps[COLORS](number / max(1, count - 1)) for number in range(count)]


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
