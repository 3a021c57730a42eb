"""The folder of one run: what is in it, which checkpoint is newest, who may write to it.

runs/faces32-001/
  config.yaml  run.json  LOCK
  status.json                    running, done, stopped or failed, and at which step
  metrics.jsonl  history.jsonl   losses and other figures; what happened, and when
  samples/000001000.png          images of the averaged generator, from the same noise at each step
  checkpoints/step-000010000.pt  complete, verified, never changed
  ckpt.pt                        a link to the newest checkpoint, for people; never relied on
  best.pt                        the checkpoint that scored best, if the run is scored
"""

import fcntl
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ganctl.errors import CheckpointError, RunBusyError, StorageError, shell_quoted
from ganctl.settings.config import Config, to_yaml
from ganctl.store import best, checkpoint, durable, free_place, identity
from ganctl.store.checkpoint import Metadata, Payload
from ganctl.store.durable import open_regular, sync, write_text
from ganctl.store.journal import Journal, now
from ganctl.store.overview import is_locked
from ganctl.store.retention import CheckpointFiles, was_sane

ROOT = Path("runs")
MAX_OWNER = 200  # bytes of what LOCK says
PREVIEW = re.compile(r"(\d{9,18})\.png")
PARTS = ("checkpoints", "samples", "tensorboard")  # the folders in a run's
log = logging.getLogger("ganctl")


@dataclass
class Run:
    """One run's folder, created or opened; `lock` it before writing."""

    folder: Path
    run_id: str
    _lock: int | None = None  # an open file that is never closed: closing it frees the lock

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder, self.run_id)
        self._files = CheckpointFiles(self.checkpoints, self.run_id)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    def lock(self) -> None:
        """Lock the run for this process until the process ends; RunBusyError names who has it.

        The kernel holds the lock for one process, not for its children; kill -9 frees it too.
        """
        path = self.folder / "LOCK"
        identity.check_parts(self.folder, PARTS)
        try:
            self._lock = open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StorageError(f"cannot write to {path}: {error.strerror}") from error
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # POSIX allows either for "taken"
            said = os.pread(self._lock, MAX_OWNER, 0).decode(errors="replace")
            owner = said.strip() or "another process"
            hint = "wait until that process ends, or start another run"
            raise RunBusyError(f"{self.folder} is in use by {owner}", hint) from error
        owner = f"process {os.getpid()} on {socket.gethostname()} since {now()}\n"
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.truncate(self._lock, 0)
            os.write(self._lock, owner.encode())

    def save(
        self, step: int, payload: Payload, metadata: Metadata, keep: int, keep_every: int = 0
    ) -> Path:
        """Write the checkpoint of `step`, point ckpt.pt at it, then delete older ones.

        Which stay is told in `retention.py`. A file of this step can be there already, damaged, as
        the run went on from an older one, or another run's: it is renamed. StorageError if the
        checkpoint could not be written.
        """
        path = self._files.path_of(step)
        self.check_place()
        try:
            self.checkpoints.mkdir(exist_ok=True)
            self._files.make_room(step)
        except OSError as error:
            raise StorageError(f"could not save {path}: {error.strerror}") from error
        owner = {"id": self.run_id, "name": self.name}
        checkpoint.write(path, payload, {"run": owner, **metadata}, self.run_id)
        self._tidy(lambda: durable.lead(self.folder / "ckpt.pt", path, self.run_id))
        self._tidy(lambda: self._files.prune(path, keep, keep_every))
        return path

    def set_aside_after(self, step: int) -> None:
        """Let what was saved after `step` count no more: the run goes on from there anew."""
        self._tidy(lambda: self._files.set_aside_after(step))
        self._tidy(lambda: best.set_aside_after(self.folder, step, self.run_id))

    def was_sane_at(self, step: int) -> bool:
        """Whether D's scores were sane when `step` was saved; True if that is not known."""
        return was_sane(self._files.path_of(step))

    def publish_best(self, path: Path) -> None:
        """Make best.pt the checkpoint `path` of this run; if that fails it is as before."""
        self._tidy(lambda: best.publish(self.folder, path, self.run_id))

    def check_place(self) -> None:
        """StorageError if the folder is gone, or has become another run's, or leads elsewhere."""
        identity.check(self.folder, self.run_id)
        identity.check_parts(self.folder, PARTS)

    def _tidy(self, task: Callable[[], None]) -> None:
        try:
            task()
        except OSError as error:  # the checkpoint is safe, and the next save tries again
            log.warning("the checkpoint is saved, but tidying up %s failed: %s", self.folder, error)

    def newest_checkpoint(self) -> Path:
        """The newest checkpoint of this run that is whole; others are skipped with a warning.

        So there is if D's scores had exploded when it was saved: it is taken all the same.
        """
        whole = self._files.whole()
        for path in whole:
            if not was_sane(path):
                _warn_of_exploded(path, next(filter(was_sane, whole), None))
            return path
        raise self._no_checkpoint()

    def has_checkpoints(self) -> bool:
        """Whether anything was saved, whole or not."""
        return bool(self._files.found())

    def whole_checkpoints(self) -> list[Path]:
        """All checkpoints of this run that are whole, the oldest first; CheckpointError if none."""
        whole = list(self._files.whole())
        if not whole:
            raise self._no_checkpoint()
        return whole[::-1]

    def kept_checkpoints(self) -> list[Path]:
        """The same, and best.pt among them if the file of its step was deleted."""
        kept, path = self.whole_checkpoints(), self.folder / best.NAME
        if (score := best.score_of(path, self.run_id)) is not None:
            place = self._files.path_of(score["step"])
            if place not in kept:
                kept.insert(sum(each < place for each in kept), path)
        return kept

    def _no_checkpoint(self) -> CheckpointError:
        skipped = len(self._files.found())
        why = f"{skipped} skipped" if skipped else "nothing saved yet"
        hint = f"start again: ganctl train --preset {shell_quoted(self.folder / 'config.yaml')}"
        if not skipped:
            hint = f"`ganctl resume {shell_quoted(self.folder)}` begins it again"
            if is_locked(self.folder):
                hint = "it is running: wait for its first save, or `kill -USR1` its process to save"
        return CheckpointError(f"{self.folder} has no usable checkpoint ({why})", hint)

    def write_config(self, config: Config) -> None:
        """Replace config.yaml; StorageError if it cannot be written."""
        try:
            write_text(self.folder / "config.yaml", to_yaml(config), self.run_id)
        except OSError as error:
            raise StorageError(f"cannot write to {self.folder}: {error.strerror}") from error

    def sweep(self) -> None:
        """Delete the files that a killed process left half-written; only with the run locked."""
        try:
            for folder in (self.folder, self.checkpoints, self.samples):
                durable.sweep(folder, self.run_id)
        except OSError as error:
            log.warning("tidying up %s failed: %s", self.folder, error.strerror)


