"""The picture of attention: its size, its marks, and that image and map can both be read."""

import io

import numpy as np
import pytest
from PIL import Image

from ganctl.cli.inspect_attention import MAX_QUERIES
from ganctl.insight import attention_sheet as sheet
from ganctl.insight.attention_maps import Figures, Glance, Query, Report
from ganctl.insight.attention_sheet import attention_sheet, overlay
from ganctl.sampling.pictures import png

FIGURES = Figures(
    network="g", block="blocks.1", data="generated", images=2, gamma=0.1, queries=64, keys=16, entropy=2.0,
    entropy_share=0.72, effective_positions=7.4, distance=9.0, uniform_distance=16.6, image_change=1.5, image_change_uniform=0.5,
    score=None, score_shift=None, score_change=None, score_change_uniform=None, score_spread=None,
)  # fmt: skip
QUERIES = [Query(4, 6), Query(20, 25), Query(31, 0)]
LEFT, TOP = sheet.MARGIN + sheet.LABELS, sheet.MARGIN + sheet.HEADING + sheet.LEGEND + sheet.HEADER


def glance(resolution: int = 32, network: str = "g", change: float = 2.0) -> Glance:
    image = np.full((resolution, resolution, 3), 128, np.uint8)
    maps = np.full((len(QUERIES), 4, 4), 1 / 16, np.float32)
    if network == "d":
        return Glance(image, QUERIES, maps, scores=(1.0, -0.5))
    changes = np.full((resolution, resolution), change, np.float32)
    return Glance(image, QUERIES, maps, without=image, change=changes)


def drawn(glances: list[Glance], names: list[str] | None = None) -> np.ndarray:
    return attention_sheet(
        [Report(FIGURES, glances)], [names or ["seed 0", "seed 1"][: len(glances)]]
    )


@pytest.mark.parametrize(("resolution", "side"), [(32, 160), (64, 192), (128, 256), (256, 256)])
def test_the_picture_has_a_section_a_block_a_row_an_image_a_column_a_query(
    resolution: int, side: int
) -> None:
    g = Report(FIGURES, [glance(resolution)] * 2)
    d = Report(FIGURES, [glance(resolution, "d")])
    picture = attention_sheet([g, d], [["seed 0", "seed 1"], ["real 1\ndress"]])
    width = sheet.MARGIN + sheet.LABELS + 6 * side + 5 * sheet.GAP + sheet.MARGIN
    heights = [TOP + rows * (side + sheet.CAPTION) for rows in (2, 1)]
    assert picture.shape == (sum(heights) + sheet.MARGIN, width, 3)
    assert Image.open(io.BytesIO(png(picture))).size == (width, picture.shape[0])


def test_marks_stand_at_the_queries_on_the_image_and_on_their_maps() -> None:
    picture = drawn([glance()])
    for number, (x, y) in enumerate(QUERIES):
        for column in (0, 3 + number):
            left = LEFT + column * (160 + sheet.GAP)
            tile = picture[TOP : TOP + 160, left : left + 160].astype(int)
            near = abs(tile - sheet.MARKS[number]).max(-1) <= 40
            rows, columns = np.nonzero(near)
            assert len(rows) > 20
            # a mark is moved by half its size at most, to stay inside of the image
            assert abs(rows.mean() - (5 * y + 2.5)) <= sheet.MARK / 2
            assert abs(columns.mean() - (5 * x + 2.5)) <= sheet.MARK / 2


def test_each_row_is_an_image() -> None:
    first, second = glance(), glance()
    second.image[:] = 40
    picture = drawn([first, second])
    for row, level in enumerate((128, 40)):
        top = TOP + row * (160 + sheet.CAPTION)
        tile = picture[top : top + 160, LEFT : LEFT + 160]
        assert (tile == level).all(-1).mean() > 0.9  # the rest is marks


def test_a_map_can_be_read_in_its_overlay() -> None:
    weights = np.full((4, 4), 0.01, np.float32)
    weights[1, 2] = 0.85
    bright = np.asarray(
        overlay(np.full((32, 32, 3), 200, np.uint8), weights, 160, 0.85).convert("L")
    )
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert (row // 40, column // 40) == (1, 2)
    assert bright.max() > 3 * bright[-1, 0]


@pytest.mark.parametrize("weight", [1 / 16, 1e-6])
def test_an_image_can_be_read_in_its_overlay(weight: float) -> None:
    """Where the map is largest, and where it is nearly nothing."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    weights = np.full((4, 4), weight, np.float32)
    weights[0, 0] = 1 / 16
    grey = np.asarray(overlay(image, weights, 160, 1 / 16).convert("L"), float)
    assert grey[150, 150] > 1.5 * grey[150, 10]


def test_changes_are_multiplied_by_a_power_of_two_that_makes_them_visible() -> None:
    for change, factor in ((2.0, 64), (0.0, 1), (255.0, 1), (1e-3, 2**17)):
        picture = drawn([glance(change=change)])
        tile = picture[TOP : TOP + 160, LEFT + 2 * (160 + sheet.GAP) :][:, :160]
        assert (tile == round(factor * change)).all()


def test_a_strange_name_of_a_class_stays_beside_its_row() -> None:
    plain = drawn([glance()], ["seed 0\ndress"])
    strange = drawn([glance()], ["seed 0\n" + "\x1b[31m\u202e\t" + "W" * 500])
    assert strange.shape == plain.shape
    assert np.array_equal(strange[:, LEFT - sheet.GAP :], plain[:, LEFT - sheet.GAP :])
    assert not np.array_equal(strange, plain)


def test_there_are_marks_for_all_queries_that_the_command_takes() -> None:
    assert len(set(sheet.MARKS)) == MAX_QUERIES
