"""Processes that are killed while they save or train, and what is found afterwards.

Run by test_kills.py in a process of its own: it imports torch once and forks every victim, so that
sixty kills take seconds. Prints one JSON object with counts.

python tests/victims.py saves 60
python tests/victims.py limits
python tests/victims.py trainings 10 photos/
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ganctl.cli.app import main
from ganctl.errors import StorageError
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.store import checkpoint, runs
from ganctl.store.runs import Run

WEIGHTS = 200_000  # so that a save takes milliseconds, some of which are in each of its phases
SEED = 20_240


def payload(step: int) -> dict[str, Any]:
    """A function of the step, to be compared after the kill."""
    generator = torch.Generator().manual_seed(step)
    return {"generator": {"w": torch.randn(WEIGHTS, generator=generator)}, "step": step}


def forked(victim: Callable[[], None]) -> int:
    """The id of a child that runs `victim` and nothing else."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            victim()
            status = 0
        finally:
            os._exit(status)
    return child


def save_for_ever(folder: Path, first: int, pipe: int) -> None:
    run = runs.find(folder)
    run.lock()
    run.sweep()
    for step in range(first, first + 10_000):
        run.save(step, payload(step), {"step": step}, keep=2)
        os.write(pipe, step.to_bytes(8, "little"))


def kill_saves(trials: int) -> dict[str, int]:
    """Kill a process that only saves, at random moments, and look at what is there."""
    config = replace(presets.load("faces32"), {"model.width": 8})
    made = runs.create(Path("saves"), "x", config)
    os.close(made._lock or 0)  # this process only looks
    chance = random.Random(SEED)
    counts = {"kills": 0, "half-written files": 0, "lost": 0, "wrong": 0, "saved": 0}
    newest = 0
    for _ in range(trials):
        reader, writer = os.pipe()
        child = forked(lambda: save_for_ever(made.folder, newest + 1, writer))  # noqa: B023
        os.close(writer)
        os.read(reader, 8)  # at least one save first
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = newest + 1 + len(os.read(reader, 2**20)) // 8
        os.close(reader)
        counts["kills"] += 1
        counts["half-written files"] += len(list(made.checkpoints.glob(".tmp-*")))
        path = made.newest_checkpoint()
        found, _ = checkpoint.read(path)
        counts["lost"] += found["step"] < acknowledged
        expected = checkpoint.digest_of(payload(found["step"]))
        counts["wrong"] += (
            checkpoint.digest_of({k: found[k] for k in ("generator", "step")}) != expected
        )
        newest = found["step"]
    counts["saved"] = newest
    return counts


def save_under_a_limit(run: Run, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run.save(2, payload(2), {}, keep=2)
    except StorageError as error:
        assert "File too large" in error.message, error.message
        os._exit(5)


def limit_saves() -> dict[str, int]:
    """Files that may not grow beyond a limit: the system's own error, at many sizes."""
    run = runs.create(Path("limits"), "x", presets.load("faces32"))
    run.save(1, payload(1), {}, keep=2)
    first = run.newest_checkpoint()
    before, size = first.read_bytes(), first.stat().st_size
    counts = {"limits": 0, "refused": 0, "harmed": 0}
    for limit in [0, 1, 100, *range(size // 20, size, size // 20), size - 1]:
        child = forked(lambda: save_under_a_limit(run, limit))  # noqa: B023
        counts["limits"] += 1
        counts["refused"] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        names = sorted(path.name for path in run.checkpoints.iterdir())
        counts["harmed"] += names != [first.name] or first.read_bytes() != before
    return counts


def sections(folder: Path) -> dict[str, Any]:
    return dict(checkpoint.read(runs.find(folder).newest_checkpoint())[1]["sections"])


def kill_trainings(trials: int, photos: str) -> dict[str, int]:
    """Kill one run again and again, resume it each time, and compare it with an unharmed one."""
    common = ["--data", photos, "--set", "model.width=8", "--set", "model.latent_dim=8"]
    common += ["--batch-size", "4", "--precision", "fp32", "--set", "train.checkpoint_every=7"]
    train = ["train", *common, "--steps", "240"]
    assert main([*train, "--run", "whole"]) == 0  # also imports all that the victims need
    chance = random.Random(SEED)
    counts = {"kills": 0, "resumed": 0, "different": 0}
    command = [*train, "--run", "killed"]
    while counts["kills"] < trials:
        child = forked(lambda: sys.exit(main(command)))  # noqa: B023
        time.sleep(chance.uniform(0.15, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts["kills"] += 1
        checkpoints = Path("killed") / "checkpoints"
        if checkpoints.exists() and list(checkpoints.glob("step-*.pt")):
            counts["resumed"] += command[0] == "resume"
            command = ["resume", "killed"]
        elif Path("killed").exists():
            Path("killed").rename(f"too-early-{counts['kills']}")
    assert main(["resume", "killed"]) == 0
    counts["different"] = int(sections(Path("killed")) != sections(Path("whole")))
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, *rest = sys.argv[1:]
    if kind == "saves":
        print(json.dumps(kill_saves(int(rest[0]))))
    elif kind == "limits":
        print(json.dumps(limit_saves()))
    else:
        print(json.dumps(kill_trainings(int(rest[0]), rest[1])))
