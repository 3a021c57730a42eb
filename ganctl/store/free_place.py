"""Whether a new run can be where it is wanted, known before any image is prepared for it."""

import tempfile
from pathlib import Path

from ganctl.errors import ConfigError, RunBusyError, StorageError, shell_quoted
from ganctl.store import identity


def check(folder: Path | None) -> None:
    """An error unless `folder` is free for a new run, and can be; None always is."""
    if folder is None:
        return
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.is_symlink():
            raise StorageError(f"cannot write to {folder}: it is a link to nothing") from error
        return
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from error
    if not folder.is_dir():
        raise ConfigError(f"--run {folder} is a file, not a folder")
    if (folder / identity.FILE).exists():
        hint = f"go on with `ganctl resume {shell_quoted(folder)}`, or choose another --run"
        raise RunBusyError(f"{folder} holds a run already", hint)
    here = folder.resolve() == Path.cwd()
    if here or any(folder.glob(f"*/{identity.FILE}")):
        hint = "a run needs a folder of its own; --run can name one that does not exist yet"
        which = "the current folder" if here else "a folder of runs"
        raise ConfigError(f"--run {str(folder)!r} is {which}", hint)


def check_writable(folder: Path) -> None:
    """StorageError unless `folder` can be made, or written to; nothing of the trial stays.

    A trial, because permissions do not tell of a full disk, or of a system such as /proc.
    """
    try:
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryDirectory(prefix=".ganctl-", dir=above).cleanup()
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> StorageError:
    """What is said if a new run cannot be in `folder`."""
    reason = f"cannot write to {folder}: {error.strerror}"
    return StorageError(reason, "--run DIR chooses another place")
