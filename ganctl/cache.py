"""Where prepared images, and what was measured of this machine, are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$GANCTL_CACHE, or ganctl/ in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    if chosen := os.environ.get("GANCTL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganctl"
