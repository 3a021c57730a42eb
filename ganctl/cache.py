"""Where prepared images, and what was measured of this machine, are kept between runs."""

import os
from pathlib import Path

from ganctl.errors import StorageError


def cache_folder() -> Path:
    """$GANCTL_CACHE, or ganctl/ in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache).

    StorageError if the user has none.
    """
    if chosen := os.environ.get("GANCTL_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganctl"
    except RuntimeError as error:  # as of a user of a container that has no name
        hint = "GANCTL_CACHE=FOLDER chooses a place"
        raise StorageError("there is no home folder to keep the image cache in", hint) from error
