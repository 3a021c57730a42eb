"""What is to be told of a run at a glance, without opening a checkpoint or changing a byte.

Nothing here imports torch, so that a list of runs is there at once.
"""

import fcntl
import json
import logging
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ganctl.errors import CheckpointError, ConfigError
from ganctl.settings import presets
from ganctl.store import identity
from ganctl.store.durable import open_regular, read_bytes
from ganctl.store.journal import Journal

MAX_BYTES = 64 * 1024  # of a file with one object
log = logging.getLogger("ganctl")

# struct flock of <fcntl.h>, and where in it type, start, length and the owner's number stand.
FLOCK = "qqihh" if platform.system() == "Darwin" else "hhqqi4x"
TYPE = -2 if platform.system() == "Darwin" else 0


class Overview(NamedTuple):
    """One run, as a line of a list."""

    folder: Path
    preset: str  # "" if it was begun before this was written down
    data: str  # where its images are; "" if config.yaml cannot be read
    step: int  # of the newest checkpoint, or of the newest figures while it is running
    steps: int | None  # that it is to have in the end
    state: str  # running, done, stopped, failed, killed, or new: nothing is known yet
    losses: tuple[float, float] | None  # of D and G, the newest
    kid: float | None  # the newest score, if it is scored
    changed_at: float  # seconds since 1970: when something was written last
    size: int  # bytes of all its files


def below(root: Path) -> list[Overview]:
    """The runs right below `root`, the newest last; damaged ones are skipped with a warning."""
    try:
        paths = list(root.glob(f"*/{identity.FILE}"))
    except OSError as error:  # a name that is too long
        raise CheckpointError(f"there is no run in {root}: {error.strerror}") from error
    found = []
    for path in paths:
        try:
            found.append((identity.read(path.parent).order, of(path.parent)))
        except CheckpointError as error:
            log.warning("skipped: %s", error)
    return [run for _, run in sorted(found)]


def of(folder: Path) -> Overview:
    """The run in `folder`; what cannot be read is left out. CheckpointError if it is no run."""
    journal = Journal(folder, identity.read(folder).run_id)
    status, newest = _read(folder / "status.json"), journal.last_row() or {}
    data, steps = _settings(folder / "config.yaml")
    state = _state(folder, status.get("state"))
    reached = max(_number(status.get("step")), _number(newest.get("step")))
    d_loss, g_loss = newest.get("d_loss"), newest.get("g_loss")
    losses = isinstance(d_loss, float) and isinstance(g_loss, float) and (d_loss, g_loss)
    score = status.get("score")
    kid = score.get("kid") if isinstance(score, dict) else None
    files = list(_files(folder))
    return Overview(
        folder=folder,
        preset=str(_read(folder / identity.FILE).get("preset", "")),
        data=data,
        step=reached if state == "running" else _saved_step(folder),
        steps=steps,
        state=state,
        losses=losses or None,
        kid=kid if isinstance(kid, float) else None,
        changed_at=max((file.st_mtime for file in files), default=0.0),
        size=sum(file.st_size for file in files),
    )


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of the run, by asking only: nothing is locked."""
    try:
        descriptor = open_regular(folder / "LOCK", os.O_RDONLY)
    except OSError:
        return False
    try:
        asked = [0] * len(struct.unpack(FLOCK, bytes(struct.calcsize(FLOCK))))
        asked[TYPE] = fcntl.F_WRLCK
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(FLOCK, *asked))
        return bool(struct.unpack(FLOCK, answer)[TYPE] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _state(folder: Path, written: object) -> str:
    """What status.json says, but "running" is believed only of a run whose lock is held."""
    if is_locked(folder):
        return "running"
    if written == "running":
        return "killed"  # or its machine died: there was no time to write anything
    return str(written) if written in ("done", "stopped", "failed") else "new"


def _settings(file: Path) -> tuple[str, int | None]:
    """Where the images are, and the last step."""
    try:
        config = presets.load(str(file))
    except ConfigError:
        return "", None
    return config.data.source, config.train.steps


def _saved_step(folder: Path) -> int:
    """The step of the newest checkpoint by its name, 0 without one."""
    steps = (path.stem.removeprefix("step-") for path in folder.glob("checkpoints/step-*.pt"))
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def _files(folder: Path) -> Iterator[os.stat_result]:
    """All of them once: best.pt is a second name of a checkpoint."""
    seen = set()
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was deleted meanwhile
                found = os.lstat(os.path.join(parent, name))
                if found.st_ino not in seen:
                    seen.add(found.st_ino)
                    yield found


def _read(file: Path) -> dict[str, object]:
    """A file with one JSON object; an empty one if it is none."""
    try:
        value = json.loads(read_bytes(file, MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
