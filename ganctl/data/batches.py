"""The endless, shuffled stream of real images, as a pure function of seed and position."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganctl.data.stored import ImageArray
from ganctl.runtime import random_stream, random_words, upload

NOISE_LEVELS = 256  # of dequantisation, in one grey level


class Pixels(NamedTuple):
    """Real images as they are stored and sent: bytes, and what is to be done with them."""

    levels: Tensor  # (B, R, R, 3) uint8
    mirrored: Tensor | None  # (B,) bool; None: none of them is
    noise: Tensor | None  # (B, R, R, 3) uint8, in 256ths of a grey level; None: no dequantisation

    def images(self) -> Tensor:
        """(B, 3, R, R) fp32 in [-1, 1], channels last."""
        images = self.levels.permute(0, 3, 1, 2).float()
        if self.noise is None:
            images = images / 127.5 - 1
        else:  # uniform noise of one grey level, as in pfnet-research/sngan_projection
            fraction = (self.noise.permute(0, 3, 1, 2).float() + 0.5) / NOISE_LEVELS
            images = (images + fraction) / 128 - 1
        if self.mirrored is not None:
            images = torch.where(self.mirrored[:, None, None, None], images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)


class Batches:
    """Batches of a packed array. Image p of the stream is the same however p is reached."""

    def __init__(
        self,
        images: ImageArray,
        *,
        labels: np.ndarray | None = None,
        numbers: np.ndarray | None = None,
        seed: int,
        flip: bool,
        dequantize: bool,
        device: torch.device,
        purpose: str = "data",
    ) -> None:
        """images: (N, R, R, 3) uint8, usually in a file; N at least 1. labels: (N,) int64.

        numbers: which of the images the stream has, by default all. `purpose` names the stream.
        """
        self.images = images
        self.labels = labels
        self.numbers = np.arange(len(images)) if numbers is None else numbers
        self.purpose = purpose
        self.seed = seed
        self.flip = flip
        self.dequantize = dequantize
        self.device = device
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def __len__(self) -> int:
        """How many different images the stream has: the length of an epoch."""
        return len(self.numbers)

    def at(self, position: int, count: int) -> Tensor:
        """(count, 3, R, R) fp32 in [-1, 1], channels last, on the device."""
        return self.pixels_at(position, count).images()

    def pixels_at(self, position: int, count: int) -> Pixels:
        """The same `count` images as bytes, on the device."""
        order, mirrored = self.drawn(position, count)
        levels = upload(torch.from_numpy(self.images[order]), self.device)
        noise = self._noise(position, count) if self.dequantize else None
        return Pixels(
            levels,
            upload(torch.from_numpy(mirrored), self.device) if self.flip else None,
            None if noise is None else upload(torch.from_numpy(noise), self.device),
        )

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
            epoch, start = divmod(position, len(self))
            order, mirrored = (drawn[start : start + count] for drawn in self._epoch(epoch))
            pieces.append((order, mirrored))
            position, count = position + len(order), count - len(order)
        orders, mirrors = zip(*pieces, strict=True)
        return np.concatenate(orders), np.concatenate(mirrors)

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        stream, n = random_stream(self.seed, f"{self.purpose} order", epoch), len(self)
        order = torch.randperm(n, generator=stream).numpy()
        return self.numbers[order], torch.rand(n, generator=stream).numpy() < 0.5

    def _noise(self, position: int, count: int) -> np.ndarray:
        """(count, R, R, 3) uint8: uniform, image by image."""
        shape = self.images.shape[1:]
        size = int(np.prod(shape))
        words = random_words(
            self.seed, f"{self.purpose} dequantize", position, count, -(-size // 8)
        )
        return np.ascontiguousarray(words.view(np.uint8)[:, :size]).reshape(count, *shape)
