"""Where a command's results go: looked at before any work is done."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganctl.errors import ConfigError, StorageError, shell_quoted

MAX_NAME = 44  # bytes of what is made up of an option, for example of seeds


def check_file(out: Path, *, force: bool) -> None:
    """ConfigError if `out` is there and not to be replaced, StorageError if its folder is not."""
    with writing(out):  # a name may be too long even to ask whether it is there
        if out.is_dir():
            raise ConfigError(f"{out} is a folder", hint="name a file in it")
        if out.exists() and not force:
            raise ConfigError(f"{out} exists", hint="--force replaces it")
        if not out.parent.is_dir():
            hint = f"mkdir -p {shell_quoted(out.parent)}"
            raise StorageError(f"cannot write {out}: there is no folder {out.parent}", hint)


def check_folder(out: Path) -> None:
    """ConfigError if there is something in it, which must not be mixed with what is to come."""
    with writing(out):
        if out.is_dir() and any(out.iterdir()):
            hint = "name another folder, or delete that one"
            raise ConfigError(f"{out} has something in it", hint)
        if out.exists() and not out.is_dir():
            hint = "name a folder, or x.png, .npz or .zip"
            raise ConfigError(f"{out} is a file, not a folder", hint)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """StorageError that names `out` if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error


def name_part(text: str) -> str:
    """`text` as a part of a file's name, which differs where texts do even if it is cut.

    It is short enough for a name of four such parts and a few words.
    """
    part = re.sub(r"[^\w.,-]", "-", text).lstrip("-.")
    if len(part.encode()) <= MAX_NAME:
        return part
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{part.encode()[:MAX_NAME].decode(errors='ignore')}-{digest[:8]}"
