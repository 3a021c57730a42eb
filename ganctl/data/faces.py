"""The built-in pictures: cartoon faces, drawn and not stored. Face i is a pure function of i.

They are aligned and symmetric, and their parts are correlated over long distances: both eyes have
one colour, brows and hair have one colour, left and right hair match, ears match the face. That
long-range coherence is what self-attention is for, and here it can be seen.
"""

import colorsys
import random
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Shape = Callable[[float, float, float, float, Color], None]

SKINS: tuple[Color, ...] = ((255, 219, 187), (241, 194, 150), (203, 142, 98), (132, 84, 55))
HAIRS: tuple[Color, ...] = (
    (40, 32, 30), (106, 64, 36), (226, 176, 76), (178, 66, 38), (150, 150, 156), (112, 62, 160),
)  # fmt: skip
EYES: tuple[Color, ...] = ((70, 44, 30), (40, 110, 190), (60, 140, 70))
MOUTH: Color = (178, 48, 56)
FRAME: Color = (28, 28, 34)
STYLES = ("bald", "short", "fringe", "long", "bun", "curls")


class Face(NamedTuple):
    """Everything that is drawn; colours are RGB, fractions are of the picture's side."""

    skin: Color
    hair: Color
    eyes: Color
    shirt: Color
    background: Color
    style: str
    glasses: bool
    beard: bool
    smile: float  # 0: a straight mouth, 1: a wide smile
    width: float  # half the width of the head


def describe(index: int) -> Face:
    """The face number `index`, as what there is to draw."""
    draw = random.Random(f"face {index}")
    return Face(
        skin=draw.choice(SKINS),
        hair=draw.choice(HAIRS),
        eyes=draw.choice(EYES),
        shirt=_hue(draw.random(), saturation=0.65, value=0.7),
        background=_hue(draw.random(), saturation=0.25, value=0.95),
        style=draw.choices(STYLES, weights=(1, 3, 3, 3, 2, 2))[0],
        glasses=draw.random() < 0.25,
        beard=draw.random() < 0.15,
        smile=draw.random(),
        width=draw.uniform(0.25, 0.29),
    )


def draw_face(index: int, size: int) -> Image.Image:
    """Face number `index` as an RGB image of size x size."""
    face = describe(index)
    canvas = _Canvas(size, face.background)
    _draw_hair_behind(canvas, face)
    canvas.ellipse(0.5, 1.08, 0.40, 0.28, face.shirt)
    canvas.box(0.5, 0.79, 0.09, 0.09, _darker(face.skin))
    canvas.pair(canvas.ellipse, face.width, 0.50, 0.05, 0.07, _darker(face.skin))
    canvas.ellipse(0.5, 0.48, face.width, 0.32, face.skin)
    if face.beard:
        canvas.chord(0.5, 0.52, face.width, 0.29, (20, 160), face.hair)
    _draw_hair_in_front(canvas, face)
    _draw_features(canvas, face)
    return canvas.image


def _draw_features(canvas: "_Canvas", face: Face) -> None:
    canvas.pair(canvas.box, 0.12, 0.365, 0.055, 0.014, face.hair)  # brows
    canvas.pair(canvas.ellipse, 0.12, 0.46, 0.062, 0.046, (255, 255, 255))
    canvas.pair(canvas.ellipse, 0.12, 0.46, 0.034, 0.040, face.eyes)
    canvas.ellipse(0.5, 0.56, 0.026, 0.034, _darker(face.skin))  # nose
    opening = 0.018 + 0.05 * face.smile
    canvas.chord(0.5, 0.645 - 0.3 * opening, 0.10, opening, (0, 180), MOUTH)
    if face.glasses:
        canvas.pair(canvas.ring, 0.12, 0.46, 0.088, 0.078, FRAME)
        canvas.box(0.5, 0.46, 0.035, 0.012, FRAME)


def _draw_hair_behind(canvas: "_Canvas", face: Face) -> None:
    if face.style == "long":
        canvas.ellipse(0.5, 0.46, face.width + 0.09, 0.38, face.hair)
        canvas.box(0.5, 0.66, face.width + 0.09, 0.20, face.hair)
    elif face.style == "curls":
        for x, y in ((0.24, 0.56), (0.19, 0.40), (0.24, 0.24), (0.36, 0.14)):
            canvas.pair(canvas.ellipse, 0.5 - x, y, 0.11, 0.11, face.hair)
        canvas.ellipse(0.5, 0.12, 0.12, 0.10, face.hair)
    elif face.style == "bun":
        canvas.ellipse(0.5, 0.10, 0.11, 0.10, face.hair)


def _draw_hair_in_front(canvas: "_Canvas", face: Face) -> None:
    if face.style == "bald":
        return
    low = {"short": 195, "fringe": 180, "long": 190, "bun": 205, "curls": 200}[face.style]
    canvas.chord(0.5, 0.44, face.width + 0.03, 0.32, (low, 540 - low), face.hair)
    if face.style == "fringe":
        canvas.box(0.5, 0.30, face.width - 0.02, 0.05, face.hair)


class _Canvas:
    """Shapes given by their centre and half-axes, in fractions of the picture's side."""

    def __init__(self, size: int, background: Color) -> None:
        self.image = Image.new("RGB", (size, size), background)
        self.size = size
        self.pen = ImageDraw.Draw(self.image)

    def ellipse(self, x: float, y: float, half_x: float, half_y: float, color: Color) -> None:
        self.pen.ellipse(self._bounds(x, y, half_x, half_y), fill=color)

    def box(self, x: float, y: float, half_x: float, half_y: float, color: Color) -> None:
        self.pen.rectangle(self._bounds(x, y, half_x, half_y), fill=color)

    def ring(self, x: float, y: float, half_x: float, half_y: float, color: Color) -> None:
        bounds = self._bounds(x, y, half_x, half_y)
        self.pen.ellipse(bounds, outline=color, width=max(1, round(0.022 * self.size)))

    def chord(
        self, x: float, y: float, half_x: float, half_y: float, arc: tuple[int, int], color: Color
    ) -> None:
        """The part of an ellipse inside `arc`, in degrees clockwise from three o'clock."""
        self.pen.chord(self._bounds(x, y, half_x, half_y), *arc, fill=color)

    def pair(
        self, shape: Shape, offset: float, y: float, half_x: float, half_y: float, color: Color
    ) -> None:
        """The same shape to the left and to the right of the middle."""
        shape(0.5 - offset, y, half_x, half_y, color)
        shape(0.5 + offset, y, half_x, half_y, color)

    def _bounds(self, x: float, y: float, half_x: float, half_y: float) -> list[float]:
        corners = (x - half_x, y - half_y, x + half_x, y + half_y)
        return [round(corner * self.size) for corner in corners]


def _hue(hue: float, *, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _darker(color: Color) -> Color:
    red, green, blue = color
    return round(0.84 * red), round(0.78 * green), round(0.74 * blue)
