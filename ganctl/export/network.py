"""The network that is exported, and what is told of it."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ganctl.models import Generator, fold
from ganctl.models.folding import frozen, without_sigma
from ganctl.runtime import Precision
from ganctl.sampling import draw
from ganctl.sampling.draw import Point
from ganctl.settings.config import replace
from ganctl.settings.strict_yaml import Value
from ganctl.store.contents import DataIdentity, Description, load_networks

EXACT: Precision = "fp32"  # in which exported networks are compared
GRID_ROWS, GRID_COLUMNS = 8, 8  # of example images; with classes a row is one


class Exported(NamedTuple):
    """One network of a checkpoint, on the CPU, in eval mode; it stays as it is."""

    network: nn.Module
    name: str  # its section in a checkpoint: generator_ema, generator, or discriminator
    saved: Description  # without the place where the images lay

    @property
    def classes(self) -> list[str]:
        """The names of the classes that the network knows; [] if it knows none."""
        return self.saved.data.classes if self.saved.config.model.conditional else []

    @property
    def generator(self) -> Generator:
        """The network, which must be one."""
        assert isinstance(self.network, Generator)
        return self.network


def choose(path: Path, network: str, *, raw: bool) -> Exported:
    """The network "g" or "d" of the checkpoint `path`; `raw`: the live generator.

    CheckpointError says what is wrong with the file.
    """
    networks, saved = load_networks(path)
    name = "discriminator" if network == "d" else "generator" if raw else "generator_ema"
    return Exported(getattr(networks, name), name, without_place(saved))


def without_place(saved: Description) -> Description:
    """`saved` without the folders that the images lay in: a file that is given away tells none."""
    name = Path(saved.data.source).name or saved.data.source
    data: dict[str, Value] = {"data.source": name}
    identity = DataIdentity(**{**saved.data.model_dump(), "source": name})
    return saved.model_copy(update={"config": replace(saved.config, data), "data": identity})


@torch.no_grad()
def plain(exported: Exported) -> nn.Module:
    """A network that maps inputs as the exported one does, made of plain operations only.

    G: z (B, latent_dim), and labels (B,) if conditional -> images (B, 3, R, R) in [-1, 1]; D:
    images, and labels -> scores (B,).
    """
    if isinstance(exported.network, Generator):
        return fold(exported.network)
    return frozen(without_sigma(exported.network))


def examples(exported: Exported) -> list[Point]:
    """What a grid of example images shows: seeds from 0 on, with classes the same in each row."""
    if not exported.classes:
        return [Point(seed) for seed in range(GRID_ROWS * GRID_COLUMNS)]
    rows = min(GRID_ROWS, len(exported.classes))
    return draw.each_class(range(GRID_COLUMNS), list(range(rows)))
