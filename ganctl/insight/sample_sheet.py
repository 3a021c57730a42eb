"""Images of several runs side by side: a row a run, a column a seed."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 96  # pixels: smaller images are enlarged by a whole factor, to this or more
MARGIN, GAP = 12, 4
CAPTION = 22  # height of the line above a row
INK, PAPER = (24, 24, 28), (255, 255, 255)


def sample_sheet(rows: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """(H, W, 3) uint8: each row's name above its images (N, R, R, 3) uint8; R may differ."""
    largest = max(images.shape[1] for _, images in rows)
    side = largest * math.ceil(SIDE / largest)
    columns = max(len(images) for _, images in rows)
    width = 2 * MARGIN + columns * (side + GAP) - GAP
    height = 2 * MARGIN + len(rows) * (CAPTION + side + GAP) - GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (name, images) in enumerate(rows):
        top = MARGIN + number * (CAPTION + side + GAP)
        draw.text((MARGIN, top), name, INK, ImageFont.load_default(14))
        for column, pixels in enumerate(images):
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * (side + GAP), top + CAPTION))
    return np.asarray(sheet)
