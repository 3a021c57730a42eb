"""Programs that begin where others have got to after seconds: with torch and ganctl imported.

They are forked from the server of `crew`. What tests the start of a command itself needs a
Python of its own instead.
"""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import TimeoutExpired

from crew import CONTEXT, start_server

GANCTL = "from ganctl.__main__ import run; run()"


class Program:
    """`python -c CODE ARGUMENTS`, with the part of `subprocess.Popen` that is needed here.

    It is in a process group of its own, and hears hang-ups whatever these tests were started by.
    """

    def __init__(self, code: str, *arguments: str) -> None:
        start_server()
        (out, its_out), (err, its_err) = (CONTEXT.Pipe(duplex=False) for _ in range(2))
        self._process = CONTEXT.Process(
            target=_begin, args=(code, arguments, os.getcwd(), dict(os.environ), its_out, its_err)
        )
        self._process.start()
        its_out.close()
        its_err.close()
        readers = ThreadPoolExecutor(2)
        self._said = [readers.submit(_read, pipe) for pipe in (out, err)]
        readers.shutdown(wait=False)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As `poll` gives it: of a process that a signal ended, the signal's negative number."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Its whole standard output and error, once all who could write there have ended."""
        out, err = (said.result(timeout) for said in self._said)
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _read(pipe: Connection) -> str:
    with pipe, os.fdopen(os.dup(pipe.fileno()), encoding="utf-8") as file:
        return file.read()


def _begin(
    code: str,
    arguments: tuple[str, ...],
    cwd: str,
    variables: dict[str, str],
    out: Connection,
    err: Connection,
) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2)
    )
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.argv = ["ganctl", *arguments]
    sys.path[:0] = [str(Path(cwd))]
    exec(code, {"__name__": "__main__"})
