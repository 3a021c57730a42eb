"""The endless, shuffled stream of real images, as a pure function of seed and position."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ganctl.runtime import random_stream


class Batches:
    """Batches of a packed array. Image number p of the stream is the same however it is reached."""

    def __init__(
        self, images: np.ndarray, *, seed: int, flip: bool, dequantize: bool, device: torch.device
    ) -> None:
        """images: (N, R, R, 3) uint8, usually memory-mapped; N at least 1."""
        self.images = images
        self.seed = seed
        self.flip = flip
        self.dequantize = dequantize
        self.device = device
        self._epoch_order = lru_cache(maxsize=2)(self._shuffled)

    def order(self, position: int, count: int) -> np.ndarray:
        """(count,) int64: which images stand at `position` and after. Each epoch has each once."""
        n = len(self.images)
        pieces = []
        while count > 0:
            epoch, start = divmod(position, n)
            piece = self._epoch_order(epoch)[start : start + count]
            pieces.append(piece)
            position, count = position + len(piece), count - len(piece)
        return np.concatenate(pieces)

    def at(self, position: int, count: int) -> Tensor:
        """(count, 3, R, R) fp32 in [-1, 1], channels last, on the device."""
        packed = torch.from_numpy(self.images[self.order(position, count)])  # (count, R, R, 3)
        if self.device.type == "cuda":
            packed = packed.pin_memory()
        levels = packed.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        if self.dequantize:  # one grey level of uniform noise: x / 128 - 1 + U(0, 1/128), pfnet
            noise = torch.rand(levels.shape, generator=self._stream("dequantize", position))
            images = (levels + noise.to(self.device)) / 128 - 1
        else:
            images = levels / 127.5 - 1
        if self.flip:
            mirrored = torch.rand(count, generator=self._stream("flip", position)) < 0.5
            mirrored = mirrored.to(self.device)[:, None, None, None]
            images = torch.where(mirrored, images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return torch.randperm(len(self.images), generator=self._stream("order", epoch)).numpy()

    def _stream(self, purpose: str, position: int) -> torch.Generator:
        return random_stream(self.seed, f"data {purpose}", position)
