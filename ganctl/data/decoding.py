"""One file's bytes to one square RGB image, whatever mode, orientation or size it has."""

import warnings
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ganctl.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no other parser of Pillow ever runs
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_PIXELS = 64_000_000  # checked in the header, before anything is decoded

TURNS = {  # what makes an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def decode(file: IO[bytes]) -> Image.Image:
    """The first frame as an upright RGB image; transparency becomes white.

    Raises DataError, or whatever Pillow raises for damaged files.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of many pixels, of damaged EXIF data
            image: Image.Image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(f"not a {', '.join(FORMATS)} image") from error
    except Image.DecompressionBombError as error:
        raise DataError(str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if image.mode.startswith("I"):  # 16-bit grey
        levels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def fit(image: Image.Image, resolution: int, crop: int | None) -> np.ndarray:
    """(resolution, resolution, 3) uint8: the centre square of side `crop`, antialiased bilinear.

    `crop` None, or larger than the image, means the largest centre square.
    """
    side = min(image.width, image.height, crop or max(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What its EXIF data asks for; nothing if they are damaged, as they often are."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # Pillow's parser raises a dozen kinds
        return None
