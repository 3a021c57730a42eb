"""Power cuts: at every operation of a save, whatever the disk has kept of what was not synced.

The saves run on a real folder while the calls that change it are watched. A crash is then played
at each of them: a file's contents since its last fsync may be gone, cut, zeroed or there; and of
the changes to the folder since its last fsync, any subset may have happened.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from ganctl.errors import CheckpointError
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.store.runs import Run

Names = dict[str, int]  # inodes by name
Change = Callable[[Names], None]
SAVES = 5


@dataclass
class Crash:
    """What a disk holds at one moment: durable for sure, and what may be there besides."""

    acknowledged: int  # the last step that was said to be saved
    names: Names
    pending: list[Change]
    contents: dict[int, bytes]
    synced: dict[int, bytes]

    def outcomes(self) -> Iterator[dict[str, bytes]]:
        """Every folder that may be found after the power comes back."""
        for count in range(len(self.pending) + 1):
            for subset in combinations(self.pending, count):
                names = dict(self.names)
                for change in subset:
                    change(names)
                yield from self._with_contents(names)

    def _with_contents(self, names: Names) -> Iterator[dict[str, bytes]]:
        for damage in (lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b)), bytes):
            yield {
                name: self.synced[inode] if inode in self.synced else damage(self.contents[inode])
                for name, inode in names.items()
            }


@dataclass
class Disk:
    """Watches one folder and remembers a Crash before each change to it."""

    folder: Path
    sync_files: bool = True
    sync_folders: bool = True
    acknowledged: int = 0
    crashes: list[Crash] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.durable, self.pending = self._listing(), list[Change]()
        self.seen, self.synced = dict(self.durable), dict[int, bytes]()
        self.held: list[int] = []  # open files, so that no number of a file is used again

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("rename", "replace", "unlink", "symlink"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._fsync)

    def crash(self) -> None:
        """The power may be cut here."""
        now = self._listing()
        for name, inode in now.items():
            if name not in self.seen:
                self._note(name, inode)
        self.seen = now
        contents = {inode: (self.folder / name).read_bytes() for name, inode in now.items()}
        known = {**(self.crashes[-1].contents if self.crashes else {}), **contents}
        self.crashes.append(
            Crash(
                self.acknowledged, dict(self.durable), list(self.pending), known, dict(self.synced)
            )
        )

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.crash()
            before = self._listing()
            original(*arguments)
            after = self._listing()
            gone = [name for name in before if name not in after]
            come = [name for name in after if before.get(name) != after[name]]
            self._note_all(gone, {name: after[name] for name in come})
            self.seen = after
            self.crash()

        return call

    def _note(self, name: str, inode: int) -> None:
        self._note_all([], {name: inode})

    def _note_all(self, gone: list[str], come: Names) -> None:
        def change(names: Names) -> None:
            for name in gone:
                names.pop(name, None)
            names.update(come)

        if gone or come:
            self.pending.append(change)
        self.held += [os.open(self.folder / name, os.O_RDONLY) for name in come]

    def _fsync(self, descriptor: int) -> None:
        self.crash()
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            if self.sync_folders and status.st_ino == self.folder.stat().st_ino:
                self.durable, self.pending = self._listing(), []
        elif self.sync_files:
            self.synced[status.st_ino] = os.pread(descriptor, status.st_size, 0)
        self.crash()

    def _listing(self) -> Names:
        return {path.name: path.stat().st_ino for path in self.folder.iterdir()}


def payload(step: int) -> dict[str, Any]:
    return {"generator": {"w": torch.full((3,), float(step))}, "step": step}


def played(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, **faults: bool) -> Disk:
    """Several saves, with two files kept, on a watched disk."""
    run = runs.create(Path("run"), "x", tiny())
    disk = Disk(run.checkpoints, **faults)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        for step in range(1, SAVES + 1):
            run.save(step, payload(step), {}, keep=2)
            disk.acknowledged = step
            disk.crash()
    for descriptor in disk.held:
        os.close(descriptor)
    return disk


def losses(disk: Disk, run: Run) -> tuple[int, list[str]]:
    """How many outcomes were tried, and those in which something acknowledged was lost."""
    lost, tried, seen = [], 0, set()
    for number, crash in enumerate(disk.crashes):
        for outcome in crash.outcomes():
            key = (crash.acknowledged, frozenset(outcome.items()))
            if key in seen:
                continue
            seen.add(key)
            tried += 1
            for path in run.checkpoints.iterdir():
                path.unlink()
            for name, content in outcome.items():
                (run.checkpoints / name).write_bytes(content)
            found = newest_step(run)
            if found < crash.acknowledged:
                lost.append(f"crash {number}: {crash.acknowledged} was saved, {found} was found")
    return tried, lost


def newest_step(run: Run) -> int:
    run.sweep()
    try:
        path = run.newest_checkpoint()
    except CheckpointError:
        return 0
    contents, _ = checkpoint.read(path)
    step = contents["step"]
    assert path.name == f"step-{step:09}.pt"
    assert checkpoint.digest_of(contents["generator"]) == checkpoint.digest_of(
        payload(step)["generator"]
    )
    return int(step)


def test_nothing_acknowledged_is_lost_by_a_power_cut_anywhere(
    tiny: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[..., None],
) -> None:
    disk = played(tiny, monkeypatch)
    tried, lost = losses(disk, runs.find(Path("run")))
    assert not lost
    assert len(disk.crashes) > 10 * SAVES
    assert tried > 8 * SAVES
    print(f"power cuts: {len(disk.crashes)} crash points, {tried} different outcomes, 0 lost")


@pytest.mark.parametrize("forgotten", ["sync_files", "sync_folders"])
def test_a_forgotten_sync_would_be_noticed(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The test above can fail."""
    disk = played(tiny, monkeypatch, **{forgotten: False})
    assert losses(disk, runs.find(Path("run")))[1]
