"""What waiting threads cost beside other programs, and on quiet cores: settings of OpenMP in turns.

python -m benchmarks.busy                       # as the machine is
taskset -c 0,1 python -m benchmarks.busy --load 1 2    # beside one, and two, busy programs
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import rounds
from ganctl import busy, session
from ganctl.data.images import Images
from ganctl.data.labels import labels_of
from ganctl.data.packing import decode_some
from ganctl.data.sources import open_source
from ganctl.settings import presets
from ganctl.training.opening import classes_for

SIDES: dict[str, dict[str, str]] = {
    "as it is": {},
    "1,000 spins": {"GOMP_SPINCOUNT": "1000"},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
    "100,000 spins": {"GOMP_SPINCOUNT": "100000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WARM_UP = 2  # steps


def main() -> None:
    """Run all sides in turns and print a table for each load; with --side measure that one."""
    parser = rounds.parser(__doc__, list(SIDES))
    parser.add_argument("--preset", default="faces32")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--load", type=int, nargs="+", default=[0], help="busy programs beside it")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    chosen = parser.parse_args()
    if chosen.side:
        if not all(os.environ.get(name) == value for name, value in SIDES[chosen.side].items()):
            # The library reads them when it is loaded, so before this line.
            os.execve(
                sys.executable,
                [sys.executable, "-m", "benchmarks.busy", *sys.argv[1:]],
                os.environ | SIDES[chosen.side],
            )
        print(json.dumps(measure(chosen.preset, chosen.seconds)))
        return
    options = ["--preset", chosen.preset, "--seconds", str(chosen.seconds)]
    for load in chosen.load:
        taken = busy.taken_by_others() or 0.0
        with busy_programs(load):
            results = rounds.in_turns("benchmarks.busy", chosen.sides, chosen.rounds, options)
        title = f"{chosen.preset} beside {load} busy programs; others took {taken:.1f} cores before"
        rounds.report(title, results, [chosen.sides[0]], "seconds", chosen.json)


def measure(preset: str, seconds: float) -> rounds.Figures:
    """Seconds a step and images/s, of as many steps as fit."""
    config = presets.load(preset)
    data, optim = config.data, config.optim
    source = open_source(data.source, data.resolution)
    packed = decode_some(source, data.resolution, data.crop, optim.batch_size)
    labels = labels_of(source, packed, classes_for(config, source))
    tried = session.new(config, "cpu", Images(packed, labels))
    for _ in range(WARM_UP):
        tried.step()
    steps, started_at = 0, time.perf_counter()
    while not steps or time.perf_counter() - started_at < seconds:
        tried.step()
        steps += 1
    each = (time.perf_counter() - started_at) / steps
    return {"seconds": each, "images/s": optim.batch_size * optim.d_steps_per_g / each}


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many programs that each keep one core busy."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()
