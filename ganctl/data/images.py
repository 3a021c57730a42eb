"""All images of a run: those that it trains on, and those that it is never shown."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ganctl.data.batches import Batches
from ganctl.data.labels import Labels
from ganctl.data.packing import PackedImages
from ganctl.settings.config import Config


@dataclass
class Images:
    """What a run is trained on."""

    packed: PackedImages
    labels: Labels
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def identity(self, config: Config) -> dict[str, Any]:
        """What a checkpoint says of the images it was trained on."""
        return {
            "source": config.data.source,
            "n": len(self.packed.images),
            "fingerprint": self.packed.fingerprint,
            "classes": list(self.labels.classes),
            "labels": self.labels.fingerprint() if self.labels.classes else "",
            "held_out": self.held_out.tolist(),
        }

    def batches(self, config: Config, device: torch.device) -> Batches:
        """The stream of those that `config` trains on."""
        everyone = np.arange(len(self.packed.images))
        return self._stream(config, device, np.setdiff1d(everyone, self.held_out), "data")

    def unseen(self, config: Config, device: torch.device) -> Batches | None:
        """A stream of those that are held out, if there are some."""
        if not len(self.held_out):
            return None
        return self._stream(config, device, self.held_out, "held out")

    def _stream(
        self, config: Config, device: torch.device, numbers: np.ndarray, purpose: str
    ) -> Batches:
        return Batches(
            self.packed.images,
            labels=self.labels.numbers if self.labels.classes else None,
            numbers=numbers,
            seed=config.train.seed,
            flip=config.data.flip,
            dequantize=config.data.dequantize,
            device=device,
            purpose=purpose,
        )
