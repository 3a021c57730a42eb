"""A drawing in place leaves no stray lines, whatever becomes of the terminal around it."""

import io
import os
import signal

import pytest
from rich.console import Console
from rich.panel import Panel

from ganctl.cli import redrawing
from ganctl.cli.redrawing import Redrawn

UP, ERASE = "\x1b[1A", "\x1b[2K"


class Screen:
    """A terminal of 24 lines whose width can be changed."""

    def __init__(self, width: int) -> None:
        self.written = io.StringIO()
        self.console = Console(file=self.written, force_terminal=True, width=width, height=24)

    def taken(self) -> str:
        """What was written since this was last asked."""
        text = self.written.getvalue()
        self.written.seek(0)
        self.written.truncate()
        return text


@pytest.mark.parametrize(("columns", "breaks"), [(100, 1), (70, 2), (33, 3), (200, 1)])
def test_all_that_was_drawn_is_erased_although_the_terminal_broke_its_lines(
    columns: int, breaks: int
) -> None:
    """A panel of three lines and 97 columns, which take `breaks` lines each in the new width."""
    screen = Screen(100)
    live = redrawing._Live(
        get_renderable=lambda: Panel("x", width=screen.console.width - 3),
        console=screen.console, auto_refresh=False,
    )  # fmt: skip
    with live:
        live.refresh()
        screen.taken()
        screen.console.width = columns
        live.refresh()
        drawn = screen.taken()
        before = drawn.split("╭")[0]
        assert before.count(UP) == 3 * breaks - 1
        assert before.count(ERASE) == 3 * breaks


def test_after_ctrl_z_another_drawing_begins_and_the_old_one_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(60)
    drawn = Redrawn(lambda: Panel("x"), screen.console)
    stopped: list[tuple[str, object]] = []

    def stop(process: int, number: int) -> None:
        stopped.append((screen.taken(), signal.getsignal(number)))

    drawn.start()
    assert signal.getsignal(signal.SIGTSTP) == drawn._suspend
    screen.taken()
    monkeypatch.setattr(os, "kill", stop)
    drawn._suspend(signal.SIGTSTP, None)
    ((before, handler),) = stopped
    assert handler == signal.SIG_DFL  # so that the process does stop
    assert before.endswith("\x1b[?25h")  # the cursor is shown again
    assert UP not in screen.taken().split("╭")[0]  # what the shell has printed stays
    assert signal.getsignal(signal.SIGTSTP) == drawn._suspend
    drawn.stop()
    assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL


def test_before_the_start_and_after_the_end_nothing_is_drawn() -> None:
    screen = Screen(60)
    drawn = Redrawn(lambda: Panel("x"), screen.console)
    drawn.look()
    assert screen.taken() == ""
    drawn.start()
    drawn.stop()
    screen.taken()
    drawn.look()
    assert screen.taken() == ""


def test_in_the_background_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(60)
    drawn = Redrawn(lambda: Panel("x"), screen.console)
    drawn.start()
    monkeypatch.setattr(os, "kill", lambda *_: screen.taken())
    foreground = [False]
    monkeypatch.setattr(drawn, "_in_foreground", lambda: foreground[0])
    drawn._suspend(signal.SIGTSTP, None)
    screen.taken()
    drawn.look()
    assert screen.taken() == ""
    foreground[0] = True
    drawn.look()
    drawn.stop()
    assert "╭" in screen.taken()
