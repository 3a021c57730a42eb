"""Files that are complete, or absent, also after a power cut; and none but those that are meant.

A run's folder may come from a stranger: what is opened in it must be a regular file, and what is
written must not be a link to something else. A pipe would wait for ever.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ANYBODY = "0" * 32  # in the place of a run's id, for what is written outside of runs


def sync(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, survive a power cut (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of the regular file `path`, made if `flags` say so; OSError if it is no such.

    What is opened for writing must be no link either; for reading links are followed.
    """
    writing = flags & (os.O_WRONLY | os.O_RDWR)
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | (os.O_NOFOLLOW if writing else 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link", str(path)) from error
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise OSError(errno.ENXIO, "it is not a regular file", str(path)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.ENXIO, "it is not a regular file", str(path))
    return descriptor


def appended(path: Path) -> IO[bytes]:
    """`path`, made if it is not there, for reading and for writing at its end."""
    return os.fdopen(open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "ab+")


def read_bytes(path: Path, most: int) -> bytes:
    """The contents of the regular file `path`; OSError also if they are more than `most` bytes."""
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        if os.fstat(file.fileno()).st_size > most or len(content := file.read(most + 1)) > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def write_text(path: Path, text: str, owner: str = ANYBODY) -> None:
    """Replace `path` by a complete file; `owner` is the id of the run that it is of."""
    with replacing(path, owner) as temporary:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        sync(temporary)


@contextmanager
def replacing(path: Path, owner: str = ANYBODY) -> Iterator[Path]:
    """A place beside `path` to write to; in the end it becomes `path`, after an error it is gone.

    For what is not worth waiting for the disk: it survives a kill, not a power cut.
    """
    temporary = place_beside(path, owner)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def place_beside(path: Path, owner: str = ANYBODY) -> Path:
    """A name for what is to become `path`, that nobody else has and nobody can foresee."""
    return path.with_name(f".ganctl-{owner}-{os.getpid()}-{secrets.token_hex(8)}")


def sweep(folder: Path, owner: str) -> None:
    """Delete what dead processes of the run `owner` left half-written in `folder`."""
    name = re.compile(rf"\.ganctl-{re.escape(owner)}-\d+-[0-9a-f]{{16}}")
    for path in folder.glob(".ganctl-*"):
        mode = path.lstat().st_mode
        if name.fullmatch(path.name) and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            path.unlink(missing_ok=True)


def lead(link: Path, target: Path, owner: str) -> None:
    """Make `link` a symbolic one to `target`, which is below its folder, in one moment."""
    temporary = place_beside(link, owner)
    temporary.symlink_to(target.relative_to(link.parent))
    temporary.replace(link)
