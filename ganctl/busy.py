"""What other programs take of this machine's cores, and what is done about it before torch comes.

Threads that compute together wait for each other at every operation, and wait by spinning: for the
core that another program has they wait a time slice, and keep a second core from it meanwhile.
"""

import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path

STAT = Path("/proc/stat")
LOOKED_AT = 0.3  # seconds
BUSY = 0.3  # cores that others take: a browser or a backup, not the odd background task
# Of GCC's OpenMP, which torch is built with on Linux: how often a waiting thread looks before it
# sleeps. Its own default is 300,000 times, a millisecond or so.
SPINS, FEW_SPINS = "GOMP_SPINCOUNT", "1000"
THREADS = "OMP_NUM_THREADS"
CHOSEN_ALREADY = (SPINS, "OMP_WAIT_POLICY")  # by the user


def prepare(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Let waiting threads sleep if other programs take cores; what is to be said of it then.

    That is for when the work begins: what is wrong with a command comes first. Nothing can be done
    once torch is loaded. On quiet cores nothing is changed, since sleeping and
    waking costs there. Which bytes a run computes does not depend on it.
    """
    if "torch" in sys.modules:
        return None
    taken, cores = taken_by_others(), len(own_cores())
    if taken is None or taken < BUSY:
        return None
    if not any(name in environment for name in CHOSEN_ALREADY):
        environment[SPINS] = FEW_SPINS
    remedy = f"; {THREADS}={max(1, int(cores - taken))} before the command can help meanwhile"
    return (
        f"other programs take {taken:.1f} of {cores} cores: training is slower until they end"
        f"{'' if THREADS in environment else remedy}"
    )


def taken_by_others() -> float | None:
    """Cores, of those that this process may use, which others keep busy now; None if not known.

    This process sleeps meanwhile. Only Linux tells.
    """
    before = _times()
    time.sleep(LOOKED_AT)
    after = _times()
    if not before or before.keys() != after.keys():
        return None
    return busy_cores(before, after)


def busy_cores(
    before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]]
) -> float:
    """From (idle, total) ticks of each core."""
    share = 0.0
    for core, (idle, total) in after.items():
        passed = total - before[core][1]
        share += 1 - (idle - before[core][0]) / passed if passed > 0 else 0.0
    return share


def _times() -> dict[int, tuple[int, int]]:
    """(idle, total) ticks of each core of ours since the machine was started; {} if not told."""
    try:
        lines = STAT.read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in own_cores():
            ticks = [int(value) for value in values[:8]]  # what guests take is in them already
            found[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))  # idle, and waiting for a disk
    return found


def own_cores() -> set[int]:
    """The numbers of the cores that this process may use, which a scheduler may have made few."""
    try:
        return set(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return set(range(os.cpu_count() or 1))
