"""What is odd at the start of a run is told in one line each, and nothing is told otherwise."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Silent
from PIL import Image

from ganctl import session
from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.data.sources import FolderSource, open_source
from ganctl.errors import DataError
from ganctl.settings.config import Config
from ganctl.training import oddities
from tests.cli.test_cli import TINY

Configs = Callable[..., Config]


def test_fewer_images_than_a_batch(tiny: Configs) -> None:
    (line,) = oddities.few(3, tiny(optim__batch_size=4))
    assert line.startswith("3 images are fewer than a batch of 4")
    assert not list(oddities.few(4, tiny(optim__batch_size=4)))


def test_images_smaller_than_the_crop_or_the_resolution(tiny: Configs, tmp_path: Path) -> None:
    for number, side in enumerate((40, 40, 40, 24)):
        draw_face(number, side).save(tmp_path / f"{number}.png")
    source = FolderSource(tmp_path)
    (line,) = oddities.sizes(source, tiny(data__crop=30))
    assert line.startswith("data.crop is 30, but 25% of the images are smaller, for example 3.png")
    (line,) = oddities.sizes(source, tiny())
    assert line.startswith(
        "25% of the images have less than 32 pixels on a side, for example 3.png"
    )
    (line,) = oddities.sizes(source, tiny(data__crop=20))  # none is below the crop, one below 32
    assert line.startswith("25% of the images have less than 32 pixels")
    (tmp_path / "3.png").write_bytes(b"damaged")
    assert not list(oddities.sizes(source, tiny(data__crop=40)))


def test_pictures_of_other_kinds_are_named(tmp_path: Path) -> None:
    """A telephone's are HEIC: a folder of both would be trained on a part of them."""
    draw_face(0, 32).save(tmp_path / "a.png")
    assert not list(oddities.other_pictures(FolderSource(tmp_path)))
    for name in ("b.HEIC", "c.heic", "d.tiff", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with zipfile.ZipFile("x.zip", "w") as archive:
        for path in sorted(tmp_path.iterdir()):
            archive.write(path, path.name)
    for source in (FolderSource(tmp_path), open_source("x.zip", 32)):
        (line,) = oddities.other_pictures(source)
        assert line.startswith("2 .heic and 1 .tiff files are not used, only 1 others: convert")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"found 2 x \.heic") as caught:
        FolderSource(tmp_path)
    assert caught.value.hint == "convert the .heic and .tiff files to PNG or JPEG"


def test_images_of_which_a_crop_keeps_little(tiny: Configs, tmp_path: Path) -> None:
    """CelebA's crop on photographs of a camera."""
    for number in range(3):
        Image.new("RGB", (600, 400 + 100 * number)).save(tmp_path / f"{number}.png")
    source = FolderSource(tmp_path)
    (line,) = oddities.sizes(source, tiny(data__crop=178))
    assert line == (
        "data.crop is 178: of images with 500 pixels on a side only the middle 178 x 178 are used;"
        " --set data.crop=null takes the largest square"
    )
    assert not list(oddities.sizes(source, tiny(data__crop=250)))
    assert not list(oddities.sizes(source, tiny()))


def test_images_that_are_all_alike(faces: np.ndarray) -> None:
    one = faces[:1].repeat(9, axis=0)
    one[3] = np.clip(one[3].astype(int) + 1, 0, 255)
    (line,) = oddities.alike(one)
    assert line.startswith("the images are nearly the same: they differ by 0.3 of 255 grey levels")
    assert not list(oddities.alike(faces))
    assert not list(oddities.alike(faces[:1]))


def test_an_image_that_is_seen_a_hundred_times_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """100 images at 10 images/s: each 360 times an hour; said once."""
    assert oddities.seen_often(10, 361, True) is None
    word = oddities.seen_often(10, 60, False)  # adaptive augmentation would be refused
    assert word is not None and word.endswith(" --set augment.probability=0.8")
    watcher = oddities.SaysHowOften(Silent(), 100, True)
    for step in (1, 2):
        watcher.stepped(step)
        watcher.measured({"step": step, "images_per_second": 10.0})
        watcher.saved(step, "x.pt")
    (line,) = caplog.messages
    assert line.startswith("each of the 100 images is seen 360 times an hour")
    assert line.endswith("or --set 'augment.policy=[colour,translation,cutout]'")


def test_oddities_are_told_when_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (100, 100, 100 + number)).save(tmp_path / f"same/{number}.png")
    options = ["train", "--data", str(tmp_path / "same"), *TINY, "--set", "data.crop=30"]
    assert main(options) == 0
    err = capsys.readouterr().err
    for word in ("fewer than a batch", "data.crop is 30", "nearly the same", "times an hour"):
        assert sum(word in line and line.startswith("warning: ") for line in err.splitlines()) == 1


def test_the_built_in_faces_are_not_odd(tiny: Configs) -> None:
    assert not list(oddities.sizes(open_source("faces", 32), tiny()))


def test_an_augmented_run_is_not_told_to_augment(
    tiny: Callable[..., Config],
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(oddities, "OFTEN", 0)
    for name, policy in (("plain", []), ("augmented", ["cutout"])):
        config = tiny(
            data__source=str(photos),
            train__steps=1,
            train__log_every=1,
            augment__policy=policy,
            augment__probability=0.5,
        )
        begun, run = session.start(config, "cpu", Path(name), "x")
        caplog.clear()
        session.train_run(begun, run, Silent())
        assert ("times an hour" in caplog.text) == (name == "plain")
