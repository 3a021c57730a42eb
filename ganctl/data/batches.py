"""The endless, shuffled stream of real images, as a pure function of seed and position."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ganctl.runtime import random_stream, upload


class Batches:
    """Batches of a packed array. Image p of the stream is the same however p is reached."""

    def __init__(
        self,
        images: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        seed: int,
        flip: bool,
        dequantize: bool,
        device: torch.device,
    ) -> None:
        """images: (N, R, R, 3) uint8, usually memory-mapped; N at least 1. labels: (N,) int64."""
        self.images = images
        self.labels = labels
        self.seed = seed
        self.flip = flip
        self.dequantize = dequantize
        self.device = device
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def at(self, position: int, count: int) -> Tensor:
        """(count, 3, R, R) fp32 in [-1, 1], channels last, on the device."""
        order, mirrored = self.drawn(position, count)
        packed = torch.from_numpy(self.images[order])  # (count, R, R, 3)
        levels = upload(packed, self.device).permute(0, 3, 1, 2).float()
        if self.dequantize:  # uniform noise of one grey level, as pfnet-research/sngan_projection
            noise = torch.rand(levels.shape, generator=self._stream("dequantize", position))
            images = (levels + upload(noise, self.device)) / 128 - 1
        else:
            images = levels / 127.5 - 1
        if self.flip:
            mirror = upload(torch.from_numpy(mirrored), self.device)[:, None, None, None]
            images = torch.where(mirror, images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)

    def labels_at(self, position: int, count: int) -> Tensor | None:
        """(count,) int64: the classes of the images of `at`; None without classes."""
        if self.labels is None:
            return None
        return upload(torch.from_numpy(self.labels[self.drawn(position, count)[0]]), self.device)

    def drawn(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count,) int64 and bool: which images stand from `position` on, and which are mirrored.

        Each epoch has each image once, in an order of its own.
        """
        pieces = []
        while count > 0:
            epoch, start = divmod(position, len(self.images))
            order, mirrored = (drawn[start : start + count] for drawn in self._epoch(epoch))
            pieces.append((order, mirrored))
            position, count = position + len(order), count - len(order)
        orders, mirrors = zip(*pieces, strict=True)
        return np.concatenate(orders), np.concatenate(mirrors)

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        stream, n = self._stream("order", epoch), len(self.images)
        return torch.randperm(n, generator=stream).numpy(), torch.rand(
            n, generator=stream
        ).numpy() < 0.5

    def _stream(self, purpose: str, position: int) -> torch.Generator:
        return random_stream(self.seed, f"data {purpose}", position)
