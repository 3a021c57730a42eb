"""`ganctl inspect-sn`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.cli.outputs import check_file, writing
from ganctl.cli.points import parse_network
from ganctl.errors import ConfigError
from ganctl.store.durable import replacing

if TYPE_CHECKING:
    from ganctl.insight.snapshots import Snapshot
    from ganctl.insight.spectra import LayerSpectrum
    from ganctl.store.runs import Run

# One power iteration an update lags behind where singular values lie close together: the layers of
# healthy runs were seen at up to 1.25. Stale or averaged u and v give far more.
TOLERANCE = 0.5
CHECK_FAILED = 1  # the exit code of --check


def inspect_sn(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="CKPT|RUN",
            help="A checkpoint, a run's folder, or any PyTorch state dictionary or safetensors"
            " file."
            "  (default: the newest run)",
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="d, g or both.")] = "both",
    top_k: Annotated[int, typer.Option(help="Singular values shown for each layer.")] = 5,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Show all singular values of each layer.")
    ] = False,
    averaged: Annotated[
        bool, typer.Option("--ema", help="Look at the averaged generator, not the live one.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="How sigma, stable rank and gamma went over a run.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="CKPT|RUN", help="Compare with this one.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="X.PNG",
            help="Draw the spectra, or the history, too. Needs matplotlib: pip install matplotlib",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what --plot names.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="All figures and nothing else, all singular values too.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a normalised weight is off by too much.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help=f"How far from 1 --check lets the norm in use be.  (default: {TOLERANCE})"
        ),
    ] = None,
) -> None:
    """Print each layer's singular values, exactly, beside the estimates that training uses.

    Also bounds of what convolutions stretch whole images by, and of what whole networks do.

    \b
    ganctl inspect-sn
    ganctl inspect-sn runs/celeba64-001 --network d --top-k 10
    ganctl inspect-sn runs/celeba64-001 --history --plot history.png
    ganctl inspect-sn old.pt --against new.pt
    ganctl inspect-sn ckpt.pt --json | python -m json.tool
    """
    _check_options(network, top_k, history, against, plot, check, tolerance)
    if plot is not None:
        check_file(plot, force=force)

    import torch

    from ganctl.cli import show, spectra_tables
    from ganctl.insight import curves, snapshots, spectra_plot
    from ganctl.store import runs

    # Threads of a decomposition wait for each other at every column: on busy cores two took up to
    # a hundred times as long as one.
    torch.set_num_threads(1)
    sources = [source] if against is None else [source, against]
    paths = [] if history else [runs.find_checkpoint(each) for each in sources]
    run = runs.find(source) if history else None
    if plot is not None:
        curves.need_matplotlib()
    if run is not None:
        found = _history(run, network, averaged)
    else:
        found = [_snapshot(path, network, averaged, as_maps=against is None) for path in paths]
    if json:
        documents = [snapshots.plain_values(snapshot) for snapshot in found]
        show.result_json(documents if history or against is not None else documents[0])
    elif history:
        spectra_tables.print_history(found)
    elif against is not None:
        spectra_tables.print_comparison(*found)
    else:
        spectra_tables.print_layers(found[0], None if spectrum else top_k)
    if plot is not None:
        draw = spectra_plot.draw_history if history else spectra_plot.draw_spectra
        with writing(plot), replacing(plot) as temporary:
            temporary.write_bytes(draw(found))
        show.note(f"drawn: {plot}")
    if check:
        layers = [layer for snapshot in found for layer in snapshot.layers]
        _check_norms(layers, TOLERANCE if tolerance is None else tolerance)


def _check_options(
    network: str,
    top_k: int,
    history: bool,
    against: Path | None,
    plot: Path | None,
    check: bool,
    tolerance: float | None,
) -> None:
    """ConfigError if an option has a value that it cannot have, or does not fit another."""
    parse_network(network)
    if top_k < 1:
        raise ConfigError(f"--top-k is {top_k}, but it must be at least 1")
    if tolerance is not None and not check:
        raise ConfigError("--tolerance is for --check", hint="add --check")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ConfigError(f"--tolerance is {tolerance}, but it must be a number from 0")
    if history and (against is not None or check):
        other = "--check" if check else "--against"
        raise ConfigError(f"--history cannot be combined with {other}")
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot is {plot}, but spectra are drawn into a .png file")


def _snapshot(path: Path, network: str, averaged: bool, *, as_maps: bool) -> "Snapshot":
    """One checkpoint of ganctl or of another program, whose networks are not known."""
    from ganctl.cli import show
    from ganctl.insight import snapshots
    from ganctl.store import contents

    ours = contents.is_ours(path)
    if not ours and (network != "both" or averaged):
        option = "--ema" if averaged else "--network"
        raise ConfigError(f"{option} is for ganctl's checkpoints, which {path} is not")
    with show.ProgressBar("inspecting", patience=1) as progress:
        if not ours:
            return snapshots.of_foreign(path, as_maps=as_maps, progress=progress)
        return snapshots.of_checkpoint(
            path, parse_network(network), averaged=averaged, as_maps=as_maps, progress=progress
        )


def _history(run: "Run", network: str, averaged: bool) -> "list[Snapshot]":
    """All whole checkpoints of a run, the oldest first."""
    from ganctl.cli import show
    from ganctl.insight import snapshots

    paths = run.whole_checkpoints()
    with show.ProgressBar("inspecting", patience=1) as progress:
        return snapshots.of_run(paths, parse_network(network), averaged=averaged, progress=progress)


def _check_norms(layers: "Sequence[LayerSpectrum]", tolerance: float) -> None:
    """End with CHECK_FAILED unless the norms in use of normalised layers are near 1."""
    from ganctl.cli import show

    normalized = [layer for layer in layers if layer.normalized]
    if not normalized:
        show.note("check failed: no layer is spectrally normalised")
        raise typer.Exit(CHECK_FAILED)
    worst = max(normalized, key=lambda layer: layer.error)
    if worst.error > tolerance:
        many = sum(layer.error > tolerance for layer in normalized)
        show.note(
            f"check failed: norms in use must be within {tolerance:g} of 1, but {many} of"
            f" {len(normalized)} are not; {worst.name} has {worst.sigma_in_use:.3f}"
        )
        raise typer.Exit(CHECK_FAILED)
    show.note(
        f"check passed: {len(normalized)} norms in use are within {tolerance:g} of 1; {worst.name}"
        f" is farthest, with {worst.sigma_in_use:.3f}"
    )
