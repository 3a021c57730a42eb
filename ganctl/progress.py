"""How work that takes a while says how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # done, of how many


def silent(done: int, total: int) -> None:
    """Progress that nobody is shown."""
