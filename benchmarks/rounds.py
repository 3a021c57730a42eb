"""Sides measured in turns, each round of each side in a fresh process of its own."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

Figures = dict[str, float]
ROOT = Path(__file__).parent.parent


def parser(description: str | None, sides: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all benchmarks have; --side is how a round calls its own script."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    made.add_argument("--json", action="store_true")
    return made


def in_turns(
    module: str, sides: Sequence[str], rounds: int, options: Sequence[str]
) -> dict[str, list[Figures]]:
    """What `python -m module --side SIDE options` prints as JSON, A B C, A B C, ..."""
    results: dict[str, list[Figures]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            print(f"round {number + 1} of {rounds}: {side}", file=sys.stderr)
            command = [sys.executable, "-m", module, "--side", side, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def report(
    title: str, results: dict[str, list[Figures]], baselines: Sequence[str], key: str, as_json: bool
) -> None:
    """A table of medians, and of `key` as ratios to each baseline, round by round; or JSON."""
    medians = {
        side: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for side, rows in results.items()
    }
    ratios = {
        side: {
            base: [b[key] / a[key] for a, b in zip(rows, results[base], strict=True)]
            for base in baselines
        }
        for side, rows in results.items()
    }
    if as_json:
        print(json.dumps({"title": title, "medians": medians, "ratios": ratios}))
        return
    table = Table(title=title)
    names = list(next(iter(medians.values())))
    for name in ("side", *names, *(f"x {base} (min-max)" for base in baselines)):
        table.add_column(name, justify="left" if name == "side" else "right")
    for side, row in medians.items():
        cells = [f"{row[name]:,.4g}" for name in names]
        for base in baselines:
            pairs = ratios[side][base]
            cells.append(f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})")
        table.add_row(side, *cells)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def resident_peak() -> float:
    """GB: the most main memory this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
