"""Images from a checkpoint: the same seed is the same image, and each kind of output."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.cli.points import parse_numbers
from ganctl.errors import ConfigError
from ganctl.models import build_networks, swaps, winograd
from ganctl.runtime import random_stream
from ganctl.sampling import draw as drawing
from ganctl.sampling.draw import Batch, Point
from ganctl.sampling.pictures import enlarged, grid, to_uint8
from ganctl.settings.config import Config
from ganctl.training import ema, state

CPU = torch.device("cpu")
Draw = Callable[..., np.ndarray]


@pytest.fixture
def draw(tiny: Callable[..., Config]) -> Draw:
    config = tiny(model__width=16)
    generator, _ = build_networks(config.model, config.data, random_stream(1, "init"))
    generator.train()(torch.randn(64, 8))  # batch-norm statistics that are not the initial ones

    def images(
        seeds: Sequence[int], batch_size: int = 8, truncation: float | None = None
    ) -> np.ndarray:
        copy = ema.average_of(generator)
        points = [Point(seed) for seed in seeds]
        batches = drawing.draw(
            copy, points, batch_size=batch_size, truncation=truncation, device=CPU
        )
        return np.concatenate([image for _, image in batches])

    return images


def test_a_seed_gives_the_same_bits_at_any_position_and_number(draw: Draw) -> None:
    all_of_them = draw(range(20))
    assert np.array_equal(draw(range(5)), all_of_them[:5])
    assert np.array_equal(draw([13]), all_of_them[13:14])
    assert np.array_equal(draw([7, 19, 3]), all_of_them[[7, 19, 3]])
    assert len({image.tobytes() for image in all_of_them}) == 20


def test_winograds_convolution_moves_no_pixel_by_more_than_one_level(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = draw(range(8)).astype(int)
    convolved = []
    original = winograd.convolve

    def record(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        convolved.append(weight.shape)
        return original(x, weight, bias)

    monkeypatch.setattr(winograd, "WORTH", 0)
    monkeypatch.setattr(winograd, "convolve", record)
    monkeypatch.setattr(swaps, "winograd_pays", lambda: True)
    assert np.abs(draw(range(8)).astype(int) - plain).max() <= 1
    assert convolved


def test_every_process_draws_with_what_the_first_one_chose(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another kind of processor this one would choose otherwise, and its images have other bits.

    The first process's word is stood in for.
    """
    told = ["plain", "chunked", "own backward"]
    used = []
    monkeypatch.setattr(drawing, "first_does", lambda task: told)
    monkeypatch.setattr(swaps, "apply", lambda chosen, network: used.append(chosen))
    draw(range(2))
    assert used == [swaps.Swaps(*told)]


