"""A run's figures as TensorBoard's event files, beside whatever else shows them."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.cli import show
from ganctl.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"  # below the run's
log = logging.getLogger("ganctl")


def need_tensorboard() -> None:
    """Raise ConfigError if it is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        hint = "pip install tensorboard"
        raise ConfigError("--tensorboard needs tensorboard, which is not installed", hint) from None


class EventFiles:
    """A watcher that writes the numbers of each row, and passes everything on to another watcher.

    Like all that a run writes beside its checkpoints they cannot end it: what fails is said once.
    """

    def __init__(
        self, shown: show.LivePanel | show.PlainWatcher, run: Path, first_step: int
    ) -> None:
        """`tensorboard --logdir` hides what an earlier start wrote after `first_step`."""
        self.shown, self.folder = shown, run / FOLDER
        self._writer: SummaryWriter | None = None
        self._step = first_step  # of the last row
        self._failed = False

    def __enter__(self) -> "EventFiles":
        self.shown.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shown.__exit__(*exception)
        self._close()

    def stepped(self, step: int) -> None:
        self.shown.stepped(step)

    def measured(self, row: Mapping[str, Any]) -> None:
        self.shown.measured(row)
        if self._failed:
            return
        try:
            self._write(row)
        except Exception as error:  # TensorFlow's, which some versions raise, are no OSErrors
            reason = getattr(error, "strerror", None) or error
            log.warning("TensorBoard's files cannot be written: %s", reason)
            self._failed = True

    def saved(self, step: int, path: str) -> None:
        self.shown.saved(step, path)

    def _write(self, row: Mapping[str, Any]) -> None:
        """`row`, in a new file if it is the first, or of an earlier step: after a roll-back."""
        from torch.utils.tensorboard import SummaryWriter

        if row["step"] <= self._step:
            self._close()
        if self._writer is None:
            hidden = min(self._step + 1, row["step"])  # with all steps from it on
            self._writer = SummaryWriter(str(self.folder), purge_step=hidden)
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()
        self._step = row["step"]

    def _close(self) -> None:
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
        self._writer = None


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures that a row has; those of blocks as gamma/BLOCK, failure modes as alarm/NAME."""
    flat = {name: value for name, value in row.items() if isinstance(value, int | float)}
    flat.update({f"gamma/{block}": value for block, value in row["gamma"].items()})
    flat.update({f"alarm/{name.replace(' ', '-')}": 1.0 for name in row["alarms"]})
    del flat["step"]
    return flat
