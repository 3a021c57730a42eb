"""Where a run's images are, and whether they are still those that it was trained on.

What they are is a digest of their pixels, labels and classes as prepared: not of paths and times.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ganctl.data.sources import NAMED, found
from ganctl.errors import CheckpointError, ConfigError, DataError, shell_quoted
from ganctl.settings.config import Config
from ganctl.store.contents import Description
from ganctl.store.runs import Run


def absolute(source: str) -> str:
    """`source` as it is called from any folder, if it is there and has no name of its own."""
    path = None if source in NAMED else found(source)
    return source if path is None else str(path.resolve())


def check_apart(folder: Path, source: str) -> None:
    """ConfigError if a run's own pictures would be among the images it is trained on."""
    images = None if source in NAMED else found(source)
    place = Path(os.path.realpath(folder))  # unlike resolve, it has no quarrel with loops of links
    if images is not None and images.is_dir() and place.is_relative_to(images.resolve()):
        hint = "choose another --run, or move the images to a folder of their own"
        raise ConfigError(f"{folder} would be inside the folder of images, {source}", hint)


def check_there(run: Run, config: Config) -> None:
    """DataError if there is nothing where the images of the run are said to be."""
    source = config.data.source
    if source not in NAMED and found(source) is None:
        raise DataError(
            f"there are no images at {source}, from where {run.folder} takes them",
            hint=f"if they were moved: ganctl resume {shell_quoted(run.folder)} --data WHERE",
        )


def check_same(now: dict[str, Any], saved: Description, run: Run, config: Config) -> None:
    """DataError unless the images are those that the run was trained on, wherever they are."""
    if any(now[name] != getattr(saved.data, name) for name in ("fingerprint", "classes", "labels")):
        counts = f"{now['n']:,} now, {saved.data.n:,} then"
        raise DataError(
            f"the images at {config.data.source} are not those that {run.folder} was trained on"
            f" ({counts})",
            hint="restore them, say where they are with `ganctl resume RUN --data WHERE`, or start"
            " another run on the new ones with `ganctl train`",
        )


def held_out(saved: Description, path: Path) -> np.ndarray:
    """(K,) int64: the images that the run was not trained on so far, and goes on without."""
    numbers = saved.data.held_out
    possible = not numbers or (min(numbers) >= 0 and max(numbers) < saved.data.n > len(numbers))
    if not possible or len(set(numbers)) != len(numbers):
        raise CheckpointError(f"{path}: its metadata is bad at data.held_out: no such images")
    return np.array(numbers, dtype=np.int64)
