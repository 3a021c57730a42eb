"""Turning signals into an end that leaves nothing half-written behind.

Training finishes its step and saves (`StopRequest`). Everything else, the start of a run as well,
has nothing to save: it is left at once, through all the cleaning up on its way (`interruptible`).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from ganctl.processes import launched

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVING = signal.SIGUSR1
STDERR = 2
# The first part shows the cursor, which a live panel hides.
SHOW_CURSOR = b"\x1b[?25h"
LAST_WORDS = SHOW_CURSOR + b"\nended at once: what came after the last checkpoint is lost\n"


class Interrupted(BaseException):
    """A signal that ends whatever is under way; no Exception, so that nobody takes it for one."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def interruptible() -> Iterator[None]:
    """While entered, the first signal raises Interrupted; a second one ends the process at once.

    In one of several processes what follows is the first signal again: a terminal tells all of them
    and their launcher, which passes it on and ends them by force at a second one.

    SIGUSR1, which asks training for a checkpoint, is not for anything else, and ends nothing.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal comes
        yield
        return
    previous = {number: signal.signal(number, _interrupt) for number in _heard()}
    previous[SAVING] = signal.signal(SAVING, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _heard() -> list[signal.Signals]:
    """A hang-up that is ignored already, as `nohup` does, stays ignored."""
    return [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _heard():
        signal.signal(each, _disregard if launched() else _end_at_once)
    raise Interrupted(number)


def _disregard(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, of which Python complains if such a signal is there already."""


def _end_at_once(number: int, frame: FrameType | None) -> None:
    tell_terminal(SHOW_CURSOR)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def tell_terminal(words: bytes) -> None:
    """Write `words` to stderr if it is a terminal; safe in a handler."""
    with suppress(OSError):
        if os.isatty(STDERR):
            os.write(STDERR, words)


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
        self._previous = {number: signal.signal(number, self._remember) for number in _heard()}
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
            tell_terminal(LAST_WORDS)
            self._last_words(number)
            os.kill(os.getpid(), number)
        self.signal_number = number
