"""What is said when memory is full: one sentence, and a hint that can be followed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch

from ganctl.distributed import size
from ganctl.errors import OutOfMemoryError, shell_quoted
from ganctl.main_memory import bounded
from ganctl.processes import place
from ganctl.settings.config import Config
from ganctl.store.runs import Run

FULL = ("can't allocate memory", "out of memory", "alloc_failed")  # torch's words, in small letters


def is_full(error: BaseException) -> bool:
    """Whether memory ran out, in the words of Python, NumPy, or torch on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in FULL)


@contextmanager
def _explained(explanation: Callable[[int | None], OutOfMemoryError]) -> Iterator[None]:
    """One error for torch's ways of saying that memory is full; it is given the room in bytes."""
    with _bounded() as room:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_full(error):
                raise
            raise explanation(room) from error


def memory_explained(what: str, hint: str) -> AbstractContextManager[None]:
    """OutOfMemoryError with this hint if memory runs out while `what` is done."""
    return _explained(
        lambda room: OutOfMemoryError(f"out of memory while {what}{_there(room)}", hint)
    )


def memory_for_images() -> AbstractContextManager[None]:
    """While images are decoded."""
    hint = "end other programs, or make the largest of the images smaller"
    return memory_explained("preparing images", hint)


def out_of_memory_explained(config: Config, run: Run | None = None) -> AbstractContextManager[None]:
    """OutOfMemoryError with a hint that can be followed if memory runs out while training.

    `run` is one that may be resumed, whose settings are in a file.
    """
    return _explained(lambda room: _full(config, run, room))


def _full(config: Config, run: Run | None, room: int | None) -> OutOfMemoryError:
    batch, parts = config.optim.batch_size, config.optim.grad_accumulation
    more = next((n for n in range(parts + 1, batch + 1) if batch % (n * size()) == 0), None)
    hint = "start a run with smaller networks (model.width) or images (data.resolution)"
    if more is not None and (run is None or not run.has_checkpoints()):
        hint = f"--set optim.grad_accumulation={more} needs about {parts / more:.0%} of it"
    elif more is not None and run is not None:
        file = shell_quoted(run.folder / "config.yaml")
        again = f"ganctl resume {shell_quoted(run.folder)}"
        hint = f"set optim.grad_accumulation to {more} in {file}, then {again}"
    return OutOfMemoryError(
        f"out of memory with batches of {batch} in {parts} part(s) of {batch // parts}"
        f" images{_there(room)}",
        hint=hint,
    )


def _bounded() -> AbstractContextManager[int | None]:
    """A bound of main memory, but where a GPU's driver reserves more of it than is ever used."""
    return nullcontext() if _has_gpu() else bounded(place().local_size)


@cache
def _has_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _there(room: int | None) -> str:
    return "" if room is None else f" ({room / 1e9:.1f} GB were available)"
