"""How `ganctl inspect-sn` shows what it found in a terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from ganctl.cli import show
from ganctl.insight.snapshots import Snapshot
from ganctl.insight.spectra import LayerSpectrum
from ganctl.models.bounds import product

MOST_COLUMNS = 6  # checkpoints of a history that fit beside each other


def print_layers(snapshot: Snapshot, top_k: int | None) -> None:
    """One checkpoint: a line a layer, gammas, and the networks' bounds; top_k None: all values.

    The largest values are left out where there is no room for them.
    """
    table = _layers_table(snapshot, top_k, with_values=True)
    if top_k is not None and not show.fits(table):
        table = _layers_table(snapshot, top_k, with_values=False)
    show.result_table(table)
    for layer in snapshot.layers:
        if layer.gamma is not None:
            show.result(f"gamma of {_block(layer)}: {layer.gamma:+.4f}")
    for name, chain in snapshot.chains.items():
        unbounded = [piece.name for piece in chain if piece.bound is None]
        factors = " x ".join(f"{p.bound:.3g} ({p.name})" for p in chain if p.bound is not None)
        what = f"{name.upper()} stretches by at most"
        if unbounded:  # so of the whole there is none
            left_out = ", ".join(unbounded)
            what = f"Without what has no bound ({left_out}) {name.upper()} would stretch by at most"
        show.result(f"{what} {product(chain):.3g}: {factors}")
        found = ", as two inputs show that gradient ascent found"
        show.result(f"{name.upper()} stretches by at least {snapshot.lower[name]:.3g}{found}")


def _layers_table(snapshot: Snapshot, top_k: int | None, *, with_values: bool) -> Table:
    columns = ("layer", "weight", "estimate", "exact", "in use", "as a map", "stable\nrank")
    table = show.table(_title(snapshot), columns)
    # "4.787 to 4.846 at 32" may become two lines.
    table.columns[columns.index("as a map")].no_wrap = False
    if with_values:
        table.add_column("singular values" if top_k is None else "largest singular values")
    for layer in _in_sections(snapshot.layers, table):
        values = " ".join(f"{value:.3f}" for value in layer.singular_values[:top_k])
        table.add_row(
            show.plain(layer.name),
            "x".join(str(size) for size in layer.shape),
            "none" if layer.sigma_estimate is None else f"{layer.sigma_estimate:.4f}",
            f"{layer.singular_values[0]:.4f}",
            f"{layer.sigma_in_use:.4f}",
            _as_map(layer),
            f"{layer.stable_rank:.2f}",
            *([values] if with_values else []),
        )
    return table


def print_history(snapshots: Sequence[Snapshot]) -> None:
    """A line a layer, a column a checkpoint; of many checkpoints the first, last and some between.

    Each cell has the exact sigma of the raw weight and, in brackets, its stable rank.
    """
    last = len(snapshots) - 1
    count = min(MOST_COLUMNS, len(snapshots))
    chosen = [snapshots[round(i * last / max(1, count - 1))] for i in range(count)]
    steps = (f"{snapshot.step:,}" for snapshot in chosen)
    weights = f", of G's {chosen[-1].weights} weights" if chosen[-1].weights else ""
    table = show.table(f"exact sigma (stable rank) at step{weights}", ("layer", *steps))
    by_name = [{s.name: s for s in snapshot.layers} for snapshot in chosen]
    for layer in _in_sections(chosen[-1].layers, table):
        found = [layers[layer.name] for layers in by_name]
        cells = (f"{s.singular_values[0]:.3f} ({s.stable_rank:.1f})" for s in found)
        table.add_row(layer.name, *cells)
        if layer.gamma is not None:
            table.add_row(f"gamma of {_block(layer)}", *(f"{s.gamma:+.4f}" for s in found))
    show.result_table(table)


def print_comparison(one: Snapshot, other: Snapshot) -> None:
    """Two checkpoints side by side; layers that only one of them has are left out and named."""
    titles = [_title(snapshot) for snapshot in (one, other)]
    columns = ("layer", "exact", "", "change", "in use", "", "stable\nrank", "")
    table = show.table(" and ".join(titles), columns)
    first, second = ({s.name: s for s in side.layers} for side in (one, other))
    for layer in _in_sections([s for name, s in first.items() if name in second], table):
        a, b = layer, second[layer.name]
        before, after = a.singular_values[0], b.singular_values[0]
        change = f"{after / before - 1:+.1%}" if before else "-"
        table.add_row(
            show.plain(a.name),
            f"{before:.4f}", f"{after:.4f}", change,
            f"{a.sigma_in_use:.4f}", f"{b.sigma_in_use:.4f}",
            f"{a.stable_rank:.2f}", f"{b.stable_rank:.2f}",
        )  # fmt: skip
        if a.gamma is not None and b.gamma is not None:
            table.add_row(f"gamma of {_block(a)}", f"{a.gamma:+.4f}", f"{b.gamma:+.4f}")
    show.result_table(table)
    for side, names in zip(titles, (first.keys() - second, second.keys() - first), strict=True):
        for name in sorted(names):
            show.result(f"only in {side}: {name}")


def _as_map(layer: LayerSpectrum) -> str:
    if layer.norm is None:
        return "-"
    lower, upper = (f"{bound:.3f}" for bound in layer.norm)
    if lower == upper:
        bounds = upper
    else:
        bounds = f"{lower} to {upper}" if layer.norm.lower else f"at most {upper}"
    return bounds if layer.side is None else f"{bounds} at {layer.side}"


def _block(layer: LayerSpectrum) -> str:
    return layer.name.removesuffix(".output")


def _title(snapshot: Snapshot) -> str:
    if snapshot.step is None:
        return snapshot.path
    which = f", G's {snapshot.weights} weights" if snapshot.weights else ""
    return f"{snapshot.path}, step {snapshot.step:,}{which}"


def _in_sections(layers: Sequence[LayerSpectrum], table: Table) -> Iterator[LayerSpectrum]:
    """`layers` one by one, with a line in the table where D's begin."""
    for before, layer in zip([None, *layers], layers, strict=False):
        if before is not None and before.network != layer.network:
            table.add_section()
        yield layer
