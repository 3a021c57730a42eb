"""The picture that shows what attention blocks look at: a section a block, a row an image."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganctl.insight.attention_maps import Figures, Glance, Query, Report

TILE = 160  # pixels: an image is enlarged by a whole factor, to this or more
MARGIN, GAP = 16, 8
LABELS = 92  # width of the column that names the rows
# Heights: of a section's title, of its legend, of its columns' titles, and below tiles.
HEADING, LEGEND, HEADER, CAPTION = 28, 26, 24, 20
TITLE_SIZE, TEXT_SIZE = 16, 13  # of letters
MARK = 15  # diameter of a query's mark
RAMP_WIDTH, RAMP_HEIGHT = 160, 11  # of the legend
AUTOMATIC_NAMES = {0: ": most focused", 1: ": typical"}  # of queries that nobody named
SMOOTH = 4  # marks are drawn so many times larger, then reduced

INK, FAINT, PAPER = (24, 24, 28), (110, 110, 118), (255, 255, 255)
# Okabe and Ito's colours, which the colour-blind can tell apart.
MARKS = [
    (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167),
    (86, 180, 233), (230, 159, 0), (120, 94, 240), (90, 90, 90),
]  # fmt: skip
MAX_QUERIES = len(MARKS)
RAMP = np.array(  # what a weight from 0 to the map's largest looks like on white
    [(40, 42, 88), (122, 44, 122), (226, 84, 70), (252, 166, 60), (255, 243, 150)], np.float32
)


def attention_sheet(reports: Sequence[Report], labels: Sequence[Sequence[str]]) -> np.ndarray:
    """(H, W, 3) uint8: the sections of `reports` from top to bottom.

    labels: for each report the names of its images, a line break between name and class.
    """
    sections = [_section(report, names) for report, names in zip(reports, labels, strict=True)]
    width = max(section.width for section in sections)
    height = sum(section.height for section in sections) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    top = 0
    for section in sections:
        sheet.paste(section, (0, top))
        top += section.height
    return np.asarray(sheet)


def overlay(image: np.ndarray, weights: np.ndarray, side: int, largest: float) -> Image.Image:
    """The image in grey, coloured by a map (m, m) that is up-sampled to side x side pixels.

    `largest` is the weight that has the last colour. Colours go with a weight's square root, so
    that maps whose largest weights differ tenfold can be read beside each other.
    """
    grey = np.asarray(_enlarged(image, side).convert("L"), np.float32)[:, :, None] / 255
    heat = Image.fromarray((weights / largest).astype(np.float32))
    heat = heat.resize((side, side), Image.Resampling.BILINEAR)
    colour = _colours(np.sqrt(np.asarray(heat, np.float32).clip(0, 1)))
    return Image.fromarray(((0.3 + 0.7 * grey) * colour).round().astype(np.uint8))


def _colours(levels: np.ndarray) -> np.ndarray:
    """(...) from 0 to 1 -> (..., 3): colours of the ramp."""
    stops = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(levels, stops, channel) for channel in RAMP.T], axis=-1)


def _section(report: Report, names: Sequence[str]) -> Image.Image:
    """One block: title, names of the columns, and a row for each image."""
    glances = report.glances
    largest = max(float(weights.max()) for glance in glances for weights in glance.maps)
    rows = [_tiles(glance, _factor(glances), largest) for glance in glances]
    captions = [_captions(glance) for glance in glances]
    side = rows[0][0].width
    width = 2 * MARGIN + LABELS + len(rows[0]) * (side + GAP) - GAP
    height = MARGIN + HEADING + LEGEND + HEADER + len(rows) * (side + CAPTION)
    section = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(section)
    draw.text((MARGIN, MARGIN), _title(report.figures), INK, _font(TITLE_SIZE))
    _legend(section, MARGIN + HEADING, largest * report.figures.keys)
    lefts = [MARGIN + LABELS + column * (side + GAP) for column in range(len(rows[0]))]
    top = MARGIN + HEADING + LEGEND
    for left, header in zip(lefts, _headers(glances), strict=True):
        if isinstance(header, int):
            _mark(section, (left + MARK // 2, top + MARK // 2 + 1), header, filled=True)
            names_of = AUTOMATIC_NAMES if report.automatic else {}
            left, header = left + MARK + 5, f"looks at{names_of.get(header, '')}"
        draw.text((left, top), header, INK, _font(TEXT_SIZE))
    top += HEADER
    for name, tiles, texts in zip(names, rows, captions, strict=True):
        for number, line in enumerate(name.split("\n")):
            draw.text((MARGIN, top + 18 * number), _cut(line), INK, _font(TEXT_SIZE))
        for left, tile, text in zip(lefts, tiles, texts, strict=True):
            section.paste(tile, (left, top))
            draw.text((left, top + side + 2), text, FAINT, _font(TEXT_SIZE))
        top += side + CAPTION
    return section


def _legend(section: Image.Image, top: int, largest: float) -> None:
    """What the colours of all maps of the block mean."""
    draw = ImageDraw.Draw(section)
    ramp = _colours(np.linspace(0, 1, RAMP_WIDTH)).round().astype(np.uint8)
    bar = Image.fromarray(np.broadcast_to(ramp, (RAMP_HEIGHT, RAMP_WIDTH, 3)).copy())
    left = MARGIN + LABELS
    draw.text((left, top), "0", FAINT, _font(TEXT_SIZE))
    section.paste(bar, (left + 14, top + 3))
    at = left + 14 + round(RAMP_WIDTH / math.sqrt(max(1.0, largest)))  # where a uniform map is
    draw.line((at, top, at, top + RAMP_HEIGHT + 5), INK, 1)
    words = (
        f"{largest:.1f} times a uniform map's weight, which the line marks; the same for all maps"
    )
    draw.text((left + RAMP_WIDTH + 22, top), words, FAINT, _font(TEXT_SIZE))


def _title(figures: Figures) -> str:
    side = math.isqrt(figures.queries)
    return (
        f"{figures.network.upper()} {figures.block} at {side} x {side} on {figures.data} images:"
        f"  gamma {figures.gamma:+.3g},"
        f"  spread over {figures.effective_positions:.1f} of {figures.keys} positions,"
        f"  {figures.distance:.1f} px away (uniform: {figures.uniform_distance:.1f})"
    )


def _headers(glances: Sequence[Glance]) -> list[str | int]:
    """The names of the columns; a number for that query's."""
    first = glances[0]
    queries = range(len(first.queries))
    if first.change is None:
        return ["image, its score", *queries]
    return ["image", "gamma = 0", f"change x {_factor(glances)}", *queries]


