"""A run's figures as TensorBoard's event files, beside whatever else shows them."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.cli import watching
from ganctl.errors import ConfigError
from ganctl.insight.panels import FAILURE_MODES
from ganctl.store.runs import previews

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
    """A watcher that writes the numbers of each row, and the previews, beside another watcher.

    Like all that a run writes beside its checkpoints they cannot end it: what fails is said once.
    """

    def __init__(
        self, shown: watching.LivePanel | watching.PlainWatcher, run: Path, first_step: int
    ) -> None:
        """`tensorboard --logdir` hides what an earlier start wrote after `first_step`."""
        self.shown, self.folder, self.samples = shown, run / FOLDER, run / "samples"
        self._writer: SummaryWriter | None = None
        self._step = first_step  # of the last row
        self._previewed = first_step  # of the last preview
        self._failed = False

    def __enter__(self) -> "EventFiles":
        self.shown.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shown.__exit__(*exception)
        if self._writer is not None and not self._failed:
            with self._failing_once():
                self._write_previews(self._writer)
        self._close()

    def stepped(self, step: int) -> None:
        self.shown.stepped(step)

    def measured(self, row: Mapping[str, Any]) -> None:
        self.shown.measured(row)
        if not self._failed:
            with self._failing_once():
                self._write(row)

    def saved(self, step: int, path: str) -> None:
        self.shown.saved(step, path)

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # TensorFlow's, which some versions raise, are no OSErrors
            reason = getattr(error, "strerror", None) or error
            log.warning("TensorBoard's files cannot be written: %s", reason)
            self._failed = True

    def _write(self, row: Mapping[str, Any]) -> None:
        """`row`, in a new file if it is the first, or of an earlier step: after a roll-back."""
        from torch.utils.tensorboard import SummaryWriter

        if row["step"] <= self._step:
            self._close()
            self._previewed = min(self._previewed, row["step"] - 1)
        if self._writer is None:
            hidden = min(self._step + 1, row["step"])  # with all steps from it on
            self._writer = SummaryWriter(str(self.folder), purge_step=hidden)
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._step = row["step"]
        self._write_previews(self._writer)
        self._writer.flush()

    def _write_previews(self, writer: "SummaryWriter") -> None:
        """The grids up to the last row's step that were not written yet."""
        import numpy as np
        from PIL import Image

        for step, path in previews(self.samples):
            if self._previewed < step <= self._step:
                with suppress(OSError, SyntaxError), Image.open(path) as picture:
                    grid = np.asarray(picture.convert("RGB"))
                    writer.add_image("preview", grid, step, dataformats="HWC")
                self._previewed = step

    def _close(self) -> None:
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
        self._writer = None


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures that a row has; those of blocks as gamma/BLOCK, failure modes as alarm/NAME.

    An alarm is 1 while it lasts, else 0.
    """
    flat = {name: value for name, value in row.items() if isinstance(value, int | float)}
    flat.update({f"gamma/{block}": value for block, value in row["gamma"].items()})
    for name in dict.fromkeys([*FAILURE_MODES, *row["alarms"]]):
        flat[f"alarm/{name.replace(' ', '-')}"] = float(name in row["alarms"])
    del flat["step"]
    return flat
