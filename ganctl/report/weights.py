"""What `inspect-sn` finds, in a report: a table of layers, and their singular values as curves."""

from collections.abc import Sequence
from typing import Any

from ganctl.insight.snapshots import Snapshot
from ganctl.insight.spectra import LayerSpectrum
from ganctl.models.bounds import product
from ganctl.report.axes import rounded_value
from ganctl.report.inside import MAPS_UP_TO, Inside
from ganctl.report.parts import card, panel_figures, section
from ganctl.webpage import text

NETWORKS = {"g": "G", "d": "D"}
MOST_VALUES = 100  # of a layer, on a curve
COLUMNS = ("layer", "weight", "estimate", "exact", "in use", "as a map", "stable rank")

UNBOUNDED = (
    f"Of networks with more than {MAPS_UP_TO:,} weights <code>ganctl inspect-sn</code> says what"
    " convolutions stretch whole images by: that takes longer."
)

Named = Sequence[tuple[str, Inside | None]]  # runs' names, and what was found in them


def tables(found: Named, spectra: Sequence[dict[str, Any]], first: int) -> str:
    """A table for each run, and places for the panels `spectra`, numbered from `first` on."""
    cards = [
        card(number, name, _table(inside.layers))
        for number, (name, inside) in enumerate(found)
        if inside is not None
    ]
    return section("What the weights do", "".join(cards) + panel_figures(spectra, first))


def panels_of(found: Named) -> list[dict[str, Any]]:
    """Singular values divided by the largest, a panel for each network of each run."""
    panels = []
    for run, (name, inside) in enumerate(found):
        for network, title in NETWORKS.items() if inside is not None else ():
            assert inside is not None
            layers = [layer for layer in inside.layers.layers if layer.network == network]
            of = f" of {name}" if len(found) > 1 else ""
            lines = [_line(number, layer) for number, layer in enumerate(layers)]
            panels.append(
                {
                    "title": f"singular values / largest, layers of {title}{of}", "key": "",
                    "scale": "log", "share": False, "along": "% of the values", "marked": False,
                    "lines": [line for line in lines if line["points"]], "run": run,
                }
            )  # fmt: skip
    return panels


def _line(number: int, layer: LayerSpectrum) -> dict[str, Any]:
    values = layer.singular_values
    count = len(values)
    chosen = {round(n * (count - 1) / (MOST_VALUES - 1)) for n in range(MOST_VALUES)}
    at = range(count) if count <= MOST_VALUES else sorted(chosen)
    points = [
        (round(100 * (index + 0.5) / count, 2), rounded_value(values[index] / values[0]))
        for index in (at if values[0] > 0 else ())
    ]
    return {
        "run": number, "style": number // 8 % 3, "edge": False, "name": layer.layer,
        "points": points,
    }  # fmt: skip


def _table(snapshot: Snapshot) -> str:
    cells = "".join(f"<th class='{_kind(n)}'>{text(name)}</th>" for n, name in enumerate(COLUMNS))
    lines = [f"<tr>{cells}</tr>"]
    for layer in snapshot.layers:
        values = "".join(
            f"<td class='{_kind(number)}'>{text(value)}</td>"
            for number, value in enumerate(_values(layer))
        )
        lines.append(f"<tr>{values}</tr>")
    bounds = []
    for name, chain in snapshot.chains.items():
        unbounded = [text(piece.name) for piece in chain if piece.bound is None]
        but = f", without what has no bound ({', '.join(unbounded)})" if unbounded else ""
        most = f"at most {product(chain):.3g}{but}"
        seen = f"at least {snapshot.lower[name]:.3g}, and {most}"
        bounds.append(f"<p>{NETWORKS[name]} stretches the difference of two inputs by {seen}.</p>")
    if not bounds:
        bounds.append(f"<p class='faint'>{UNBOUNDED}</p>")
    return f"<div class='wide' tabindex='0'><table>{''.join(lines)}</table></div>{''.join(bounds)}"


def _values(layer: LayerSpectrum) -> list[str]:
    as_map = "-"
    if layer.norm is not None:
        lower, upper = (f"{bound:.3f}" for bound in layer.norm)
        as_map = upper if lower == upper else f"{lower} to {upper}"
    return [
        layer.name,
        "x".join(str(size) for size in layer.shape),
        "none" if layer.sigma_estimate is None else f"{layer.sigma_estimate:.4f}",
        f"{layer.singular_values[0]:.4f}",
        f"{layer.sigma_in_use:.4f}",
        as_map,
        f"{layer.stable_rank:.2f}",
    ]


def _kind(column: int) -> str:
    return "number" if column else "name"
