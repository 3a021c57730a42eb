"""Prepared images in a file of the cache, read when they are asked for.

Not mapped into memory: where a mapped file was cut short, or its disk fails, the system ends the
process without a word. Reading the images of a batch costs as little, and fails with an error.
"""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ganctl.errors import DataError


class StoredImages:
    """(N, R, R, 3) uint8, read-only; indexed as an array is, but by no new axis first."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """`path` stays open, so that its images are there even if it is deleted."""
        self.path, self.shape = path, shape
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> np.ndarray:
        """(K, R, R, 3) uint8 of K images, or less of them; DataError if they cannot be read now."""
        first, *rest = which if isinstance(which, tuple) else (which,)
        numbers = np.arange(len(self))[first]
        images = np.empty((numbers.size, *self.shape[1:]), dtype=np.uint8)
        for image, number in zip(images, numbers.flat, strict=True):
            image[:] = self._read(int(number), image.nbytes).reshape(image.shape)
        if numbers.ndim == 0:
            return images[0][tuple(rest)]
        return images[(slice(None), *rest)] if rest else images

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self[:]

    def _read(self, number: int, size: int) -> np.ndarray:
        hint = "delete that folder; the images are prepared anew then"
        try:
            content = os.pread(self._descriptor, size, number * size)
        except OSError as error:
            what = f"the image cache {self.path.parent} cannot be read: {error.strerror}"
            raise DataError(what, hint) from error
        if len(content) < size:
            raise DataError(f"the image cache {self.path.parent} was cut short", hint)
        return np.frombuffer(content, dtype=np.uint8)


ImageArray = np.ndarray | StoredImages  # (N, R, R, 3) uint8
