"""Image tensors as PNG files and grids."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganctl.store.durable import ANYBODY, replacing


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8, rounded to the nearest level."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """(B, H, W, 3) uint8 -> one picture, row by row; gaps stay white.

    Without `columns` it is as square as B allows.
    """
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, 3), 255, dtype=np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width, 3)


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def save_png(image: np.ndarray, path: Path, owner: str = ANYBODY) -> None:
    """Write (H, W, 3) uint8 to `path`, of the run `owner`: complete, or not at all."""
    with replacing(path, owner) as temporary:
        temporary.write_bytes(png(image))
