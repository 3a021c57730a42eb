"""Drawing in place in a terminal that may change its width, or be given back to the shell."""

import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from rich.console import Console, ConsoleRenderable, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType

UPWARDS = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]


class Redrawn:
    """What `draw` returns, drawn anew four times a second, from `start` to `stop`.

    Ctrl-Z leaves the last drawing where it is; when the process is in the foreground again another
    one begins below whatever the shell has printed meanwhile.
    """

    def __init__(self, draw: Callable[[], RenderableType], console: Console) -> None:
        self._draw, self._console = draw, console
        self._live: _Live | None = None
        self._handles_ctrl_z = False
        self._suspended = False

    def start(self) -> None:
        """Begin to draw."""
        self._begin()
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
            self._handles_ctrl_z = True
            signal.signal(signal.SIGTSTP, self._suspend)

    def stop(self) -> None:
        """Draw a last time."""
        if self._handles_ctrl_z:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._handles_ctrl_z = False
        self._end()

    def look(self) -> None:
        """Draw again if that ended with Ctrl-Z and this process is in the foreground; cheap."""
        if self._suspended and self._in_foreground():
            self._suspended = False
            self._begin()

    def _begin(self) -> None:
        self._live = _Live(get_renderable=self._draw, console=self._console, refresh_per_second=4)
        self._live.start()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._end()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # the process stands still in here, until it is continued
        signal.signal(number, self._suspend)
        self._suspended = True
        self.look()

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._console.file.fileno()) == os.getpgrp()
        except OSError:  # no terminal of ours: nobody else is in the foreground
            return True


class _Live(Live):
    """Erases what it drew before also if the terminal has become narrower since.

    Then the terminal has broken each line of the drawing into several.
    """

    _drawn: tuple[int, int] | None = None  # columns and lines

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called whenever anything is printed, to put the drawing below it."""
        width, surplus = self.console.width, 0
        if self._drawn is not None:
            columns, lines = self._drawn
            surplus = lines * (math.ceil(columns / width) - 1)
        drawing = self.console.render_lines(self.get_renderable(), pad=False)
        columns = max((sum(segment.cell_length for segment in line) for line in drawing), default=0)
        self._drawn = columns, min(len(drawing), self.console.height)
        upwards = [Control(*UPWARDS * surplus)] if surplus else []
        return [*upwards, *super().process_renderables(renderables)]
