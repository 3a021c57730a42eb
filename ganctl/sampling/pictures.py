"""Image tensors as pictures: grids, and how large their pixels are."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganctl.store.durable import ANYBODY, replacing

LEAST_SIDE = 512  # pixels of the longer side of a picture
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # Pillow's names of formats
BEST_JPEG = {"quality": 95, "subsampling": 0}


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8, rounded to the nearest level."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def grid(
    images: np.ndarray, columns: int | None = None, places: Sequence[int] | None = None
) -> np.ndarray:
    """(B, H, W, 3) uint8 -> one picture, row by row; gaps stay white.

    Without `columns` it is as square as B allows; `places` says which cell each image has, if some
    are to be left free.
    """
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    taken = range(count) if places is None else places
    rows = math.ceil((max(taken) + 1) / columns)
    cells = np.full((rows * columns, height, width, 3), 255, dtype=np.uint8)
    cells[np.array(taken)] = images
    cells = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width, 3)


def scale_for(height: int, width: int) -> int:
    """How often a pixel is to be repeated for the longer side to have LEAST_SIDE of them."""
    return max(1, math.ceil(LEAST_SIDE / max(height, width)))


def enlarged(image: np.ndarray, scale: int | None = None) -> np.ndarray:
    """(H, W, 3) -> (sH, sW, 3): each pixel becomes a square of s x s.

    s is `scale`, or else the smallest with which small images can be seen: see `scale_for`.
    """
    times = scale or scale_for(*image.shape[:2])
    return image.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else image


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def save_png(image: np.ndarray, path: Path, owner: str = ANYBODY) -> None:
    """Write (H, W, 3) uint8 to `path`, of the run `owner`: complete, or not at all."""
    with replacing(path, owner) as temporary:
        temporary.write_bytes(png(image))


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 in the format that the name of `path` says: complete, or not at all."""
    kind = PICTURES[path.suffix.lower()]
    with replacing(path) as temporary, temporary.open("xb") as file:
        Image.fromarray(image).save(file, format=kind, **(BEST_JPEG if kind == "JPEG" else {}))
