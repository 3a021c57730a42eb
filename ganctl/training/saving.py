"""When a run saves, what is never saved, and what happens when saving fails."""

import logging
import time
from typing import Any

import torch

from ganctl.errors import CheckpointError, DivergedError, StorageError, shell_quoted
from ganctl.settings.config import Config
from ganctl.store.checkpoint import Payload
from ganctl.store.contents import first_bad_tensor
from ganctl.store.runs import Run
from ganctl.training.state import TrainState, describe

NOTHING = "no checkpoint"  # what messages say before the first save
MOST_FAILURES = 3  # periodic saves that may fail in a row before the run gives up

log = logging.getLogger("ganctl")


class Saver:
    """Publishes checkpoints of one run: every so many steps, and every so many minutes."""

    def __init__(
        self, run: Run, config: Config, device: torch.device, data: dict[str, Any]
    ) -> None:
        self.run, self.config, self.device, self.data = run, config, device, data
        self._failures = 0
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a save is due after `step`, by its number or by the time since the last one."""
        every = self.config.train
        overdue = time.monotonic() - self._saved_at >= 60 * every.checkpoint_minutes
        return step % every.checkpoint_every == 0 or (every.checkpoint_minutes > 0 and overdue)

    def save(self, state: TrainState, *, must: bool) -> str | None:
        """Publish a checkpoint; its path, or None if that failed and the run can go on without.

        Raises DivergedError if a value is not finite: such a state is never published. Raises
        StorageError if saving fails and the run `must` save, or at the third failure in a row.
        """
        payload = state.payload()
        if bad := first_bad_tensor(payload):
            raise self.diverged(f"{bad} is not finite", state.step, payload)
        metadata = describe(state, self.config, self.device, self.data)
        keep = self.config.train.keep_checkpoints, self.config.train.keep_every
        self._saved_at = time.monotonic()
        try:
            path = str(self.run.save(state.step, payload, metadata, *keep))
        except StorageError as error:
            self._failures += 1
            self.run.journal.record("save failed", state.step, reason=error.message)
            safe = f"{self._last_good() or NOTHING} is whole"
            if must or self._failures == MOST_FAILURES:
                raise StorageError(f"{error.message}; {safe}", error.hint) from error
            left = MOST_FAILURES - self._failures
            log.warning("%s; training goes on (tries left: %d), %s", error.message, left, safe)
            return None
        self._failures = 0
        self.run.journal.record("saved", state.step)
        return path

    def diverged(self, what: str, step: int, payload: Payload) -> DivergedError:
        """The error to raise: what is not finite, the first bad tensor, where to go back to."""
        bad = first_bad_tensor(payload)
        where = f" (the first bad tensor is {bad})" if bad and bad not in what else ""
        good = self._last_good()
        back = f"`ganctl resume {shell_quoted(self.run.folder)}` goes back to it; " if good else ""
        return DivergedError(
            f"the run diverged by step {step:,}: {what}{where}; {good or NOTHING} is good",
            hint=f"{back}lower optim.d_lr or g_lr, use --precision fp32, or set train.rollbacks",
        )

    def _last_good(self) -> str | None:
        try:
            return self.run.newest_checkpoint().name
        except CheckpointError:
            return None
