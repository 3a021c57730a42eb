"""How much main memory there is for this process, and a bound so that it takes no more.

Linux promises memory that it does not have. When such memory is used, the kernel ends a process,
this one or another, without a word. Bounded, a process is refused it instead, and can say so.
"""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
SHARE = 0.8  # of what is available; the rest is for what other programs come to need


class Group(NamedTuple):
    """How a version of Linux's control groups tells what a group of processes may have."""

    root: Path
    limit: str  # file names
    used: str
    cached: tuple[str, str]  # lines of memory.stat: files that are given up when memory is short


GROUPS = {  # by what /proc/self/cgroup calls them
    "": Group(
        Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("inactive_file", "active_file")
    ),
    "memory": Group(
        Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}  # fmt: skip


def available() -> int | None:
    """Bytes that this process can still have, by the machine and its groups; None if not known."""
    machine = _figures(PROC / "meminfo")
    if "MemAvailable" not in machine:
        return None
    room = 1024 * (machine["MemAvailable"] + machine.get("SwapFree", 0))
    return max(0, min([room, *_left_to_groups(room)]))


@contextmanager
def bounded(processes: int = 1) -> Iterator[int | None]:
    """Refuse this process more than its part of what is available now; yields that, in bytes.

    `processes` like this one share it. None, and no bound, where the system does not tell.
    """
    room, taken = available(), _figures(PROC / "self" / "status").get("VmData")
    if room is None or taken is None:
        yield None
        return
    part = int(SHARE * room / processes)
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    bound = 1024 * taken + part
    if before != resource.RLIM_INFINITY:
        bound = min(bound, before)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, most))
    try:
        yield part
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def _left_to_groups(room: int) -> Iterator[int]:
    """Bytes that control groups of this process have left, of those with less than `room`."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        for controller in controllers.split(","):
            if (kind := GROUPS.get(controller)) is None:
                continue
            own = kind.root / path.lstrip("/")
            for folder in (own, *own.parents):
                if not folder.is_relative_to(kind.root):
                    break
                limit, used = _text(folder / kind.limit), _text(folder / kind.used)
                if limit.isdecimal() and used.isdecimal() and int(limit) - int(used) < room:
                    stat = _figures(folder / "memory.stat")
                    cached = sum(stat.get(name, 0) for name in kind.cached)
                    yield int(limit) - int(used) + cached


def _figures(path: Path) -> dict[str, int]:
    """The whole numbers in lines like `MemAvailable:  21059260 kB` or `inactive_file 4096`."""
    found = re.findall(r"^(\w+):?\s+(\d+)(?: kB)?$", _text(path), re.MULTILINE)
    return {name: int(number) for name, number in found}


def _text(path: Path) -> str:
    """Without the end of the last line; nothing if there is no such file."""
    try:
        return path.read_text().rstrip()
    except OSError:
        return ""
