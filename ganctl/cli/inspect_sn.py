"""`ganctl inspect-sn`."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganctl.cli.outputs import check_file
from ganctl.errors import CheckpointError, ConfigError, StorageError
from ganctl.store.durable import replacing

if TYPE_CHECKING:
    from ganctl.insight.spectra import LayerSpectrum, Snapshot
    from ganctl.models.bounds import Piece

# One power iteration an update lags behind where singular values lie close together: the layers of
# healthy runs were seen at up to 1.25. Stale or averaged u and v give far more.
TOLERANCE = 0.5
CHECK_FAILED = 1  # the exit code of --check


def inspect_sn(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="CKPT|RUN",
            help="A checkpoint, a run's folder, or any PyTorch state dictionary."
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
        Path | None, typer.Option(metavar="X.PNG", help="Draw the spectra, or the history, too.")
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
    if network not in ("d", "g", "both"):
        raise ConfigError(f"--network is {network!r}, but it must be d, g or both")
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
    if plot is not None:
        check_file(plot, force=force)

    import torch

    from ganctl.cli import show, spectra_tables
    from ganctl.insight import curves, spectra_plot
    from ganctl.store import checkpoint, runs

    if plot is not None:
        curves.need_matplotlib()
    networks = ("g", "d") if network == "both" else (network,)
    picture: bytes | None = None
    # Threads of a decomposition wait for each other at every column: on busy cores two took up to
    # a hundred times as long as one.
    torch.set_num_threads(1)
    if history:
        snapshots = _history(source, networks, averaged)
        if json:
            show.result_json([_plain(snapshot) for snapshot in snapshots])
        else:
            spectra_tables.print_history(snapshots)
        picture = spectra_plot.draw_history(snapshots) if plot else None
    else:
        paths = [runs.find_checkpoint(source)]
        paths += [runs.find_checkpoint(against)] if against is not None else []
        as_maps = against is None
        found = [
            _look(path, networks, averaged, as_maps)
            if checkpoint.is_ours(path)
            else _look_at_foreign(path, network, averaged, as_maps)
            for path in paths
        ]
        if json:
            show.result_json(_plain(found[0]) if against is None else [_plain(s) for s in found])
        elif against is not None:
            spectra_tables.print_comparison(*found)
        else:
            spectra_tables.print_layers(found[0], None if spectrum else top_k)
        picture = spectra_plot.draw_spectra(found) if plot else None
    if plot is not None and picture is not None:
        _save(picture, plot)
    if check:
        layers = [layer for snapshot in found for layer in snapshot.layers]
        _check(layers, TOLERANCE if tolerance is None else tolerance)


def _look(path: Path, networks: Sequence[str], averaged: bool, as_maps: bool) -> "Snapshot":
    """One checkpoint; `as_maps` also asks for what convolutions stretch whole images by."""
    from ganctl.cli import show
    from ganctl.insight.spectra import Snapshot, layer_spectra, map_sides, weighted_layers
    from ganctl.models import Discriminator, Generator, pieces
    from ganctl.store.contents import load_networks

    loaded, saved = load_networks(path)
    generator = loaded.generator_ema if averaged else loaded.generator
    chosen: dict[str, Generator | Discriminator] = {"g": generator, "d": loaded.discriminator}
    total = sum(len(weighted_layers(chosen[name])) for name in networks)
    layers: list[LayerSpectrum] = []
    chains: dict[str, list[Piece]] = {}
    with show.ProgressBar("inspecting", patience=1) as progress:
        for name in networks:
            sides = map_sides(chosen[name], saved.config.data.resolution)
            own = []
            for layer in layer_spectra(chosen[name], name, sides if as_maps else None):
                own.append(layer)
                if as_maps:
                    progress(len(layers) + len(own), total)
            if as_maps:
                norms = {layer.layer: layer.norm.upper for layer in own if layer.norm}
                chains[name] = pieces(chosen[name], norms, sides)
            layers += own
    return Snapshot(str(path), saved.step, layers, chains)


def _look_at_foreign(path: Path, network: str, averaged: bool, as_maps: bool) -> "Snapshot":
    """A state dictionary of another program, whose networks and map sizes are not known."""
    from ganctl.cli import show
    from ganctl.insight import foreign
    from ganctl.insight.spectra import Snapshot, weight_spectrum

    if network != "both" or averaged:
        option = "--ema" if averaged else "--network"
        raise ConfigError(f"{option} is for ganctl's checkpoints, which {path} is not")
    weights = foreign.read(path)
    layers = []
    with show.ProgressBar("inspecting", patience=1) as progress:
        for number, weight in enumerate(weights, 1):
            estimate = foreign.sigma(weight)
            layers.append(weight_spectrum(weight.layer, weight.weight, estimate, as_maps))
            progress(number, len(weights))
    return Snapshot(str(path), None, layers, {})


def _history(source: Path | None, networks: Sequence[str], averaged: bool) -> "list[Snapshot]":
    """All whole checkpoints of a run, the oldest first; it may go on and delete some meanwhile."""
    from ganctl.cli import show
    from ganctl.store import runs

    paths = runs.find(source).whole_checkpoints()
    snapshots = []
    with show.ProgressBar("inspecting", patience=1) as progress:
        for number, path in enumerate(paths, 1):
            try:
                snapshots.append(_look(path, networks, averaged, as_maps=False))
            except CheckpointError:
                if path.exists() or path == paths[-1]:
                    raise
            progress(number, len(paths))
    return snapshots


def _plain(snapshot: "Snapshot") -> dict[str, Any]:
    from ganctl.models.bounds import product

    layers = []
    for layer in snapshot.layers:
        values = asdict(layer)
        lower, upper = values.pop("norm") or (None, None)
        layers.append({**values, "norm_lower": lower, "norm_upper": upper})
    chains = {
        name: {"bound": product(chain), "pieces": [piece._asdict() for piece in chain]}
        for name, chain in snapshot.chains.items()
    }
    return {
        "checkpoint": snapshot.path, "step": snapshot.step, "layers": layers, "lipschitz": chains,
    }  # fmt: skip


def _check(layers: "Sequence[LayerSpectrum]", tolerance: float) -> None:
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


def _save(picture: bytes, out: Path) -> None:
    from ganctl.cli import show

    try:
        with replacing(out) as temporary:
            temporary.write_bytes(picture)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    show.note(f"drawn: {out}")
