"""Files that are complete, or absent, also after a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, survive a power cut (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a complete file."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(text)
    sync(temporary)
    temporary.replace(path)
