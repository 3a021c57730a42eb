"""One checkpoint file: written atomically, verified before anything is believed, safe to open.

The file is what `torch.save` writes, an ordinary zip archive, plus two things:

    archive/data.pkl, archive/data/*    the payload; `torch.load(path, weights_only=True)` reads it
    archive/ganctl.json                 the metadata, readable without torch
    the archive's end comment           "ganctl-sha256:" and the SHA-256 of all bytes before it

torch checks no checksum when it loads, and a damaged file can load without an error and with other
contents; so the digest over the whole file is checked first. The digest shows damage, not origin:
safety rests on `archive.py`, a reader of its own that knows plain values and whole tensors only.
"""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ganctl.errors import CheckpointError, StorageError
from ganctl.store import archive
from ganctl.store.durable import ANYBODY, open_regular, place_beside, sync

FORMAT = "ganctl.ckpt"
VERSION = 1
METADATA_MEMBER = "archive/ganctl.json"
MARK = b"ganctl-sha256:"
DIGEST_BYTES = 64  # hexadecimal
MAX_METADATA_BYTES = 4 * 1024**2
BLOCK = 4 * 1024**2
DAMAGED_HINT = "use another checkpoint of the run"
MALFORMED = (  # what zipfile and json raise for bytes that make no sense
    zipfile.BadZipFile, NotImplementedError, EOFError, KeyError, ValueError, RecursionError,
)  # fmt: skip

DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip

Payload = dict[str, Any]  # sections of plain values and CPU tensors
Metadata = dict[str, Any]  # plain JSON


class NewerFormatError(CheckpointError):
    """A whole checkpoint of a format that only newer versions know: it is not damaged."""


def write(path: Path, payload: Payload, metadata: Metadata, owner: str = ANYBODY) -> None:
    """Publish `path` complete and verified, or not at all: StorageError, and no trace of it.

    `path` must not exist: a published checkpoint is never changed. When this returns, the file
    survives a power cut. `owner` is the id of the run that it is of.
    """
    if os.path.lexists(path):
        raise StorageError(f"{path} exists, and a checkpoint is never overwritten")
    temporary = place_beside(path, owner)
    needed = sum(v.nbytes for _, v in _leaves(payload, "") if isinstance(v, Tensor))
    try:
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary.open("x+b") as file:
            _write_archive(file, payload, _complete(metadata, payload))
            file.flush()
            os.fsync(file.fileno())
        read(temporary)  # what was written can be opened safely, before anything relies on it
        temporary.rename(path)
        try:
            sync(path.parent)
        except OSError:
            path.unlink()
            raise
    except (OSError, RuntimeError, CheckpointError) as error:
        size = f"{needed / 1e6:,.1f} MB"
        raise StorageError(
            f"could not save {path} ({size}): {_storage_cause(error)}",
            hint="free some space or check the disk",
        ) from error
    finally:
        with suppress(OSError):  # on a disk that failed; `Run.sweep` removes what is left
            temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Payload, Metadata]:
    """The verified contents of `path`, tensors on the CPU; CheckpointError says what is wrong."""
    with _opened(path) as file:
        size = _check_digest(file, path)
        metadata = _read_metadata(file, size, path)
        sketch = archive.sketch(file)
        if not isinstance(sketch, dict) or sketch.get("metadata") != metadata:
            raise CheckpointError(f"{path} contradicts itself: its copies of the metadata differ")
        with zipfile.ZipFile(file) as members:
            payload: Payload = _tensors(sketch, members)
    return payload, metadata


def verify(path: Path) -> Metadata:
    """The metadata of `path` after checking the digest, without loading tensors."""
    with _opened(path) as file:
        size = _check_digest(file, path)
        return _read_metadata(file, size, path)


def is_ours(path: Path) -> bool:
    """Whether ganctl saved `path`, though its last bytes may be lost; CheckpointError if unread."""
    with regular_file(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(MARK) - DIGEST_BYTES))
        return MARK in file.read() or _has_metadata(file)


def peek(path: Path) -> Metadata:
    """What `path` says of itself, its digest unchecked: enough to see whose it is."""
    with _opened(path) as file:
        return _read_metadata(file, file.seek(0, os.SEEK_END), path)


