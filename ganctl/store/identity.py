"""Which run a folder is: run.json, written once. Its name says nothing: that can be changed."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ganctl.errors import CheckpointError, StorageError
from ganctl.store.durable import read_bytes

FILE = "run.json"
MAX_BYTES = 64 * 1024
MAX_ORDER = 2**53
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes a part of files' names


class Identity(NamedTuple):
    """What run.json says."""

    run_id: str
    order: int  # its place among the runs beside it: 1 for the first


def read(folder: Path) -> Identity:
    """Of the run in `folder`; CheckpointError if its run.json makes no sense."""
    try:
        found = _read(folder)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise CheckpointError(f"{folder / FILE} {reason}") from error
    if found is None:
        raise CheckpointError(f"{folder / FILE} is damaged")
    return found


def check(folder: Path, run_id: str) -> None:
    """StorageError unless `folder` is still that of the run `run_id`.

    A folder can be moved, deleted or replaced while its run is trained.
    """
    try:
        found = _read(folder)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror or error}") from error
    if found is None or found.run_id != run_id:
        hint = "something replaced the folder while the run was trained in it"
        raise StorageError(f"{folder} is not the folder of this run any more", hint)


def check_parts(folder: Path, names: tuple[str, ...]) -> None:
    """StorageError if one of the folders `names` in `folder` is a link, which may lead anywhere."""
    for name in names:
        if (folder / name).is_symlink():
            hint = f"a run may be a link as a whole, but nothing in it: move {name} there"
            raise StorageError(f"cannot write to {folder / name}: it is a link", hint)


def _read(folder: Path) -> Identity | None:
    """None if run.json is there and makes no sense."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    try:
        content: Any = json.loads(read_bytes(folder / FILE, MAX_BYTES))
        run_id, order = content["id"], content["order"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(run_id, str) or not ID.fullmatch(run_id):
        return None
    if type(order) is not int or not 0 <= order <= MAX_ORDER:
        return None
    return Identity(run_id, order)
