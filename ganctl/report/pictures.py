"""Pictures made small enough that all of them fit into one file."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ganctl.store.runs import previews
from ganctl.webpage import data_uri

QUALITIES = (90, 75, 60, 40)  # of WebP, tried in turn
MOST_PIXELS = 2**26  # of a picture that is opened
MOST_PREVIEWS = 48  # of a run, over all its steps

log = logging.getLogger("ganctl")


def encoded(picture: Image.Image, most: int) -> str:
    """`picture` as an address of at most `most` bytes of WebP: coarser or smaller if need be."""
    while True:
        for quality in QUALITIES:
            file = io.BytesIO()
            picture.save(file, format="WEBP", quality=quality)
            if len(file.getvalue()) <= most or picture.width < 64:
                return data_uri("image/webp", file.getvalue())
        picture = picture.resize((picture.width // 2, max(1, picture.height // 2)))


def encoded_array(pixels: np.ndarray, most: int) -> str:
    """The same of (H, W, 3) uint8."""
    return encoded(Image.fromarray(pixels), most)


def opened(path: Path) -> Image.Image | None:
    """The PNG file `path`; None, after a word, if it cannot be read."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError("it has too many pixels")
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("the picture %s is left out: %s", path, error)
        return None


def over_time(samples: Path, most: int) -> list[tuple[int, str]]:
    """Steps and addresses of a run's previews, evenly over its steps, in `most` bytes together."""
    chosen = spread(previews(samples), MOST_PREVIEWS)
    found = []
    for step, path in chosen:
        if picture := opened(path):
            found.append((step, encoded(picture, most // len(chosen))))
    return found


def spread(items: Sequence[tuple[int, Path]], count: int) -> list[tuple[int, Path]]:
    """At most `count` of `items`: the first, the last, and evenly between them."""
    if len(items) <= count:
        return list(items)
    last = len(items) - 1
    return [items[round(number * last / (count - 1))] for number in range(count)]