@contextmanager
def regular_file(path: Path) -> Iterator[IO[bytes]]:
    """`path` for reading; CheckpointError if it is no plain file or the disk fails."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            yield file
    except IsADirectoryError as error:
        hint = "a run's folder has a checkpoints/ folder in it"
        raise CheckpointError(f"{path} is a folder without checkpoints", hint) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise CheckpointError(f"{path} is not a regular file") from error
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def digest_of(section: object) -> str:
    """SHA-256 of every name, type, shape and byte in nested dicts, lists, tensors and values."""
    digest = hashlib.sha256()
    for name, value in _leaves(section, ""):
        if isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(content.data)
        else:
            digest.update(f"{name}\0{value!r}\0".encode())
    return digest.hexdigest()


def _complete(metadata: Metadata, payload: Payload) -> Metadata:
    sections = {name: {"sha256": digest_of(section)} for name, section in payload.items()}
    return {"format": FORMAT, "version": VERSION, **metadata, "sections": sections}


def _write_archive(file: IO[bytes], payload: Payload, metadata: Metadata) -> None:
    torch.save({**payload, "metadata": metadata}, file)
    with zipfile.ZipFile(file, "a") as members:
        member = zipfile.ZipInfo(METADATA_MEMBER)  # its fixed date keeps equal files equal
        members.writestr(member, json.dumps(metadata))
        members.comment = MARK + b"0" * DIGEST_BYTES
    end = file.seek(-DIGEST_BYTES, os.SEEK_END)
    digest = _sha256(file, end)
    file.seek(end)
    file.write(digest)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """`path` for reading, if it is a plain file; all that goes wrong is a CheckpointError."""
    try:
        with regular_file(path) as file:
            yield file
    except archive.BadArchiveError as error:
        hint = "no ganctl wrote this file; do not use it"
        raise CheckpointError(f"{path} cannot be loaded safely: it has {error}", hint) from error
    except MALFORMED as error:
        raise CheckpointError(
            f"{path} is not a ganctl checkpoint: its archive is malformed"
        ) from error


def _check_digest(file: IO[bytes], path: Path) -> int:
    """The size of the file, if it is whole."""
    if file.read(4) != b"PK\x03\x04":
        raise CheckpointError(f"{path} is not a ganctl checkpoint: it is no zip archive")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(MARK) - DIGEST_BYTES))
    tail = file.read()
    if not tail.startswith(MARK) and _has_metadata(file):
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not at its end", DAMAGED_HINT)
    if not tail.startswith(MARK):
        hint = "only files that ganctl saved can be opened; this one is foreign, or cut short"
        raise CheckpointError(f"{path} is not a ganctl checkpoint, or is truncated", hint)
    if _sha256(file, size - DIGEST_BYTES) != tail[len(MARK) :]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 does not match", DAMAGED_HINT)
    return size


def _read_metadata(file: IO[bytes], size: int, path: Path) -> Metadata:
    """The metadata in a file of `size` bytes, if the format's version and the members are right.

    The version comes first: a newer format may have other members.
    """
    with zipfile.ZipFile(file) as members:
        archive.check_member(members.getinfo(METADATA_MEMBER))
        if members.getinfo(METADATA_MEMBER).file_size > MAX_METADATA_BYTES:
            raise CheckpointError(f"{path} has more metadata than any checkpoint")
        metadata = json.loads(members.read(METADATA_MEMBER))
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a ganctl checkpoint")
    version = metadata.get("version")
    if type(version) is not int or version > VERSION:
        raise NewerFormatError(
            f"{path} was written by a newer ganctl (format {version}; this one reads {VERSION})",
            hint="update ganctl: `git pull` in its checkout, then `pip install .`",
        )
    archive.check_members(file, size)
    return metadata


def _has_metadata(file: IO[bytes]) -> bool:
    """Whether it is an archive with the metadata of a checkpoint of ours, whatever they say."""
    try:
        return METADATA_MEMBER in zipfile.ZipFile(file).namelist()
    except MALFORMED:
        return False


def _tensors(value: Any, members: zipfile.ZipFile) -> Any:
    """`value` with tensors in the place of sketches."""
    if isinstance(value, archive.Sketch):
        tensor = torch.empty(value.shape, dtype=DTYPES[value.storage.kind])
        if tensor.numel():
            content = bytearray(members.read(value.storage.member))
            tensor.view(-1).copy_(torch.frombuffer(content, dtype=tensor.dtype))
        return tensor
    if isinstance(value, dict):
        return {key: _tensors(item, members) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_tensors(item, members) for item in value)
    return value


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    """All tensors and plain values below `value`, with their paths, in sorted order."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}/{index}")
    else:
        yield name, value


def _sha256(file: IO[bytes], count: int) -> bytes:
    """The hexadecimal digest of the first `count` bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while count > 0 and (block := file.read(min(count, BLOCK))):
        digest.update(block)
        count -= len(block)
    return digest.hexdigest().encode()


def _storage_cause(error: BaseException) -> str:
    """What the system said; torch wraps the errors of its file object in a RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return str(error).split("\n")[0]
