"""`python -m tests.fuzz --minutes 30 --seed 1`; prints every finding, exits with 1 if there is one."""

import argparse
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch

from tests.fuzz.adversary import Adversary, Outcome

SLOW, FLOOR = 10, 3.0  # times a command's usual processor time, and at least so many seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one, with what it said")
    parser.add_argument("--first", type=int, default=0, help="begin with this case")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        adversary = Adversary(Path(folder))
        if chosen.case is not None:
            print(_told(chosen.case, adversary.play(chosen.seed, chosen.case), whole=True))
            return 0
        return _play(adversary, chosen.seed, chosen.first, 60 * chosen.minutes)


def _play(adversary: Adversary, seed: int, case: int, seconds: float) -> int:
    codes, findings = Counter[int](), 0
    taken = defaultdict[tuple[str, int], list[float]](list)  # by command and exit code
    first, ends = case, time.monotonic() + seconds
    while time.monotonic() < ends:
        outcome = adversary.play(seed, case)
        usual = taken[outcome.words[0], outcome.code]
        if len(usual) > 20 and outcome.seconds > max(FLOOR, SLOW * statistics.median(usual)):
            outcome = outcome._replace(finding=f"{outcome.seconds:.1f} s of processor time")
        usual.append(outcome.seconds)
        codes[outcome.code] += 1
        if outcome.finding:
            findings += 1
            print(_told(case, outcome, whole=False), flush=True)
        case += 1
    ways = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    print(f"seed {seed}, cases {first} to {case - 1}: {findings} findings; exit codes {ways}")
    return int(findings > 0)


def _told(case: int, outcome: Outcome, *, whole: bool) -> str:
    said = outcome.said if whole else outcome.said[-600:]
    lines = [
        f"case {case}: {outcome.finding or 'all well'} (exit {outcome.code}, {outcome.seconds:.1f} s)"
    ]
    lines += [f"  damage: {each}" for each in outcome.damages]
    lines += [
        f"  ganctl {' '.join(map(repr, outcome.words))}",
        *(f"  | {line}" for line in said.splitlines()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
