"""Where a new run cannot be is told before its images are prepared."""

from pathlib import Path

import pytest

from ganctl import session
from ganctl.cli.app import main
from ganctl.errors import StorageError
from ganctl.store import free_place


@pytest.mark.parametrize("folder", ["/proc/nope", "/proc/nope/below", "file/run"])
def test_images_are_not_prepared_for_a_run_that_cannot_be_written(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    monkeypatch.setattr(session, "open_images", lambda *_: pytest.fail("images were prepared"))
    assert main(["train", "--run", folder]) == 5
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot write to {folder}: ")
    assert said.endswith("hint: --run DIR chooses another place\n")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has /proc")
def test_the_default_place_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    with pytest.raises(StorageError, match="cannot write to runs: "):
        free_place.check_writable(Path("runs"))


def test_nothing_of_the_trial_stays() -> None:
    free_place.check_writable(Path("runs/a"))
    assert not list(Path().iterdir())
    Path("runs").mkdir()
    free_place.check_writable(Path("runs"))
    assert not list(Path("runs").iterdir())
