"""A run's folder from a stranger, or one that changes under way: nothing outside of it is touched."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Silent, inputs_of

from ganctl.cli.app import main
from ganctl.errors import CheckpointError, StorageError
from ganctl.settings.config import Config
from ganctl.store import durable, runs
from ganctl.store.runs import Run
from ganctl.training import loop, state
from ganctl.training.stopping import StopRequest
from tests.cli.test_cli import TINY

Capture = pytest.CaptureFixture[str]
TEXT = "not ganctl's\n" * 9


@pytest.fixture
def run(photos: Path, trained: Callable[..., None]) -> Path:
    """A tiny run in ./run, finished at step 2."""
    log = ["--set", "train.log_every=1", "--steps", "2"]
    trained("--data", str(photos), *TINY, *log, "--run", "run")
    return Path("run")


def replaced(path: Path, kind: str) -> Path:
    """Put something else in the place of `path`; the file that must not change."""
    victim = Path("victim").resolve()
    victim.write_text(TEXT)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim)
    return victim


FILES = [
    "LOCK",
    "metrics.jsonl",
    "history.jsonl",
    "status.json",
    "config.yaml",
    "run.json",
    "ckpt.pt",
]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", FILES)
def test_no_link_is_followed_and_no_pipe_waited_for(
    run: Path, capsys: Capture, name: str, kind: str
) -> None:
    """Every file that a run's folder holds; what resuming needs not costs it nothing."""
    victim = replaced(run / name, kind)
    code = main(["resume", "run", "--steps", "3"])
    said = capsys.readouterr().err
    assert victim.read_text() == TEXT
    assert "Traceback" not in said
    assert "a fault in ganctl" not in said
    if name in ("metrics.jsonl", "history.jsonl", "status.json", "ckpt.pt"):
        assert code == 0, said
    else:
        assert code == {"LOCK": 5, "config.yaml": 2, "run.json": 3}[name], said
        assert name in said


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard"])
def test_no_folder_in_a_runs_folder_is_a_link(run: Path, capsys: Capture, name: str) -> None:
    elsewhere = Path("elsewhere").resolve()
    (run / name).rename(elsewhere) if (run / name).exists() else elsewhere.mkdir()
    (elsewhere / "000000003.png").write_text(TEXT)
    (run / name).symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    if name == "tensorboard":
        pytest.importorskip("tensorboard")
    assert (
        main(["resume", "run", "--steps", "3", *["--tensorboard"] * (name == "tensorboard")]) == 5
    )
    assert f"error: cannot write to run/{name}: it is a link" in capsys.readouterr().err
    assert sorted(elsewhere.iterdir()) == before
    assert (elsewhere / "000000003.png").read_text() == TEXT


def test_a_run_that_is_a_link_as_a_whole_goes_on(run: Path) -> None:
    run.rename("elsewhere")
    run.symlink_to("elsewhere")
    assert main(["resume", "run", "--steps", "3"]) == 0


def test_what_lock_says_may_be_anything(run: Path, capsys: Capture) -> None:
    (run / "LOCK").write_bytes(b"\xff\x1b[31m" * 1000)
    held = os.open(run / "LOCK", os.O_RDWR)
    child = os.fork()
    if child == 0:  # a lock is of a process, and nobody locks himself out
        import fcntl

        fcntl.lockf(held, fcntl.LOCK_EX)
        (run / "locked").touch()
        os.read(os.open("/dev/zero", os.O_RDONLY), 1)
        while True:
            os.sched_yield()
    try:
        while not (run / "locked").exists():
            os.sched_yield()
        assert main(["resume", "run"]) == 6
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert len(said) < 1000


IDENTITIES = {
    "an endless order": '{"id": "x", "order": 1e999}', "an order that is no number": '{"id": "x", "order": "1"}',
    "a negative order": '{"id": "x", "order": -1}', "a huge order": '{"id": "x", "order": 1' + "0" * 4000 + "}",
    "deep": "[" * 100_000, "an id that climbs": '{"id": "../../x", "order": 1}', "an id that is a list": '{"id": [], "order": 1}',
    "large": '{"id": "x", "order": 1}' + " " * 100_000, "no JSON": "\xff",
}  # fmt: skip


