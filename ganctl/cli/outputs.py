"""Where a command's results go: looked at before any work is done."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganctl.errors import ConfigError, StorageError, shell_quoted

MAX_NAME = 60  # letters of what is made up of an option, for example of seeds


def check_file(out: Path, *, force: bool) -> None:
    """ConfigError if `out` is there and not to be replaced, StorageError if its folder is not."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder", hint="name a file in it")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists", hint="--force replaces it")
    if not out.parent.is_dir():
        hint = f"mkdir -p {shell_quoted(out.parent)}"
        raise StorageError(f"cannot write {out}: there is no folder {out.parent}", hint)


def check_folder(out: Path) -> None:
    """ConfigError if there is something in it, which must not be mixed with what is to come."""
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} has something in it", "name another folder, or delete that one")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, not a folder", "name a folder, or x.png, .npz or .zip")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """StorageError that names `out` if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error


def name_part(text: str) -> str:
    """`text` as a part of a file's name, which differs where texts do even if it is cut."""
    part = re.sub(r"[^\w.,-]", "-", text).lstrip("-.")
    if len(part) <= MAX_NAME:
        return part
    return f"{part[:MAX_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
