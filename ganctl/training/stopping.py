"""Turning signals into requests that training honours at its next step boundary."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVING = signal.SIGUSR1
STDERR = 2
# The first part shows the cursor, which a live panel hides.
LAST_WORDS = b"\x1b[?25h\nended at once: what came after the last checkpoint is lost\n"


class StopRequest:
    """While entered, the first signal is remembered; a second one ends the process at once.

    SIGUSR1 asks for a checkpoint instead, and training goes on. A hang-up that is ignored already,
    as `nohup` does, stays ignored. A handler only sets an attribute, and at the end calls
    `last_words`: no checkpoint is ever saved from inside one.
    """

    def __init__(
        self,
        last_words: Callable[[int], None] = lambda number: None,
        *,
        patient: bool = False,
    ) -> None:
        """`last_words` is given the second signal, and not waited for if there is a third.

        `patient`: more signals are the first one again, as those of a launcher and of a scheduler
        that both tell every process of a run to stop.
        """
        self._patient = patient
        self.signal_number: int | None = None
        self._save_requested = False
        self._last_words = last_words

    def __enter__(self) -> "StopRequest":
        hears = [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._remember) for number in hears}
        self._previous[SAVING] = signal.signal(SAVING, self._ask_to_save)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def take_save_request(self) -> bool:
        """Whether SIGUSR1 came since this was last asked."""
        requested, self._save_requested = self._save_requested, False
        return requested

    def _ask_to_save(self, number: int, frame: FrameType | None) -> None:
        self._save_requested = True

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and self._patient:
            return
        if self.signal_number is not None:
            for each in STOPPING:
                signal.signal(each, signal.SIG_DFL)
            with suppress(OSError):
                if os.isatty(STDERR):
                    os.write(STDERR, LAST_WORDS)
            self._last_words(number)
            os.kill(os.getpid(), number)
        self.signal_number = number
