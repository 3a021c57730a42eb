"""`ganctl inspect-sn`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.errors import ConfigError

if TYPE_CHECKING:
    from ganctl.spectra import LayerSpectrum

# One power iteration an update lags behind where singular values lie close together: the layers of
# healthy runs were seen at up to 1.25. Stale or averaged u and v give far more.
TOLERANCE = 0.5
CHECK_FAILED = 1  # the exit code of --check


def inspect_sn(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="CKPT|RUN", help="A checkpoint or a run's folder.  (default: the newest run)"
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="d, g or both.")] = "both",
    top_k: Annotated[int, typer.Option(help="Singular values shown for each layer.")] = 5,
    averaged: Annotated[
        bool, typer.Option("--ema", help="Look at the averaged generator, not the live one.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="A list with one object for each layer.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a normalised weight is off by too much.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(help="How far from 1 --check lets the norm in use be.")
    ] = TOLERANCE,
) -> None:
    """Print each layer's singular values, exactly, beside the estimates that training uses.

    \b
    ganctl inspect-sn
    ganctl inspect-sn runs/celeba64-001 --network d --top-k 10
    ganctl inspect-sn ckpt.pt --json | python -m json.tool
    """
    if network not in ("d", "g", "both"):
        raise ConfigError(f"--network is {network!r}, but it must be d, g or both")
    if top_k < 1:
        raise ConfigError(f"--top-k is {top_k}, but it must be at least 1")

    from ganctl import runs
    from ganctl.cli import show
    from ganctl.spectra import layer_spectra
    from ganctl.state import load_networks

    path = runs.find_checkpoint(source)
    networks, saved = load_networks(path)
    generator = networks.generator_ema if averaged else networks.generator
    chosen = {"g": generator, "d": networks.discriminator}
    layers = [
        spectrum
        for name in (["g", "d"] if network == "both" else [network])
        for spectrum in layer_spectra(chosen[name], name, top_k)
    ]
    if json:
        show.result_json([asdict(layer) for layer in layers])
    else:
        _print_table(layers, f"{path}, step {saved.step:,}")
    worst = max(layers, key=lambda layer: layer.error)
    if check and worst.error > tolerance:
        show.note(
            f"check failed: {worst.network}.{worst.layer} has norm {worst.sigma_in_use:.3f} in use"
        )
        raise typer.Exit(CHECK_FAILED)


def _print_table(layers: "list[LayerSpectrum]", title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from ganctl.cli import show

    table = Table(title=show.plain(title), title_justify="left")
    table.add_column("layer", no_wrap=True)
    for name in ("weight", "estimate", "exact", "est/exact", "in use", "stable rank"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("largest singular values")
    before = layers[0].network
    for layer in layers:
        if layer.network != before:
            table.add_section()
        before = layer.network
        estimate = "none" if layer.sigma_estimate is None else f"{layer.sigma_estimate:.4f}"
        ratio = "-" if layer.ratio is None else f"{layer.ratio:.4f}"
        table.add_row(
            f"{layer.network}.{layer.layer}",
            "x".join(str(size) for size in layer.shape),
            estimate,
            f"{layer.singular_values[0]:.4f}",
            ratio,
            f"{layer.sigma_in_use:.4f}",
            f"{layer.stable_rank:.2f}",
            " ".join(f"{value:.3f}" for value in layer.singular_values),
        )
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    for layer in layers:
        if layer.gamma is not None:
            block = layer.layer.removesuffix(".output")
            console.print(f"gamma of {layer.network}.{block}: {layer.gamma:+.4f}", highlight=False)
