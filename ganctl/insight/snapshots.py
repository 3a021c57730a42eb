"""What is known of the weights of whole checkpoints: ours, other programs', and a run's."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ganctl.errors import CheckpointError
from ganctl.insight import foreign
from ganctl.insight.lower_bounds import lower_bound
from ganctl.insight.spectra import (
    LayerSpectrum,
    layer_spectra,
    map_sides,
    weight_spectrum,
    weighted_layers,
)
from ganctl.models import Discriminator, Generator, pieces
from ganctl.models.bounds import Piece, product
from ganctl.progress import Progress, silent
from ganctl.store.contents import load_networks


class Snapshot(NamedTuple):
    """All that is known of one checkpoint's weights."""

    path: str
    step: int | None  # None: a foreign file does not say
    layers: list[LayerSpectrum]
    chains: dict[str, list[Piece]]  # of each network, if its convolutions were looked at as maps
    lower: dict[str, float]  # of each of these, what it was seen to stretch two inputs by
    weights: str = ""  # "live", or "averaged" ones of G; "" where it is not looked at


def of_checkpoint(
    path: Path, names: Sequence[str], *, averaged: bool, as_maps: bool, progress: Progress
) -> Snapshot:
    """The networks `names`, "g" or "d", of a checkpoint of ganctl, layer by layer.

    `averaged` takes the averaged generator instead of the live one, and so does an exported file
    that has no other; of such a file only what it has is looked at. `as_maps` also bounds what
    convolutions stretch whole images by, and networks from below, which takes most of the time.
    """
    loaded, saved = load_networks(path)
    names = loaded.those_of(names)
    live = loaded.has("generator") and not averaged
    networks: dict[str, Generator | Discriminator] = {}
    for name in names:
        generator = name == "g"
        networks[name] = (
            loaded.discriminator
            if not generator
            else (loaded.generator if live else loaded.generator_ema)
        )
    total = sum(len(weighted_layers(networks[name])) for name in names)
    layers: list[LayerSpectrum] = []
    chains: dict[str, list[Piece]] = {}
    lower: dict[str, float] = {}
    for name in names:
        sides = map_sides(networks[name], saved.config.data.resolution) if as_maps else None
        before = len(layers)
        for layer in layer_spectra(networks[name], name, sides):
            layers.append(layer)
            progress(len(layers), total)
        if sides is not None:
            norms = {layer.layer: layer.norm.upper for layer in layers[before:] if layer.norm}
            chains[name] = pieces(networks[name], norms, sides)
            classes = len(saved.data.classes) if saved.config.model.conditional else 0
            lower[name] = lower_bound(networks[name], saved.config.data.resolution, classes)
    which = ("live" if live else "averaged") if "g" in names else ""
    return Snapshot(str(path), saved.step, layers, chains, lower, which)


def of_foreign(path: Path, *, as_maps: bool, progress: Progress) -> Snapshot:
    """The weights in a state dictionary of another program, whose map sizes are not known."""
    weights = foreign.read(path)
    layers = []
    for number, weight in enumerate(weights, 1):
        estimate = foreign.sigma(weight)
        layers.append(weight_spectrum(weight.layer, weight.weight, estimate, as_maps))
        progress(number, len(weights))
    return Snapshot(str(path), None, layers, {}, {})


def of_run(
    paths: Sequence[Path], names: Sequence[str], *, averaged: bool, progress: Progress
) -> list[Snapshot]:
    """One snapshot for each of the checkpoints `paths` of a run, not looked at as maps.

    A run that goes on may delete all but its newest checkpoint meanwhile; those are left out.
    CheckpointError if one is there and cannot be read.
    """
    snapshots = []
    for number, path in enumerate(paths, 1):
        try:
            found = of_checkpoint(path, names, averaged=averaged, as_maps=False, progress=silent)
            snapshots.append(found)
        except CheckpointError:
            if path.exists() or path == paths[-1]:
                raise
        progress(number, len(paths))
    return snapshots


def plain_values(snapshot: Snapshot) -> dict[str, Any]:
    """`snapshot` as JSON can hold it, with the bound of each whole network."""
    layers = []
    for layer in snapshot.layers:
        values = asdict(layer)
        lower, upper = values.pop("norm") or (None, None)
        layers.append({**values, "norm_lower": lower, "norm_upper": upper})
    chains = {
        name: {
            "bound": product(chain),
            "at_least": snapshot.lower[name],
            "pieces": [piece._asdict() for piece in chain],
        }
        for name, chain in snapshot.chains.items()
    }
    return {
        "checkpoint": snapshot.path, "step": snapshot.step, "layers": layers, "lipschitz": chains,
    }  # fmt: skip
