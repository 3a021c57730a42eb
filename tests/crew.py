"""Several processes of one thread that run a function together, as `torchrun` would start them.

They are forked from a server that has imported everything once, which is much quicker than starting
Python anew; and they are joined or killed before the test ends.
"""

import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ganctl import distributed

SECONDS = 120  # after which a test has failed; never waited for when all is well
CONTEXT = multiprocessing.get_context("forkserver")
# The last one is what torch imports at the first optimizer, in two seconds.
CONTEXT.set_forkserver_preload(["crew", "conftest", "ganctl.cli.training", "torch._dynamo"])


def start_server() -> None:
    """Let it find what it is to import; Python before 3.13 does not tell it where."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


class Crew:
    """The processes; `results` waits for them."""

    def __init__(
        self,
        size: int,
        target: Callable[..., Any],
        *arguments: Any,
        given: Mapping[str, str] | None = None,
    ) -> None:
        """`given`: more environment variables; `target` gets `arguments` in each process."""
        start_server()
        port, cwd = free_port(), Path.cwd()
        self._pipes: list[Connection] = []
        self.processes = []
        for rank in range(size):
            ours, theirs = CONTEXT.Pipe(duplex=False)
            variables = {
                "GANCTL_CACHE": os.environ["GANCTL_CACHE"], "GANCTL_TIMEOUT": "60",
                **environment(rank, size, port), **(given or {}),
            }  # fmt: skip
            process = CONTEXT.Process(
                target=_run, args=(theirs, variables, cwd, target, arguments), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def results(self) -> list[Any]:
        """What `target` returned in each process; RuntimeError with its traceback if it raised."""
        answers = []
        for pipe in self._pipes:
            with suppress(EOFError):
                answers.append(pipe.recv() if pipe.poll(SECONDS) else ("late", None))
        self.exit_codes()
        if faults := [answer for kind, answer in answers if kind != "done"]:
            raise RuntimeError("\n".join(map(str, faults)))
        return [torch.load(io.BytesIO(answer), weights_only=False) for _, answer in answers]

    def exit_codes(self) -> list[int | None]:
        """Of the processes once they have ended, by themselves if all is well."""
        for process in self.processes:
            process.join(SECONDS)
            late = process.is_alive()
            process.kill()
            process.join()
            assert not late, "a process did not end"
        return [process.exitcode for process in self.processes]


def together(size: int, target: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `target(*arguments)` returns in each of `size` joined processes; 1: here."""
    if size == 1:
        return [target(*arguments)]
    return Crew(size, _joined, target, arguments).results()


def _joined(target: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with distributed.joined("cpu"):
        return target(*arguments)


def _run(
    answer: Connection,
    variables: dict[str, str],
    cwd: Path,
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(variables)
    os.chdir(cwd)
    torch.set_num_threads(1)
    try:
        returned = io.BytesIO()
        torch.save(target(*arguments), returned)
        answer.send(("done", returned.getvalue()))
    except SystemExit:
        raise
    except BaseException:
        answer.send(("raised", traceback.format_exc()))
