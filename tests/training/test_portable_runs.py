"""The promise: a run goes on wherever its images, or its folder, were moved to."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ganctl.cli.app import main
from ganctl.store import checkpoint, runs
from tests.training.test_resume import TINY, sections

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(photos: Path, trained: Callable[..., None]) -> Path:
    """A run of two steps in ./r."""
    trained("--data", str(photos), *TINY, "--steps", "2", "--run", "r")
    return Path("r")


def place_of(run: Path) -> str:
    """Where its newest checkpoint says that the images are."""
    _, metadata = checkpoint.read(runs.find(run).newest_checkpoint())
    return str(metadata["data"]["source"])


def test_moved_images_are_told_and_found_again_and_change_nothing(
    run: Path, photos: Path, capsys: Capture
) -> None:
    shutil.copytree(run, "same")
    assert main(["resume", "same", "--steps", "4"]) == 0
    moved = photos.rename(photos.with_name("moved photos"))
    capsys.readouterr()
    assert main(["resume", "r", "--steps", "4"]) == 4
    err = capsys.readouterr().err
    assert f"there are no images at {photos}, from where r takes them" in err
    assert "hint: if they were moved: ganctl resume r --data WHERE" in err
    assert main(["resume", "r", "--steps", "4", "--data", str(moved)]) == 0
    assert f"the same images, now taken from {moved}" in capsys.readouterr().err
    newest, expected = (runs.find(Path(name)).newest_checkpoint() for name in ("r", "same"))
    assert sections(newest) == sections(expected)
    assert main(["resume", "r", "--steps", "5"]) == 0  # it has remembered
    assert "now taken from" not in capsys.readouterr().err
    assert place_of(run) == str(moved)


def test_a_place_is_remembered_although_nothing_was_saved_since(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = photos.rename(photos.with_name("moved"))
    with monkeypatch.context() as patch:
        patch.setattr("ganctl.session.train", lambda *_: None)
        assert main(["resume", "r", "--steps", "3", "--data", str(moved)]) == 0
    assert place_of(run) == str(photos)
    assert main(["resume", "r", "--steps", "3"]) == 0


def test_images_may_be_packed_and_touched_and_named_by_a_relative_path(
    run: Path, photos: Path
) -> None:
    with zipfile.ZipFile("all.zip", "w") as archive:
        for path in photos.rglob("*.png"):
            archive.write(path, Path("photos") / path.relative_to(photos))
    shutil.rmtree(photos)
    assert main(["resume", "r", "--steps", "3", "--data", "all.zip"]) == 0
    assert place_of(run) == str(Path("all.zip").resolve())


def test_the_place_may_be_edited(run: Path, photos: Path, capsys: Capture) -> None:
    moved = photos.rename(photos.with_name("moved"))
    file = run / "config.yaml"
    file.write_text(file.read_text().replace(str(photos), str(moved)))
    assert main(["resume", "r", "--steps", "3"]) == 0
    assert f"the same images, now taken from {moved}" in capsys.readouterr().err
    assert place_of(run) == str(moved)


def test_other_images_are_refused_wherever_they_are(
    run: Path, photos: Path, capsys: Capture
) -> None:
    before = (run / "config.yaml").read_bytes()
    fewer = Path(shutil.copytree(photos, "fewer"))
    (fewer / "01.png").unlink()
    assert main(["resume", "r", "--steps", "3", "--data", "fewer"]) == 4
    expected = f"the images at {fewer.resolve()} are not those that r was trained on (11 now, 12"
    assert expected in capsys.readouterr().err
    assert main(["resume", "r", "--steps", "3", "--data", "faces"]) == 4
    assert (run / "config.yaml").read_bytes() == before


def test_classes_move_with_their_folders(clothes: Path) -> None:
    preset = ["--preset", "sngan-cifar10-cond", "--set", "optim.d_steps_per_g=1"]
    train = ["train", *preset, "--data", str(clothes), *TINY, "--steps", "1", "--run", "c"]
    assert main(train) == 0
    moved = clothes.rename(clothes.with_name("moved"))
    assert main(["resume", "c", "--steps", "2", "--data", str(moved)]) == 0
    (moved / "boot" / "00.png").rename(moved / "dress" / "00.png")
    assert main(["resume", "c", "--steps", "3"]) == 4


def test_a_run_that_was_moved_to_another_machine_resumes_and_samples(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All that is left of the first one is the copied folder, and the images somewhere else."""
    there = tmp_path / "there"
    shutil.copytree(run, there / "mine", symlinks=True)
    shutil.copytree(photos, there / "images")
    shutil.rmtree(photos)
    shutil.rmtree(run)
    monkeypatch.setenv("GANCTL_CACHE", str(there / "cache"))
    monkeypatch.chdir(there)
    assert main(["sample", "mine", "-n", "2"]) == 0
    assert main(["resume", "mine", "--data", "images", "--steps", "3"]) == 0
    assert main(["sample", "mine/ckpt.pt", "-n", "2", "--out", "x.png"]) == 0
    assert place_of(Path("mine")) == str(there / "images")
