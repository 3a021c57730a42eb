"""The way from one image to the next: its ends, its course, and the files it goes to."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import N_CLASSES
from PIL import Image

from ganctl.errors import ConfigError
from ganctl.models import Generator, build_networks, swaps
from ganctl.runtime import random_stream
from ganctl.sampling import interpolate as interpolate_module
from ganctl.sampling.draw import Point, draw
from ganctl.sampling.interpolate import between, check_way, interpolate, write_way
from ganctl.sampling.pictures import grid
from ganctl.settings.config import Config

CPU = torch.device("cpu")


@pytest.fixture
def generator(tiny_resnet: Callable[..., Config]) -> Generator:
    """Conditional, its tables of each class set apart."""
    config = tiny_resnet()
    made, _ = build_networks(config.model, config.data, random_stream(1, "init"), N_CLASSES)
    torch.manual_seed(0)
    for module in made.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    return made.eval()


def test_the_arc_between_two_latents_by_hand() -> None:
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    way = between(start, end, torch.tensor([0.0, 1 / 3, 1.0]))
    expected = [[2, 0], [2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)], [0, 2]]
    torch.testing.assert_close(way, torch.tensor(expected))


def test_images_on_the_way_are_computed_with_what_pays_here(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, applied = swaps.Swaps(pooling=swaps.OWN_BACKWARD), []
    monkeypatch.setattr(swaps, "choose", lambda device, precision, network: chosen)
    monkeypatch.setattr(swaps, "apply", lambda given, network: applied.append(given))
    next(interpolate(generator, [Point(0, 1), Point(1, 2)], 2, device=CPU))
    assert applied == [chosen]


def test_latents_keep_their_length_on_the_way() -> None:
    torch.manual_seed(0)
    start, end = torch.randn(2, 128)
    lengths = between(start, end, torch.linspace(0, 1, 11)).norm(dim=1)
    low, high = sorted([start.norm().item(), end.norm().item()])
    assert lengths.min() > 0.98 * low
    assert lengths.max() < 1.02 * high
    assert (
        torch.lerp(start, end, 0.5).norm() < 0.9 * low
    )  # a straight line goes through shorter ones


def test_equal_and_opposite_latents_have_a_way_too() -> None:
    start = torch.ones(4)
    for end in (start, -start):
        way = between(start, end, torch.linspace(0, 1, 3))
        torch.testing.assert_close(way, torch.stack([start, (start + end) / 2, end]))


def test_each_row_starts_with_its_points_image_and_goes_towards_the_next(
    generator: Generator,
) -> None:
    points = [Point(3, 0), Point(8, 2), Point(5, 1)]
    rows = list(interpolate(generator, points, 4, device=CPU))
    ((_, images),) = draw(generator, points, batch_size=3, device=CPU)
    assert [row.shape for row in rows] == [(4, 32, 32, 3)] * 2
    for number, row in enumerate(rows):
        assert np.abs(row[0].astype(int) - images[number]).max() <= 1
    fine = list(interpolate(generator, points, 400, device=CPU))
    for number, row in enumerate(fine):
        assert np.abs(row[-1].astype(int) - images[number + 1]).mean() < 2


def test_half_way_between_two_classes_each_counts_half(generator: Generator) -> None:
    (row,) = interpolate(generator, [Point(3, 0), Point(3, 2)], 2, device=CPU)
    z = torch.randn(generator.latent_dim, generator=random_stream(3, "sample"))
    with torch.no_grad():
        expected = generator(z[None], torch.tensor([[0.5, 0.0, 0.5]]))
    levels = ((expected[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    assert np.abs(row[1] - levels).max() <= 1


def test_a_grid_has_one_row_a_pair_and_an_animation_one_frame_an_image(tmp_path: Path) -> None:
    rows = [np.full((5, 8, 8, 3), 40 * number, np.uint8) for number in (1, 2)]
    for level in range(5):
        rows[0][level] += 8 * level  # equal frames would be joined
        rows[1][level] += 8 * level
    for name in ("way.png", "way.webp", "way.gif"):
        write_way(rows, tmp_path / name)
    drawn = np.asarray(Image.open(tmp_path / "way.png"))
    assert np.array_equal(drawn[::13, ::13], grid(np.concatenate(rows), columns=5))
    for name in ("way.webp", "way.gif"):
        with Image.open(tmp_path / name) as film:
            assert (film.n_frames, film.info["loop"]) == (10, 0)  # type: ignore[attr-defined]
            assert film.size == (512, 512)
            film.seek(6)
            assert abs(int(np.asarray(film.convert("RGB"))[0, 0, 0]) - 88) <= 2
    assert not list(tmp_path.glob(".ganctl-*"))


def test_frames_are_enlarged_less_where_there_are_too_many(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpolate_module, "FRAMES_BYTES", 10 * 8 * 8 * 3 * 4)
        write_way([np.zeros((10, 8, 8, 3), np.uint8)], tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as film:
        assert film.size == (16, 16)
    write_way([np.zeros((10, 8, 8, 3), np.uint8)], tmp_path / "y.gif", scale=3)
    with Image.open(tmp_path / "y.gif") as film:
        assert film.size == (24, 24)


def test_a_film_has_all_frames_in_their_colours(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    levels = np.arange(10, dtype=np.uint8) * 20 + 30
    write_way([np.tile(levels[:, None, None, None], (1, 8, 8, 3))], tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 10
    assert frames[0].shape == (512, 512, 3)
    for frame, level in zip(frames, levels, strict=True):
        assert np.abs(frame.astype(int) - int(level)).max() <= 4
    assert not list(tmp_path.glob(".ganctl-*"))


def test_a_film_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="needs PyAV") as raised:
        check_way(Path("x.mp4"), 2, 8)
    assert raised.value.hint == "pip install av; .webp and .gif need nothing"


@pytest.mark.parametrize(
    ("out", "points", "steps", "message"),
    [
        ("x.png", 1, 8, "needs two seeds or more"),
        ("x.npz", 2, 8, "--interpolate cannot write x.npz"),
        ("x", 2, 8, "--interpolate cannot write x"),
        ("x.png", 6, 1000, "5,000 images are more than x.png can hold"),
        ("x.webp", 12, 1000, "11,000 images are more than x.webp can hold"),
    ],
)
def test_ways_that_cannot_be_written_are_refused(
    out: str, points: int, steps: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_way(Path(out), points, steps)
