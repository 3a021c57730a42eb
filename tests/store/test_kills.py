"""kill -9 at random moments of real saves and of a real training: nothing acknowledged is lost."""

import json
from pathlib import Path

from warm import Program

VICTIMS = Path(__file__).parent / "victims.py"


def counts_of(*arguments: str) -> dict[str, int]:
    process = Program(
        f"import runpy; runpy.run_path({str(VICTIMS)!r}, None, '__main__')", *arguments
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    counts: dict[str, int] = json.loads(out.splitlines()[-1])
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
