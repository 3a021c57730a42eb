"""When a run saves a checkpoint, what is never saved, and what happens when saving fails."""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from ganctl.distributed import check_alike, first_does
from ganctl.errors import CheckpointError, DivergedError, StorageError, shell_quoted
from ganctl.settings.config import Config
from ganctl.store.checkpoint import Payload, digest_of
from ganctl.store.contents import first_bad_tensor
from ganctl.store.retention import was_sane
from ganctl.store.runs import Run
from ganctl.training.state import TrainState, describe

MOST_FAILURES = 3  # failed saves in a row after which the run ends

log = logging.getLogger("ganctl")


class Saver:
    """Publishes checkpoints of one run: every so many steps, and every so many minutes."""

    def __init__(
        self, run: Run, config: Config, device: torch.device, data: dict[str, Any]
    ) -> None:
        self.run, self.config, self.device, self.data = run, config, device, data
        self.sane = True  # whether D's scores are, by the newest row
        self.score: dict[str, Any] | None = None  # the newest, with its step
        self._failures = 0
        self._asked_at = time.monotonic()  # when a save was asked for last

    def due(self, step: int) -> bool:
        """Whether a save is due after `step`."""
        return step % self.config.train.checkpoint_every == 0

    def overdue(self) -> bool:
        """Whether a save is due by the time since the last one; that is said once.

        Several processes act on it a step later, when it must not be said again.
        """
        minutes, now = self.config.train.checkpoint_minutes, time.monotonic()
        if minutes == 0 or now - self._asked_at < 60 * minutes:
            return False
        self._asked_at = now
        return True

    def save(self, state: TrainState, *, must: bool) -> str | None:
        """Save a checkpoint; its path, or None if that failed and the run can go on without it.

        Raises DivergedError if a value is not finite: such a state is never saved. Raises
        StorageError if saving fails and the run `must` save, or at the third failure in a row.
        Of several processes the first one writes; ProcessError if they do not hold the same.
        """
        payload = state.payload()
        check_alike(lambda: digest_of(payload))
        self._asked_at = time.monotonic()
        return first_does(lambda: self._publish(payload, state, must=must))

    def _publish(self, payload: Payload, state: TrainState, *, must: bool) -> str | None:
        if bad := first_bad_tensor(payload):
            raise self.diverged(f"{bad} is not finite", state.step, payload)
        metadata = describe(state, self.config, self.device, self.data) | {"sane": self.sane}
        if self.score is not None and self.score["step"] == state.step:
            metadata["score"] = self.score
        keep = self.config.train.keep_checkpoints, self.config.train.keep_every
        try:
            path = str(self.run.save(state.step, payload, metadata, *keep))
        except StorageError as error:
            self._failures += 1
            self.run.journal.record("save failed", state.step, reason=error.message)
            safe = _safe(self._newest())
            if must or self._failures == MOST_FAILURES or not _is_in_place(self.run):
                raise StorageError(f"{error.message}; {safe}", error.hint) from error
            left = MOST_FAILURES - self._failures
            log.warning("%s; training goes on (tries left: %d); %s", error.message, left, safe)
            return None
        self._failures = 0
        self.run.journal.record("saved", state.step)
        return path

    def diverged(self, what: str, step: int, payload: Payload) -> DivergedError:
        """The error to raise: what is not finite, the first such tensor, and how to go on."""
        bad = first_bad_tensor(_unmeasured(payload))  # sums of bad figures say nothing new
        where = f" (the first bad tensor is {bad})" if bad and bad not in what else ""
        newest = self._newest()
        folder, config = (
            shell_quoted(p) for p in (self.run.folder, self.run.folder / "config.yaml")
        )
        # Going on from it with the same noise would diverge again, to the bit.
        back = f"raise train.rollbacks in {config} (it is {self.config.train.rollbacks}) and type"
        back += f" `ganctl resume {folder}`, which goes back and on with other noise; or "
        return DivergedError(
            f"the run diverged by step {step:,}: {what}{where}; {_safe(newest)}",
            hint=f"{back if newest else ''}start another run with a lower optim.g_lr and"
            " optim.d_lr, or with --precision fp32",
        )

    def _newest(self) -> str | None:
        """The name of the newest good checkpoint, if there is one."""
        path = newest_sane(self.run)
        return None if path is None else path.name


def newest_sane(run: Run) -> Path | None:
    """The newest whole checkpoint that was saved while D's scores were sane, if there is one."""
    try:
        whole = run.whole_checkpoints()
    except CheckpointError:
        return None
    sane = [path for path in whole if was_sane(path)]
    return sane[-1] if sane else None


def _is_in_place(run: Run) -> bool:
    """Whether the run's folder is still there, and its own."""
    try:
        run.check_place()
    except StorageError:
        return False
    return True


def _unmeasured(payload: Payload) -> Payload:
    """What the steps compute with, without the sums of their figures."""
    return {name: part for name, part in payload.items() if name != "measured"}


def _safe(newest: str | None) -> str:
    return f"the newest whole checkpoint is {newest}" if newest else "there is no checkpoint"
