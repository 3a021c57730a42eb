"""Which of the processes of one run this one is; imports no torch.

What starts them says so in environment variables, as `torchrun` does: RANK and WORLD_SIZE, this
process's number and how many there are; LOCAL_RANK and LOCAL_WORLD_SIZE, the same on its machine;
MASTER_ADDR and MASTER_PORT, where process 0 is met.
"""

import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

from ganctl.errors import ConfigError

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
STARTED_BY = ("RANK", "WORLD_SIZE")  # one of them says that this process is not alone
TIMEOUT = "GANCTL_TIMEOUT"  # seconds after which a process that does not answer is given up
MOST_PORT = 65535


class Place(NamedTuple):
    """A process among those of its run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine
    local_size: int = 1
    address: str = ""  # of process 0
    port: int = 0

    @property
    def name(self) -> str:
        """For messages, for example: process 3 on node7."""
        return f"process {self.rank} on {socket.gethostname()}"


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether something that starts the processes of a run has started this one."""
    return any(name in environment for name in STARTED_BY)


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """What the environment says; ConfigError if that is half said, or makes no sense."""
    if not launched(environment):
        return Place()
    if lacking := [name for name in NEEDED if name not in environment]:
        said = next(name for name in STARTED_BY if name in environment)
        raise _nonsense(f"{said} is set in the environment, but {lacking[0]} is not")
    rank, size, local_rank = (_count(environment, name) for name in NEEDED[:3])
    local_size = _count(environment, "LOCAL_WORLD_SIZE", default=size)
    port = _count(environment, "MASTER_PORT")
    if not 1 <= port <= MOST_PORT:
        raise _nonsense(f"MASTER_PORT is {port}, but ports go from 1 to {MOST_PORT}")
    if not rank < size:
        raise _nonsense(f"RANK is {rank}, but the last of {size} processes is {size - 1}")
    if not local_rank < local_size <= size:
        raise _nonsense(
            f"LOCAL_RANK is {local_rank}, but there are {local_size} of {size} processes here"
        )
    return Place(rank, size, local_rank, local_size, environment["MASTER_ADDR"], port)


def restarts(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """How often `torchrun` has started the run anew so far, and how often it would at most."""
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    so_far, most = (_count(environment, name, default=0) for name in names)
    return so_far, most


def timeout(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds, by default ten minutes."""
    given = environment.get(TIMEOUT, "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 1e6:
        raise ConfigError(f"{TIMEOUT} is {given!r}, but it is a number of seconds from 1")
    return seconds


def _count(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    given = environment.get(name, "" if default is None else str(default))
    if not given.isdecimal():
        raise _nonsense(f"{name} is {given!r} in the environment, but it must be a number")
    return int(given)


def _nonsense(message: str) -> ConfigError:
    hint = f"start it with `torchrun` or --processes, or alone: unset {' '.join(STARTED_BY)}"
    return ConfigError(message, hint)
