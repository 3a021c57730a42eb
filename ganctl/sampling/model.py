"""A trained pair of networks, for use from Python: `ganctl.load("runs/faces32-001")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganctl.models import Discriminator, Generator, fold
from ganctl.models.spectral import normalized
from ganctl.runtime import choose_device, upload, without_tf32
from ganctl.sampling.draw import latents
from ganctl.settings.config import Config
from ganctl.store import runs
from ganctl.store.contents import load_networks


class Model(NamedTuple):
    """The networks of a checkpoint in eval mode, without gradients, on one device."""

    generator: Generator  # its average, or the live one if that was asked for
    discriminator: Discriminator | None  # None: an exported file may have none
    config: Config
    classes: list[str]  # their names; [] for an unconditional model
    step: int
    device: torch.device

    @torch.no_grad()
    def draw(
        self,
        seeds: Sequence[int],
        labels: Sequence[int] | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """(len(seeds), 3, R, R) in [-1, 1]: image i depends on seeds[i], and labels[i], alone.

        Up to rounding these are the images of `ganctl sample`. ValueError if a conditional model is
        given no labels, or another one some.
        """
        if not seeds or min(seeds) < 0:
            raise ValueError("seeds must be some, from 0 on")
        if (labels is None) == bool(self.generator.n_classes):
            known = "needs" if labels is None else "takes no"
            raise ValueError(f"this model {known} labels")
        given = [latents(self.generator.latent_dim, seeds, truncation)]
        if labels is not None:
            given.append(torch.tensor(labels))
        with without_tf32():
            images: Tensor = fold(self.generator)(*(upload(part, self.device) for part in given))
        return images

    @torch.no_grad()
    def score(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """images (B, 3, R, R) in [-1, 1] -> (B,): what D thinks of them, higher is more real.

        ValueError if there is no discriminator.
        """
        if self.discriminator is None:
            raise ValueError("this model has no discriminator: it is of an exported generator")
        with normalized(self.discriminator), without_tf32():
            scores: Tensor = self.discriminator(images, labels)
        return scores


def load(checkpoint_or_run: str | Path, device: str = "auto", *, raw: bool = False) -> Model:
    """The networks of a checkpoint or exported file, or of the newest whole checkpoint of a run.

    `raw`: the live generator instead of its average. CheckpointError says what is wrong.
    """
    target = choose_device(device)
    networks, saved = load_networks(runs.find_checkpoint(Path(checkpoint_or_run)))
    generator = networks.generator if raw else networks.generator_ema
    return Model(
        generator.to(target),
        networks.discriminator.to(target) if networks.has("discriminator") else None,
        saved.config,
        saved.data.classes,
        saved.step,
        target,
    )
