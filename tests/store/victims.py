"""Processes that are killed while they save or train, and what is found afterwards.

Run by test_kills.py in a process of its own: it imports torch once and forks every victim, so that
sixty kills take seconds. Prints one JSON object with counts.

python tests/store/victims.py saves 60
python tests/store/victims.py limits
python tests/store/victims.py trainings 10 photos/
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
CHANCE = random.Random(20_240)


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


def half_written(run: Run) -> int:
    """How many files of `run` were begun and not published."""
    return len(list(run.checkpoints.glob(".ganctl-*")))


def kill(child: int, ready: Callable[[], bool]) -> None:
    """kill -9 at a random moment at which `ready` says so, while the child stands still."""
    while True:
        time.sleep(CHANCE.uniform(0, 0.03))
        os.kill(child, signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED)
        if ready():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        os.kill(child, signal.SIGCONT)


def kill_saves(trials: int) -> dict[str, int]:
    """Kill a process that only saves, every second time in the middle of a file."""
    config = replace(presets.load("faces32"), {"model.width": 8})
    made = runs.create(Path("saves"), "x", config)
    os.close(made._lock or 0)  # this process only looks
    counts = {"kills": 0, "half-written files": 0, "lost": 0, "wrong": 0, "saved": 0}
    newest = 0
    for trial in range(trials):
        reader, writer = os.pipe()
        child = forked(lambda: save_for_ever(made.folder, newest + 1, writer))  # noqa: B023
        os.close(writer)
        os.read(reader, 8)  # at least one save first
        kill(child, lambda: trial % 2 == 0 or half_written(made) > 0)  # noqa: B023
        acknowledged = newest + 1 + len(os.read(reader, 2**20)) // 8
        os.close(reader)
        counts["kills"] += 1
        counts["half-written files"] += half_written(made)
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


def told_of_saves(victim: Callable[[], object], pipe: int) -> None:
    """Run `victim`, which writes one byte into `pipe` after each checkpoint it publishes."""
    save = Run.save

    def save_and_tell(*arguments: Any) -> Path:
        path = save(*arguments)
        os.write(pipe, b".")
        return path

    Run.save = save_and_tell  # type: ignore[method-assign]
    victim()


def kill_trainings(trials: int, photos: str) -> dict[str, int]:
    """Kill one run again and again, resume it each time, and compare it with an unharmed one.

    Each victim has saved before it is killed, however slow the machine is, and none can reach its
    last step, however fast. Where the kills come is left to chance.
    """
    common = ["--data", photos, "--set", "model.width=8", "--set", "model.latent_dim=8"]
    common += ["--batch-size", "4", "--precision", "fp32", "--set", "train.checkpoint_every=7"]
    assert main(["train", *common, "--steps", "1", "--run", "first"]) == 0  # imports all, packs
    counts = {"kills": 0, "resumed": 0, "different": 0}
    command = ["train", *common, "--steps", str(10**9), "--run", "killed"]
    for _ in range(trials):
        reader, writer = os.pipe()
        child = forked(lambda: told_of_saves(lambda: main(command), writer))  # noqa: B023
        os.close(writer)
        assert os.read(reader, 1), "the training ended before it saved"
        time.sleep(CHANCE.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        counts["kills"] += 1
        counts["resumed"] += command[0] == "resume"
        command = ["resume", "killed"]
    saved = checkpoint.peek(runs.find(Path("killed")).newest_checkpoint())["step"]
    last = ["--steps", str(saved + 7)]
    assert main(["resume", "killed", *last]) == 0
    assert main(["train", *common, *last, "--run", "whole"]) == 0
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
