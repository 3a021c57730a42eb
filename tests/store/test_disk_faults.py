"""Errors of the disk, at every call a save makes: nothing older is harmed, nothing is silent."""

import errno
import hashlib
import io
import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Silent, inputs_of

from ganctl.cli.app import main
from ganctl.errors import StorageError
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.store.runs import Run
from ganctl.training import state
from ganctl.training.loop import train
from ganctl.training.stopping import StopRequest

CPU = torch.device("cpu")
CALLS = [
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "unlink"),
    (os, "symlink"),
    (io, "open"),
]
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES]


def payload(step: int) -> dict[str, Any]:
    return {"generator": {"w": torch.full((3,), float(step))}, "step": step}


def digests(run: Run) -> dict[str, str]:
    files = run.checkpoints.glob("step-*.pt")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class FailingAt:
    """A call that fails with `number` the n-th time, and from then on if `for_good`."""

    def __init__(self, original: Callable[..., Any], nth: int, number: int, for_good: bool) -> None:
        self.original, self.nth, self.number, self.for_good = original, nth, number, for_good
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.nth or (self.for_good and self.calls > self.nth):
            raise OSError(self.number, os.strerror(self.number))
        return self.original(*arguments, **options)


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("owner", "name"), CALLS, ids=lambda value: str(getattr(value, "__name__", value))
)
def test_an_error_at_any_call_harms_nothing_older_and_is_said(
    tiny: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
    name: str,
    number: int,
    for_good: bool,
) -> None:
    run = runs.create(None, "x", tiny())
    for step in (1, 2):
        run.save(step, payload(step), {}, keep=2)
    for nth in range(1, 20):
        before = digests(run)
        failing = FailingAt(getattr(owner, name), nth, number, for_good)
        caplog.clear()
        said = None
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            try:
                run.save(2 + nth, payload(2 + nth), {}, keep=2)
                saved = True
            except StorageError as error:
                saved, said = False, error.message
        if failing.calls < nth:
            return  # the save makes no more such calls
        newest = run.newest_checkpoint()
        if saved:
            assert newest.name == f"step-{2 + nth:09}.pt"
            tidy = len(digests(run)) <= 2 and (run.folder / "ckpt.pt").resolve() == newest.resolve()
            assert tidy or "tidying up" in caplog.text or name == "open"
        else:
            assert os.strerror(number) in str(said)
            after = digests(run)
            assert {name: after.get(name) for name in before} == before
        run.sweep()
        assert not list(run.checkpoints.glob(".ganctl-*"))
    pytest.fail("it never ended")


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A disk without space while the list that it gives is not empty."""
    full: list[bool] = []
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    yield full


def start(config: Config, faces: np.ndarray) -> tuple[Run, Callable[[], None]]:
    run = runs.create(Path("run"), "x", config)
    current = state.create(config, CPU)
    return run, lambda: train(
        current, inputs_of(faces, config), config, run, {}, Silent(), StopRequest()
    )


def test_training_goes_on_when_a_save_fails_and_the_next_one_works(
    tiny: Callable[..., Config],
    faces: np.ndarray,
    no_space: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, go = start(tiny(train__steps=6, train__checkpoint_every=2), faces)
    no_space.append(True)
    write = checkpoint.write

    def write_and_free(path: Path, *rest: Any) -> None:
        if path.name == "step-000000006.pt":
            no_space.clear()
        write(path, *rest)

    monkeypatch.setattr(checkpoint, "write", write_and_free)
    go()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000006.pt"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert (
        "No space left on device; training goes on (tries left: 2); there is no checkpoint"
        in warnings[0]
    )
    assert "(tries left: 1)" in warnings[1]
    events = [
        json.loads(row)["event"] for row in (run.folder / "history.jsonl").read_text().splitlines()
    ]
    assert events == ["save failed", "save failed", "saved"]


@pytest.mark.parametrize(("steps", "expected"), [(40, 6), (4, 4)])
def test_the_third_failure_or_the_last_save_ends_the_run(
    tiny: Callable[..., Config], faces: np.ndarray, no_space: list[bool], steps: int, expected: int
) -> None:
    config = tiny(train__steps=steps, train__checkpoint_every=2, train__log_every=1)
    run, go = start(config, faces)
    no_space.append(True)
    with pytest.raises(StorageError, match="No space left on device; there is no checkpoint"):
        go()
    rows = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == expected


def test_a_save_that_does_not_fit_is_not_begun(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.create(None, "x", tiny())
    usage = checkpoint.shutil.disk_usage(".")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=11))
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("begun"))
    with pytest.raises(StorageError, match=r"could not save .* \(0.0 MB\): No space left"):
        run.save(1, payload(1), {}, keep=2)


def test_a_vanished_run_folder_ends_the_run_with_one_sentence(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, go = start(tiny(train__steps=100, train__checkpoint_every=2), faces)
    run.folder.rename("elsewhere")
    with pytest.raises(StorageError, match="No such file or directory"):
        go()
    assert not run.folder.exists()


def test_logs_that_cannot_be_written_are_said_once(
    tiny: Callable[..., Config], faces: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    run, go = start(tiny(train__steps=6, train__log_every=1), faces)
    (run.folder / "metrics.jsonl").mkdir()
    go()
    assert caplog.text.count("metrics.jsonl cannot be written: Is a directory") == 1
    assert run.newest_checkpoint().name == "step-000000006.pt"


def mount(folder: Path, size: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def test_a_disk_that_is_really_full(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = Path("small")
    small.mkdir()
    if not mount(small, "6m"):
        pytest.skip("this user cannot mount a small disk")
    try:
        common = ["--data", str(photos), "--set", "model.width=8", "--batch-size", "4"]
        common += ["--set", "train.checkpoint_every=1", "--set", "train.keep_checkpoints=100"]
        assert main(["train", *common, "--steps", "50", "--run", "small/run"]) == 5
        messages = capsys.readouterr().err
        assert messages.count("warning: could not save") == 2
        assert "error: could not save" in messages
        assert "No space left on device" in messages
        run = runs.find(small / "run")
        newest = run.newest_checkpoint()
        assert checkpoint.read(newest)[1]["step"] >= 1
        assert not list(run.checkpoints.glob(".ganctl-*"))
        assert (
            json.loads((run.folder / "status.json").read_text() or "{}").get("state", "failed")
            == "failed"
        )
        for path in sorted(run.checkpoints.iterdir())[:-1]:
            path.unlink()
        assert (
            main(["resume", "small/run", "--steps", str(checkpoint.peek(newest)["step"] + 1)]) == 0
        )
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
