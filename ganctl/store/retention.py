"""The checkpoint files of one run: which of them are whole, and which of them stay.

To know whether a file is whole, all of it must be read. So a verdict is remembered for as long as
the file looks the same, and a save reads no more than what it has written itself. The price: a file
that the disk damages later without a trace in its size or date counts as whole until somebody asks
for the newest one, which always reads. The file that was just written is verified and never goes.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ganctl.errors import CheckpointError
from ganctl.store import checkpoint
from ganctl.store.checkpoint import Metadata, NewerFormatError
from ganctl.store.durable import sync

NAME = re.compile(r"step-(\d{9,})\.pt")
log = logging.getLogger("ganctl")


class Look(NamedTuple):
    """What of a file changes when it is written anew."""

    path: Path
    inode: int
    size: int  # bytes
    modified: int  # nanoseconds


def was_sane(path: Path) -> bool:
    """Whether D's scores were of a size to go on from when `path` was saved; True if not known."""
    try:
        return bool(checkpoint.peek(path).get("sane", True))
    except CheckpointError:
        return True


class CheckpointFiles:
    """The files of the run `run_id` in its folder of checkpoints; others are left alone."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder, self.run_id = folder, run_id
        self._verdicts: dict[Look | None, bool] = {None: False}  # whether whole and of this run

    def path_of(self, step: int) -> Path:
        """The file of `step`, whether it is there or not."""
        return self.folder / f"step-{step:09}.pt"

    def found(self) -> list[tuple[int, Path]]:
        """Steps and files of what is called like a checkpoint, the newest first."""
        files = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*.pt")]
        return sorted(((int(match[1]), path) for match, path in files if match), reverse=True)

    def whole(self) -> Iterator[Path]:
        """The run's whole files, the newest first, each read when its turn comes.

        The others are skipped with a warning; but NewerFormatError if one is whole for a newer
        ganctl, as what comes before it is not the run's newest state.
        """
        for step, path in self.found():
            if fault := self._judge(step, path):
                if isinstance(fault, NewerFormatError):
                    raise fault
                log.warning("skipped: %s", fault.message)
            else:
                yield path

    def set_aside_after(self, step: int) -> None:
        """Rename the run's files of later steps to .abandoned; else they count as the newest."""
        for saved, path in self.found():
            if saved > step and self._owner_of(path) == self.run_id:
                path.rename(path.with_suffix(".abandoned"))
        sync(self.folder)

    def make_room(self, step: int) -> None:
        """Rename what has the name of `step` to .damaged, or .foreign if another run wrote it."""
        path = self.path_of(step)
        if os.path.lexists(path):
            anothers = self._owner_of(path) not in (None, self.run_id)
            path.rename(path.with_suffix(".foreign" if anothers else ".damaged"))

    def prune(self, written: Path, keep: int, keep_every: int) -> None:
        """Delete the run's older files; `keep` whole ones stay: `written`, and the newest others.

        So do the newest that was saved sane, to go back to, those of every `keep_every`-th step (0:
        none), and damaged ones among the newest.
        """
        if (look := _look(written)) is not None:
            self._verdicts[look] = True  # `checkpoint.write` has read it back
        kept, sane = 1, was_sane(written)
        for step, path in self.found():
            if path == written:
                continue
            milestone = keep_every > 0 and step % keep_every == 0
            whole = (kept < keep or not sane) and self._counts(step, path)
            to_go_back_to = not sane and whole and was_sane(path)
            if kept < keep:
                kept += whole
            elif not (milestone or to_go_back_to) and self._owner_of(path) == self.run_id:
                path.unlink()
            sane = sane or to_go_back_to

    def _counts(self, step: int, path: Path) -> bool:
        """Whether the run has `path` to go back to, as far as this process knows."""
        known = self._verdicts.get(_look(path))
        return self._judge(step, path) is None if known is None else known

    def _judge(self, step: int, path: Path) -> CheckpointError | None:
        """Read `path` and remember the verdict: what is wrong with it, or None if it is whole."""
        look = _look(path)  # before reading: whatever changes from here on is another look
        fault = self._fault(step, path)
        if look is not None:
            self._verdicts[look] = fault is None
        return fault

    def _fault(self, step: int, path: Path) -> CheckpointError | None:
        try:
            metadata = checkpoint.verify(path)
        except CheckpointError as error:
            return error
        if _owner(metadata) != self.run_id:
            return CheckpointError(f"{path} belongs to another run")
        if metadata.get("step", step) != step:
            return CheckpointError(f"{path} is of step {metadata['step']}, not of its name")
        return None

    def _owner_of(self, path: Path) -> object:
        """The id of the run that wrote `path`, by what it says of itself; None if it does not."""
        try:
            return _owner(checkpoint.peek(path))
        except CheckpointError:
            return None


def _look(path: Path) -> Look | None:
    """None if there is nothing to look at, or no way to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Look(path, found.st_ino, found.st_size, found.st_mtime_ns)


def _owner(metadata: Metadata) -> object:
    """The id of the run that wrote a checkpoint, whatever else stands in its place."""
    run = metadata.get("run")
    return run.get("id") if isinstance(run, dict) else None
