"""Files that are complete, or absent, also after a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; in the end it becomes `path`, after an error it is gone.

    For what is not worth waiting for the disk: it survives a kill, not a power cut.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
