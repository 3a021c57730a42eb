"""`--processes`: signals passed on, exit codes kept, nobody left behind; with processes that only wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Starts a crew whose processes run a few lines each, with the file that they mark as an argument.
LAUNCHER = """
import sys
from ganctl.cli import launching
launching.GRACE = 1
sys.exit(launching.Crew([sys.executable, "-S", "-c", *sys.argv[1:]], 2).run())
"""
WORKER = """
import os, signal, sys, time
rank = os.environ["RANK"]
def heard(number, frame):
    open(f"{rank}.heard", "a").write(f"{number}\\n")
    if number != signal.SIGUSR1:
        sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, heard)
open(f"{rank}.pid", "w").write(str(os.getpid()))
"""
WAIT = WORKER + "while True: time.sleep(0.01)"


def started(script: str) -> "subprocess.Popen[str]":
    """A launcher whose two processes are there."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, script], stderr=subprocess.PIPE, text=True
    )
    for rank in (0, 1):
        wait_for(Path(f"{rank}.pid"), launcher)
    return launcher


def wait_for(path: Path, launcher: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def pid(rank: int) -> int:
    return int(Path(f"{rank}.pid").read_text())


def ended(launcher: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code and words; and nobody is left."""
    _, words = launcher.communicate(timeout=60)
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(pid(rank), 0)
    return launcher.returncode, words


def test_signals_are_passed_on_and_exit_codes_kept() -> None:
    launcher = started(WAIT)
    launcher.send_signal(signal.SIGUSR1)
    for rank in (0, 1):
        wait_for(Path(f"{rank}.heard"), launcher)
    launcher.send_signal(signal.SIGTERM)
    assert ended(launcher) == (143, "")
    assert (
        Path("0.heard").read_text().split() == Path("1.heard").read_text().split() == ["10", "15"]
    )


def test_a_second_signal_ends_all_at_once() -> None:
    deaf = WAIT.replace("sys.exit(128 + number)", "pass")
    launcher = started(deaf)
    launcher.send_signal(signal.SIGINT)
    wait_for(Path("1.heard"), launcher)
    launcher.send_signal(signal.SIGINT)
    assert ended(launcher) == (-signal.SIGINT, "")


def test_a_process_that_is_killed_is_named_and_the_others_end() -> None:
    launcher = started(WAIT)
    os.kill(pid(1), signal.SIGKILL)
    code, words = ended(launcher)
    assert code == 10
    assert "error: process 1 of 2 was ended by signal 9 (SIGKILL)" in words


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0), 0), ((10, 8), 8), ((7, 10), 7), ((10, 10), 10)]
)
def test_the_exit_code_is_that_of_the_one_with_the_reason(
    codes: tuple[int, int], expected: int
) -> None:
    script = WORKER + f"sys.exit({codes}[int(rank)])"
    done = subprocess.run([sys.executable, "-c", LAUNCHER, script], timeout=60, check=False)
    assert done.returncode == expected
