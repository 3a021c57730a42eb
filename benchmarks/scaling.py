"""Several processes of one thread each against one process of as many threads, on CPUs, in turns.

python -m benchmarks.scaling
python -m benchmarks.scaling --preset faces32 --batch-size 64 --rounds 3
python -m benchmarks.scaling --expected          what GPUs should give: computed, not measured
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import expected_scaling, rounds
from benchmarks.train_step import STEPS, WARM_UP, session_on_noise, timed
from ganctl import distributed
from ganctl.cli.launching import Crew
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.settings.strict_yaml import Value

WORKER = "GANCTL_BENCHMARK_WORKER"  # set in the processes that measure, to the options they need


class Traffic:
    """Bytes given to collective operations while it is entered, and seconds spent in them.

    All processes meet before each operation: so that waiting for the slowest is not taken for
    sending.
    """

    def __init__(self) -> None:
        self.bytes, self.calls, self.waiting, self.sending = 0, 0, 0.0, 0.0
        self._honest: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> "Traffic":
        for name in ("all_reduce", "all_gather"):
            self._honest[name] = getattr(dist, name)
            setattr(dist, name, self._counted(name))
        return self

    def __exit__(self, *exception: object) -> None:
        for name, honest in self._honest.items():
            setattr(dist, name, honest)

    def _counted(self, name: str) -> Callable[..., Any]:
        honest = self._honest[name]

        def counted(*arguments: Any, **options: Any) -> Any:
            tensor: torch.Tensor = arguments[-1] if name == "all_gather" else arguments[0]
            begun = time.perf_counter()
            dist.barrier()
            met = time.perf_counter()
            answer = honest(*arguments, **options)
            self.waiting += met - begun
            self.sending += time.perf_counter() - met
            self.calls += 1
            # Sent by each process of a ring: all-reduce passes a tensor around nearly twice.
            share = (distributed.size() - 1) / distributed.size()
            passes = 2 * share if name == "all_reduce" else distributed.size() - 1
            self.bytes += round(passes * tensor.nbytes)
            return answer

        return counted


def main() -> None:
    """Run both sides in turns and print the table; with --side measure that one."""
    if options := os.environ.get(WORKER):
        work(**json.loads(options))
        return
    cores = os.cpu_count() or 1
    sides = (f"1 process, {cores} threads", f"{cores} processes, 1 thread")
    parser = rounds.parser(__doc__, sides)
    parser.add_argument("--preset", default="celeba64")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--expected", action="store_true")
    chosen = parser.parse_args()
    if chosen.expected:
        print(expected_scaling.tables())
        return
    if chosen.side:
        given = {name: getattr(chosen, name) for name in ("preset", "batch_size", "precision")}
        os.environ[WORKER] = json.dumps(given)
        count = 1 if chosen.side == sides[0] else cores
        os.environ["OMP_NUM_THREADS"] = str(cores // count)
        command = [sys.executable, "-m", "benchmarks.scaling"]
        code = Crew(command, count).run() if count > 1 else subprocess.call(command)
        raise SystemExit(code)
    own = ["--preset", chosen.preset, "--batch-size", str(chosen.batch_size)]
    own += ["--precision", chosen.precision]
    results = rounds.in_turns("benchmarks.scaling", sides, chosen.rounds, own)
    title = f"one step of {chosen.preset}, batch {chosen.batch_size}, {chosen.precision}"
    rounds.report(title, results, sides[:1], "seconds", chosen.json)


def work(preset: str, batch_size: int, precision: str) -> None:
    """Measure in this process, which may be one of several; the first one prints JSON."""
    changes: dict[str, Value] = {"optim.batch_size": batch_size, "train.precision": precision}
    config = replace(presets.load(preset), changes)
    with distributed.joined("cpu") as name:
        made = session_on_noise(config, name)
        for _ in range(WARM_UP):
            made.step()
        median = statistics.median(timed(made.step, made.device) for _ in range(STEPS))
        with Traffic() as traffic:
            watched = sum(timed(made.step, made.device) for _ in range(STEPS))
        if distributed.is_first():
            print(json.dumps({
                "seconds": median,
                "images/s": batch_size / median,
                "MB sent": traffic.bytes / STEPS / 1e6,
                "operations": traffic.calls / STEPS,
                "sending %": 100 * traffic.sending / watched,
                "waiting %": 100 * traffic.waiting / watched,
            }))  # fmt: skip


if __name__ == "__main__":
    main()