def test_every_batch_has_the_same_shape(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels chosen by shape could give other bits for a shorter last batch."""
    seen = []
    original = drawing.latents

    def record(latent_dim: int, seeds: Sequence[int], truncation: float | None) -> torch.Tensor:
        seen.append(len(seeds))
        return original(latent_dim, seeds, truncation)

    monkeypatch.setattr(drawing, "latents", record)
    assert len(draw(range(20), 8)) == 20
    assert seen == [8, 8, 8]


def test_another_batch_size_moves_no_pixel_by_more_than_one_level(draw: Draw) -> None:
    reference = draw(range(20)).astype(int)
    for batch_size in (1, 3, 64):
        assert np.abs(draw(range(20), batch_size) - reference).max() <= 1


def test_drawing_equals_the_generators_own_forward(tiny: Callable[..., Config]) -> None:
    config = tiny()
    generator, _ = build_networks(config.model, config.data, random_stream(1, "init"))
    z = drawing.latents(8, range(4), None)
    with torch.no_grad():
        expected = to_uint8(generator.eval()(z))
    copy = ema.average_of(generator)
    points = [Point(seed) for seed in range(4)]
    ((drawn, images),) = drawing.draw(copy, points, batch_size=4, device=CPU)
    assert drawn == points
    assert np.abs(images.astype(int) - expected).max() <= 1


def test_truncated_latents_follow_the_cut_off_normal_distribution() -> None:
    z = drawing.latents(2000, range(20), None)
    cut = drawing.latents(2000, range(20), 0.7)
    assert cut.abs().max() <= 0.7
    assert torch.equal(z.sign(), cut.sign())
    # the variance of a normal distribution cut off at T: 1 - 2 T phi(T) / (2 Phi(T) - 1)
    assert cut.var().item() == pytest.approx(1 - 1.4 * 0.312254 / 0.516073, abs=2e-3)
    torch.testing.assert_close(drawing.latents(2000, range(20), 10.0), z, atol=1e-4, rtol=0)


def test_every_kind_of_output_holds_the_same_images(draw: Draw, tmp_path: Path) -> None:
    images = draw(range(10))
    points = [Point(seed) for seed in range(10)]
    batches = [Batch(points[:8], images[:8]), Batch(points[8:], images[8:])]
    for name in ("x.png", "x.jpg", "x.npz", "x.zip", "x"):
        drawing.write(batches, 10, tmp_path / name, None)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["images"], images)
        assert np.array_equal(arrays["seeds"], np.arange(10))
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        zipped = [np.asarray(Image.open(archive.open(name))) for name in sorted(archive.namelist())]
    assert np.array_equal(np.stack(zipped), images)
    loose = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "x").iterdir())]
    assert np.array_equal(np.stack(loose), images)
    large, lossy = (np.asarray(Image.open(tmp_path / f"x.{kind}")) for kind in ("png", "jpg"))
    assert np.array_equal(large, enlarged(grid(images), 4))
    assert np.array_equal(large[::4, ::4], grid(images))
    assert lossy.shape == large.shape
    assert np.abs(lossy.astype(int) - large).mean() < 3
    assert not list(tmp_path.glob(".ganctl-*"))


def test_an_interrupted_file_is_absent_and_of_a_folder_it_is_said(
    draw: Draw, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = draw(range(8))

    def broken() -> object:
        yield Batch([Point(seed) for seed in range(8)], images)
        raise KeyboardInterrupt

    for name in ("x.npz", "x.zip", "x.png"):
        with pytest.raises(KeyboardInterrupt):
            drawing.write(broken(), 16, tmp_path / name, None)  # type: ignore[arg-type]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("x", ".tmp"))]
    assert not caplog.messages
    with pytest.raises(KeyboardInterrupt):
        drawing.write(broken(), 16, tmp_path / "x", None)  # type: ignore[arg-type]
    assert caplog.messages == [f"{tmp_path / 'x'} has only 8 of 16 images"]


def test_grids_go_row_by_row() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert grid(images)[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 255]]


def test_the_ends_of_the_range_are_black_and_white() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_uint8(images)[0, :, :, 0].tolist() == [[0, 128], [255, 255]]


def test_lists_of_seeds() -> None:
    assert parse_numbers("3,5,8-10", "--seeds") == [3, 5, 8, 9, 10]
    for wrong in ("", "a", "3-", "-1", "1,,2", "0-99999999999"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_numbers(wrong, "--seeds")


def test_names_and_numbers_that_cannot_be_written_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot write images to a \.tif file"):
        drawing.check_out(Path("x.tif"), 1)
    with pytest.raises(ConfigError, match=r"x\.gif would be an animation"):
        drawing.check_out(Path("x.gif"), 1)
    with pytest.raises(ConfigError, match=r"x\.mp4 would be an animation"):
        drawing.check_out(Path("x.mp4"), 1)
    with pytest.raises(ConfigError, match="too many for one picture"):
        drawing.check_out(Path("x.png"), 5000)


def test_networks_load_on_their_own(tiny: Callable[..., Config], tmp_path: Path) -> None:
    from ganctl.store import checkpoint, contents

    config = tiny()
    trained = state.create(config, CPU)
    path = tmp_path / "a.pt"
    data = {"source": "faces", "n": 1, "fingerprint": "c"}
    checkpoint.write(
        path,
        trained.payload(),
        {"run": {"id": "a", "name": "b"}, **state.describe(trained, config, CPU, data)},
    )
    networks, saved = contents.load_networks(path)
    assert (saved.config, saved.step) == (config, 0)
    for name in contents.KINDS:
        network, own = getattr(networks, name), getattr(trained, name).state_dict()
        assert all(torch.equal(value, own[key]) for key, value in network.state_dict().items())
        assert not network.training
