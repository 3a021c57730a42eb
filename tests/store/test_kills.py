"""kill -9 at random moments of real saves and of a real training: nothing acknowledged is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

VICTIMS = Path(__file__).parent / "victims.py"
ROOT = VICTIMS.parent.parent.parent


def counts_of(*arguments: str) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(VICTIMS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(f"{arguments[0]}: {counts}")
    return counts


def test_sixty_kills_during_saves_lose_nothing() -> None:
    counts = counts_of("saves", "60")
    assert counts["kills"] == 60
    assert counts["half-written files"] >= 30, "the kills did not come in the middle of saves"
    assert (counts["lost"], counts["wrong"]) == (0, 0)


def test_a_training_killed_ten_times_ends_in_the_same_bytes(photos: Path) -> None:
    counts = counts_of("trainings", "10", str(photos))
    assert counts["kills"] == 10
    assert counts["resumed"] == 9
    assert counts["different"] == 0


def test_files_that_may_not_grow_are_refused_at_every_size() -> None:
    counts = counts_of("limits")
    assert counts["refused"] == counts["limits"] > 20
    assert counts["harmed"] == 0
