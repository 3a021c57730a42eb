"""How `ganctl inspect-sn` shows what it found in a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from ganctl.cli import show
from ganctl.lipschitz import product
from ganctl.spectra import LayerSpectrum, Snapshot

MOST_COLUMNS = 6  # checkpoints of a history that fit beside each other


def print_layers(snapshot: Snapshot, top_k: int | None) -> None:
    """One checkpoint: a line a layer, gammas, and the networks' bounds; top_k None: all values."""
    table = _table(_title(snapshot), "weight", "estimate", "exact",
                   "in use", "as a map", "stable rank")  # fmt: skip
    table.add_column("singular values" if top_k is None else "largest singular values")
    for layer in _in_sections(snapshot.layers, table):
        table.add_row(
            show.plain(layer.name),
            "x".join(str(size) for size in layer.shape),
            "none" if layer.sigma_estimate is None else f"{layer.sigma_estimate:.4f}",
            f"{layer.singular_values[0]:.4f}",
            f"{layer.sigma_in_use:.4f}",
            _as_map(layer),
            f"{layer.stable_rank:.2f}",
            " ".join(f"{value:.3f}" for value in layer.singular_values[:top_k]),
        )
    console = _print(table)
    for layer in snapshot.layers:
        if layer.gamma is not None:
            console.print(f"gamma of {_block(layer)}: {layer.gamma:+.4f}", highlight=False)
    for name, chain in snapshot.chains.items():
        attention = any(piece.bound is None for piece in chain)
        factors = " x ".join(f"{p.bound:.3g} ({p.name})" for p in chain if p.bound is not None)
        without = ", without its attention blocks, which have no bound" if attention else ""
        console.print(
            f"{name.upper()} stretches by at most {product(chain):.3g}{without}: {factors}",
            highlight=False,
        )


def print_history(snapshots: Sequence[Snapshot]) -> None:
    """A line a layer, a column a checkpoint; of many checkpoints the first, last and some between.

    Each cell has the exact sigma of the raw weight and, in brackets, its stable rank.
    """
    last = len(snapshots) - 1
    count = min(MOST_COLUMNS, len(snapshots))
    chosen = [snapshots[round(i * last / max(1, count - 1))] for i in range(count)]
    table = _table(
        "exact sigma (stable rank) at step", *(f"{snapshot.step:,}" for snapshot in chosen)
    )
    by_name = [{s.name: s for s in snapshot.layers} for snapshot in chosen]
    for layer in _in_sections(chosen[-1].layers, table):
        found = [layers[layer.name] for layers in by_name]
        cells = (f"{s.singular_values[0]:.3f} ({s.stable_rank:.1f})" for s in found)
        table.add_row(layer.name, *cells)
        if layer.gamma is not None:
            table.add_row(f"gamma of {_block(layer)}", *(f"{s.gamma:+.4f}" for s in found))
    _print(table)


def print_comparison(one: Snapshot, other: Snapshot) -> None:
    """Two checkpoints side by side; layers that only one of them has are left out and named."""
    titles = [_title(snapshot) for snapshot in (one, other)]
    table = _table(" and ".join(titles), "exact", "", "change", "in use", "", "stable rank", "")
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
    console = _print(table)
    for side, names in zip(titles, (first.keys() - second, second.keys() - first), strict=True):
        for name in sorted(names):
            console.print(show.plain(f"only in {side}: {name}"), highlight=False, markup=False)


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
    return snapshot.path if snapshot.step is None else f"{snapshot.path}, step {snapshot.step:,}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=show.plain(title), title_justify="left")
    table.add_column("layer", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _in_sections(layers: Sequence[LayerSpectrum], table: Table) -> Iterator[LayerSpectrum]:
    """`layers` one by one, with a line in the table where D's begin."""
    for before, layer in zip([None, *layers], layers, strict=False):
        if before is not None and before.network != layer.network:
            table.add_section()
        yield layer


def _print(table: Table) -> Console:
    console = Console(width=None if Console().is_terminal else 180)
    console.print(table)
    return console