@pytest.mark.parametrize("kind", IDENTITIES)
def test_a_run_json_that_makes_no_sense_hides_no_other_run(
    photos: Path, capsys: Capture, kind: str
) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--steps", "1"]) == 0
    (Path("runs") / "a").mkdir()
    (Path("runs") / "a" / "run.json").write_text(IDENTITIES[kind], encoding="latin-1")
    capsys.readouterr()
    assert main(["resume"]) == 0
    said = capsys.readouterr().err
    assert "warning: skipped: runs/a/run.json" in said
    assert "is finished at step 1" in said
    assert main(["resume", "runs/a"]) == 3
    assert main(["train", "--data", str(photos), *TINY, "--steps", "1"]) == 0


ROWS = ['{"step": 1, "alarms": 5, "gamma": 7}', "[" * 100_000, '{"step": 1e999}', '{"step": 1, "d_loss": ' + "9" * 4000 + "}",
        '{"step": -1}', '{"step": 2, "alarms": [[]], "gamma": {"a": {"b": 1}}, "d_loss": [1], "real_spread": "x"}',
        '"step"', "7", "null", '{"step": null}']  # fmt: skip


def test_rows_that_make_no_sense_stop_neither_a_run_nor_its_plot(
    run: Path, capsys: Capture
) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n".join([*ROWS, ""]))
    assert main(["plot", "run", "--out", "x.png"]) == 0
    assert main(["resume", "run", "--steps", "3"]) == 0
    assert [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()][
        -1
    ] == 3


def training(
    config: Config, faces: np.ndarray
) -> tuple[Run, Callable[[Callable[[int], None]], None]]:
    """A run, and what trains it and tells the step before each is done."""
    made = runs.create(Path("run"), "x", config)

    class Telling(Silent):
        def __init__(self, tell: Callable[[int], None]) -> None:
            self.stepped = tell  # type: ignore[method-assign]

    def go(tell: Callable[[int], None]) -> None:
        current = state.create(config, torch.device("cpu"))
        loop.train(
            current, inputs_of(faces, config), config, made, {}, Telling(tell), StopRequest()
        )

    return made, go


def test_a_folder_that_became_another_runs_is_not_written_to(
    tiny: Callable[..., Config], faces: np.ndarray, capsys: Capture
) -> None:
    """While a run is trained its folder is moved away, and another run put there, or a copy of its parts."""
    _, go = training(tiny(train__steps=8, train__log_every=1, train__preview_every=1), faces)
    other = runs.create(Path("other"), "x", tiny())
    other.save(4, {"step": 4}, {"step": 4}, keep=9)
    other.save(2, {"step": 2}, {"step": 2}, keep=9)

    def before() -> dict[str, bytes]:
        files = sorted((*Path("other").rglob("*"), *Path("run").rglob("*")))
        return {
            path.name: path.read_bytes()
            for path in files
            if path.is_file() and "ckpt" not in path.name
        }

    kept: dict[str, bytes] = {}

    def swap(step: int) -> None:
        if step == 3:
            Path("run").rename("moved")
            kept.update(before())
            Path("other").rename("run")

    with pytest.raises(StorageError, match="run is not the folder of this run any more; "):
        go(swap)
    assert before() == kept


def test_a_link_that_comes_under_way_is_not_followed(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    made, go = training(tiny(train__steps=4, train__log_every=1, train__preview_every=1), faces)
    Path("elsewhere").mkdir()

    def swap(step: int) -> None:
        if step == 1:
            made.samples.rmdir()
            made.samples.symlink_to(Path("elsewhere").resolve())

    with pytest.raises(StorageError, match="samples: it is a link"):
        go(swap)
    assert not list(Path("elsewhere").iterdir())


def test_a_file_that_is_no_regular_one_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes(9))
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "link", "loop"):
        with pytest.raises(OSError, match=r"not a regular file|it is a link"):
            durable.appended(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        durable.appended(tmp_path)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            durable.read_bytes(path, 100)
    assert durable.read_bytes(tmp_path / "link", 9) == bytes(9)
    with pytest.raises(OSError, match="more than 8 bytes"):
        durable.read_bytes(tmp_path / "link", 8)


def test_an_identity_that_cannot_be_read_says_why(run: Path) -> None:
    (run / "run.json").unlink()
    (run / "run.json").mkdir()
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read: Is a directory"):
        runs.find(run)