def create(folder: Path | None, title: str, config: Config, preset: str = "") -> Run:
    """A new run, locked: in `folder`, or in the next free runs/<title>-NNN.

    The name of the preset that `config` was made of is written down. Raises RunBusyError if
    `folder` holds a run already, StorageError if it cannot be written.
    """
    free_place.check(folder)
    try:
        if folder is None:
            folder = _next_free(title)
        for part in (folder / "checkpoints", folder / "samples"):
            part.mkdir(parents=True, exist_ok=True)
        run = Run(folder, run_id=uuid.uuid4().hex)
        run.lock()
        run.write_config(config)
        sync(folder)  # a folder with a run.json has a config.yaml, also after a power cut
        order = 1 + max((number for _, number in _runs_below(ROOT)), default=0)
        made = {"id": run.run_id, "created": now(), "order": order, "preset": preset}
        write_text(folder / identity.FILE, json.dumps(made) + "\n", run.run_id)
        for part in (folder, folder.parent, folder.parent.parent):
            sync(part)
    except OSError as error:
        raise free_place.unwritable(folder or ROOT, error) from error
    return run


def _warn_of_exploded(path: Path, before: Path | None) -> None:
    better = f"the newest from before is {before}" if before else "there is none from before"
    log.warning("D's scores had exploded when %s was saved; %s", path, better)


def find(target: Path | None) -> Run:
    """The run in the folder `target`, or in runs/`target`; without one, the newest under runs/."""
    if target is None:
        runs = list(_runs_below(ROOT))
        if not runs:
            hint = "train one with `ganctl train`, or name a run's folder"
            raise CheckpointError(f"there is no run under {ROOT}/", hint)
        return max(runs, key=lambda pair: pair[1])[0]
    for folder in (target, ROOT / target):
        if _exists(folder / "run.json"):
            return Run(folder, identity.read(folder).run_id)
    beside = target if _exists(target) and target.is_dir() else target.parent
    near = next((p for p in (beside, *beside.parents) if _exists(p / "run.json")), None)
    hint = f"did you mean {near}?" if near else "without a name the newest run under runs/ is taken"
    if not _exists(target):
        raise CheckpointError(f"there is no run {target}", hint)
    raise CheckpointError(f"{target} is not a run's folder: there is no run.json in it", hint)


def find_checkpoint(target: Path | None) -> Path:
    """The checkpoint file `target`, or the newest whole one of the run that `target` names."""
    if target is not None and _exists(target) and not target.is_dir():
        return target
    if target is not None and target.suffix in (".pt", ".safetensors") and not _exists(target):
        raise CheckpointError(f"there is no checkpoint {target}", _newest_near(target))
    return find(target).newest_checkpoint()


def previews(samples: Path) -> list[tuple[int, Path]]:
    """Steps and files of the previews in a run's folder `samples`, the oldest first."""
    files = [(PREVIEW.fullmatch(path.name), path) for path in samples.glob("*.png")]
    return sorted((int(match[1]), path) for match, path in files if match)


def find_best(target: Path | None) -> Path:
    """best.pt of the run that `target` names, the newest run without one; CheckpointError."""
    return best.find(find(target).folder)


def _newest_near(path: Path) -> str | None:
    """A hint with the newest whole checkpoint of the run that the absent `path` is of, if any."""
    for folder in (path.parent, path.parent.parent):
        if _exists(folder / identity.FILE):
            with suppress(CheckpointError):
                newest = find(folder).newest_checkpoint()
                return f"the newest whole checkpoint of that run is {newest}"
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _runs_below(root: Path) -> Iterator[tuple[Run, int]]:
    for path in root.glob("*/run.json"):
        try:
            found = identity.read(path.parent)
        except CheckpointError as error:
            log.warning("skipped: %s", error)
            continue
        yield Run(path.parent, found.run_id), found.order


def _next_free(title: str) -> Path:
    ROOT.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = ROOT / f"{title}-{number:03}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
