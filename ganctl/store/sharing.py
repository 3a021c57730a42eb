"""A run's folder where several processes train it: the first one opens it, and alone writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganctl.distributed import first_does, is_first
from ganctl.store.runs import Run


def opened(make: Callable[[], Run]) -> Run:
    """The run that `make` returns and locks, in the first process; in others the same, unlocked."""
    made: list[Run] = []

    def identity() -> list[str]:
        made.append(make())
        return [str(made[0].folder), made[0].run_id]

    folder, run_id = first_does(identity)
    return made[0] if made else Run(Path(folder), run_id)


def note(
    run: Run, state: str, step: int, exit_code: int = 0, *, event: str = "", **facts: Any
) -> None:
    """Set the run's status, and add `event`, or the status, to its history."""
    if is_first():
        run.journal.set_status(state, step, facts.get("reason", ""), exit_code)
        run.journal.record(event or state, step, **facts)
