"""What is said when memory is full: one sentence, and a hint that can be followed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ganctl.errors import OutOfMemoryError, shell_quoted
from ganctl.settings.config import Config
from ganctl.store.runs import Run


@contextmanager
def memory_for_images() -> Iterator[None]:
    """Turn Python's word for full memory into ours, while images are decoded."""
    try:
        yield
    except MemoryError as error:
        hint = "end other programs, or make the largest of the images smaller"
        raise OutOfMemoryError("out of memory while preparing images", hint) from error


@contextmanager
def out_of_memory_explained(config: Config, run: Run | None = None) -> Iterator[None]:
    """Turn torch's ways of saying that memory is full into one, with a hint that can be followed.

    `run` is one that may be resumed, whose settings are in a file.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        batch, parts = config.optim.batch_size, config.optim.grad_accumulation
        more = next((n for n in range(parts + 1, batch + 1) if batch % n == 0), None)
        hint = "start a run with smaller networks (model.width) or images (data.resolution)"
        if more is not None and (run is None or not run.has_checkpoints()):
            hint = f"--set optim.grad_accumulation={more} needs about {parts / more:.0%} of it"
        elif more is not None and run is not None:
            file = shell_quoted(run.folder / "config.yaml")
            again = f"ganctl resume {shell_quoted(run.folder)}"
            hint = f"set optim.grad_accumulation to {more} in {file}, then {again}"
        raise OutOfMemoryError(
            f"out of memory with batches of {batch} in {parts} part(s) of {batch // parts} images",
            hint=hint,
        ) from error
