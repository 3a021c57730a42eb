"""`--processes N`: the processes of one run, started and watched on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from ganctl.busy import own_cores
from ganctl.cli import show
from ganctl.errors import ConfigError, ProcessError
from ganctl.processes import launched, place
from ganctl.training.stopping import (
    LAST_WORDS,
    SAVING,
    SHOW_CURSOR,
    STOPPING,
    tell_terminal,
)

MOST = 1024
GRACE = 20  # seconds that the others have to end by themselves once one has failed
LOOK = 0.05  # seconds between two looks
HELP = "Share the work among N processes on this machine; all: one a GPU."


def shared(words: Sequence[str], processes: str | None, remark: str | None = None) -> int | None:
    """Run `ganctl words` in so many processes; their exit code. None if this one is to do it.

    That is so if it is to be alone, or is one of those that were started. `remark` is said before
    others are.
    """
    if not launched():
        count = 1 if processes is None else _count(processes)
        if count == 1:
            return None
        if remark:
            show.note(remark)
        return Crew([sys.executable, "-m", "ganctl", *words], count).run()
    if processes not in (None, "all") and _count(processes) != place().size:
        raise ConfigError(
            f"--processes is {processes}, but the environment says {place().size} (WORLD_SIZE)",
            "leave --processes out where torchrun starts them",
        )
    return None


def _count(processes: str) -> int:
    if processes == "all":
        import torch

        if count := torch.cuda.device_count():
            return count
        hint = "say how many processes there are to be: --processes 2"
        raise ConfigError("--processes all means one a GPU, and this machine has none", hint)
    if not processes.isdecimal() or not 1 <= int(processes) <= MOST:
        raise ConfigError(f"--processes is {processes!r}, but it is 1 to {MOST}, or all")
    return int(processes)


class Crew:
    """The processes, which all run the same command, and what is made of how they end."""

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command, self._count = command, count
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stopped_by: int | None = None

    def run(self) -> int:
        """Start all and wait for all; the exit code of the one that ended the run."""
        heard = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._stop) for number in heard}
        before[SAVING] = signal.signal(SAVING, self._pass_on)
        try:
            port = _free_port()
            for rank in range(self._count):
                self._workers.append(self._start(rank, port))
            return self._watch()
        finally:
            self._kill()
            tell_terminal(SHOW_CURSOR)  # which the panel of a killed process hides
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, rank: int, port: int) -> "subprocess.Popen[bytes]":
        threads = max(1, len(own_cores()) // self._count)
        environment = {
            "OMP_NUM_THREADS": str(threads), **os.environ, "RANK": str(rank),
            "WORLD_SIZE": str(self._count), "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self._count), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        return subprocess.Popen(self._command, env=environment)

    def _watch(self) -> int:
        ended: dict[int, int] = {}  # exit codes of processes, in the order in which they end
        failed_at: float | None = None
        while len(ended) < self._count:
            for rank, worker in enumerate(self._workers):
                if rank not in ended and (code := worker.poll()) is not None:
                    ended[rank] = self._explained(rank, code)
            if failed_at is None and any(ended.values()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > GRACE:
                self._kill()
                break
            time.sleep(LOOK)
        lost = ProcessError.exit_code
        failures = [code for code in ended.values() if code]
        # One that only lost the others has not the reason.
        return next((code for code in failures if code != lost), failures[0] if failures else 0)

    def _explained(self, rank: int, code: int) -> int:
        """The exit code of the whole if process `rank` ended with `code`."""
        if code >= 0:
            return code
        if -code == self._stopped_by:
            return 128 - code
        name = signal.Signals(-code).name
        show.note(f"error: process {rank} of {self._count} was ended by signal {-code} ({name})")
        show.note("hint: `ganctl resume` goes on from the newest checkpoint")
        return ProcessError.exit_code

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal goes to all processes, which save; a second one ends them at once."""
        if self._stopped_by is not None:
            self._kill()
            tell_terminal(LAST_WORDS)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._stopped_by = number
        self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