def _tiles(glance: Glance, factor: int, largest: float) -> list[Image.Image]:
    side = len(glance.image) * -(-TILE // len(glance.image))
    image = _enlarged(glance.image, side)
    places = [_place(query, len(glance.image), side) for query in glance.queries]
    for number, place in enumerate(places):
        _mark(image, place, number, filled=True)
    tiles = [image]
    if glance.without is not None and glance.change is not None:
        visible = (factor * glance.change).round().clip(0, 255).astype(np.uint8)
        tiles += [_enlarged(glance.without, side), _enlarged(visible, side)]
    for number, (place, weights) in enumerate(zip(places, glance.maps, strict=True)):
        tiles.append(overlay(glance.image, weights, side, largest))
        _mark(tiles[-1], place, number, filled=False)
    return tiles


def _captions(glance: Glance) -> list[str]:
    """What stands below each tile."""
    peaks = [f"max {weights.max() * weights.size:.1f} x" for weights in glance.maps]
    if glance.change is not None:
        return ["", "", f"mean {glance.change.mean():.2g} of 255", *peaks]
    assert glance.scores is not None
    score, without = glance.scores
    return [f"{score:+.2f}, gamma = 0: {without:+.2f}", *peaks]


def _factor(glances: Sequence[Glance]) -> int:
    """The power of two by which changes are multiplied so that they can be seen."""
    changes = [glance.change for glance in glances if glance.change is not None]
    large = float(np.quantile(changes, 0.995)) if changes else 0.0
    factor = 1
    while 0 < 2 * factor * large <= 255:
        factor *= 2
    return factor


def _enlarged(image: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)


def _place(query: Query, resolution: int, side: int) -> tuple[int, int]:
    """The middle of the query's pixel in an enlarged image."""
    scale = side // resolution
    return query.x * scale + scale // 2, query.y * scale + scale // 2


def _mark(image: Image.Image, centre: tuple[int, int], number: int, *, filled: bool) -> None:
    """Draw a query's mark: a numbered disc, or a ring that shows what is below it."""
    size = MARK * SMOOTH
    mark = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(mark)
    colour = MARKS[number]
    box = (0, 0, size - 1, size - 1)
    if filled:
        draw.ellipse(box, colour, PAPER, SMOOTH)
        middle = (size / 2, size / 2)
        draw.text(middle, str(number + 1), PAPER, _font(11 * SMOOTH), anchor="mm")
    else:
        draw.ellipse(box, None, PAPER, 5 * SMOOTH)
        inner = (SMOOTH, SMOOTH, size - 1 - SMOOTH, size - 1 - SMOOTH)
        draw.ellipse(inner, None, colour, 3 * SMOOTH)
    mark = mark.resize((MARK, MARK), Image.Resampling.LANCZOS)
    limits = (image.width - MARK, image.height - MARK)  # at a border the whole mark stays visible
    left, top = (min(max(c - MARK // 2, 0), most) for c, most in zip(centre, limits, strict=True))
    image.paste(mark, (left, top), mark)


def _cut(text: str) -> str:
    """As much of `text` as fits beside a row."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    font = _font(TEXT_SIZE)
    if font.getlength(text) <= LABELS - GAP:
        return text
    while font.getlength(text + "...") > LABELS - GAP:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
