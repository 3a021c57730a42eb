"""Files of the safetensors format, read without believing them and written complete or not at all.

The format (https://huggingface.co/docs/safetensors, "Format"): 8 bytes with the length of the
header, the header, which is JSON, and the bytes of all tensors one after the other. The header says
of each tensor its kind, shape, and where its bytes begin and end; `__metadata__` has texts.

Nothing in such a file can run, but it can lie. Here each tensor must have as many bytes as its kind
and shape need, all together exactly those of the file, and the header a size that a network's has.
`write` adds the SHA-256 of the tensors' bytes to the texts; where there is one, it is checked.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from ganctl.errors import CheckpointError
from ganctl.store.archive import ITEM_BYTES, MAX_DIMENSIONS, MAX_VALUES, Sketch, Storage
from ganctl.store.checkpoint import DTYPES, regular_file
from ganctl.store.durable import replacing

SUFFIX = ".safetensors"
LENGTH_BYTES = 8  # little-endian
MAX_HEADER_BYTES = 4 * 1024**2
METADATA, DIGEST = "__metadata__", "ganctl.sha256"
KINDS = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
    "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage",
    "U8": "ByteStorage", "BOOL": "BoolStorage",
}  # fmt: skip
NAMES = {DTYPES[kind]: name for name, kind in KINDS.items()}
BLOCK = 4 * 1024**2
HINT = "copy or download it again; do not use it if it comes from somebody you do not trust"


class Header(NamedTuple):
    """What a file says of its tensors, checked against its size."""

    texts: dict[str, str]
    tensors: dict[str, Sketch]  # each the whole of a storage that is called like it
    starts: dict[str, int]  # of each tensor's bytes in the file


class _LieError(Exception):
    """What is wrong with a header, as the end of a sentence."""


def looks_like_one(path: Path) -> bool:
    """Whether `path` is called, or begins, as such files do; CheckpointError if unreadable."""
    with regular_file(path) as file:
        return path.suffix == SUFFIX or file.read(LENGTH_BYTES + 1)[LENGTH_BYTES:] == b"{"


def texts(path: Path) -> dict[str, str]:
    """The metadata of `path`; CheckpointError says what is wrong."""
    with regular_file(path) as file:
        return header(file, path).texts


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of `path` by name, on the CPU, and its metadata; CheckpointError if it lies."""
    with regular_file(path) as file:
        found = header(file, path)
        if DIGEST in found.texts and _digest(file, found) != found.texts[DIGEST]:
            raise CheckpointError(f"{path} is damaged: its SHA-256 does not match", HINT)
        return {name: tensor(file, found, name) for name in found.tensors}, found.texts


def header(file: IO[bytes], path: Path) -> Header:
    """The header of the open file `path`; CheckpointError unless it agrees with the file's size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    left = size - LENGTH_BYTES - length
    if left < 0:
        what = f"its header ends {-left:,} bytes after its {size:,} bytes"
        raise CheckpointError(f"{path} is cut short, or no safetensors file: {what}", HINT)
    if length > MAX_HEADER_BYTES:
        what = f"its header has {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read"
        raise CheckpointError(f"{path} cannot be loaded safely: {what}", HINT)
    try:
        entries = json.loads(file.read(length).decode(), object_pairs_hook=_once)
        return _checked(entries, left, LENGTH_BYTES + length)
    except _LieError as lie:
        raise CheckpointError(f"{path} cannot be loaded safely: {lie}", HINT) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no safetensors file: its header is no JSON") from error


def tensor(file: IO[bytes], found: Header, name: str) -> Tensor:
    """The tensor `name` of the open file that `found` is the header of, on the CPU."""
    sketch = found.tensors[name]
    dtype = DTYPES[sketch.storage.kind]
    if not sketch.storage.items:
        return torch.empty(sketch.shape, dtype=dtype)
    file.seek(found.starts[name])
    content = bytearray(file.read(sketch.storage.items * ITEM_BYTES[sketch.storage.kind]))
    return torch.frombuffer(content, dtype=dtype).view(sketch.shape)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Replace `path` by a complete file of `tensors`, on the CPU, or leave it as it was."""
    # Larger numbers first: then each tensor begins at a multiple of its numbers' size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    contents = [_bytes(tensors[name]) for name in names]
    digest = hashlib.sha256()
    entries: dict[str, Any] = {}
    start = 0
    for name, content in zip(names, contents, strict=True):
        digest.update(content)
        place = [start, start + len(content)]
        shape, kind = list(tensors[name].shape), NAMES[tensors[name].dtype]
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        start = place[1]
    told = {**metadata, DIGEST: digest.hexdigest()}
    document = json.dumps({METADATA: told, **entries}).encode()
    document += b" " * (-len(document) % LENGTH_BYTES)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(document).to_bytes(LENGTH_BYTES, "little") + document)
        for content in contents:
            file.write(content)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; two readers can see two different files in one that names a thing twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _LieError("its header has a name twice")
    return found


def _checked(entries: Any, size: int, begin: int) -> Header:
    """The header of a file whose tensors have `size` bytes, from `begin` on."""
    if not isinstance(entries, dict) or len(entries) > MAX_VALUES:
        raise _LieError("its header is no list of tensors")
    told = entries.pop(METADATA, {})
    if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
        raise _LieError("its metadata are no texts")
    tensors, starts, places = {}, {}, []
    for name, entry in entries.items():
        tensors[name], place = _entry(name, entry)
        starts[name] = begin + place[0]
        places.append(place)
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise _LieError("its tensors overlap, or have gaps between them")
        end = stop
    if end != size:
        what = f"its tensors have {end:,} bytes, but {size:,} are there"
        raise _LieError(f"it is cut short or has something added: {what}")
    return Header(told, tensors, starts)


def _entry(name: str, entry: Any) -> tuple[Sketch, tuple[int, int]]:
    """What one entry of a header says of its tensor, and where the bytes begin and end."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _LieError(f"its entry {name!r:.80} is no tensor's")
    kind, shape, place = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(kind, str) or kind not in KINDS:
        raise _LieError(f"its tensor {name!r:.80} has numbers of the unknown kind {kind!r:.20}")
    if not _sizes(shape) or not _sizes(place) or len(place) != 2 or len(shape) > MAX_DIMENSIONS:
        raise _LieError(f"its tensor {name!r:.80} has no size that a tensor can have")
    items = math.prod(shape)
    if place[1] - place[0] != items * ITEM_BYTES[KINDS[kind]]:
        raise _LieError(f"its tensor {name!r:.80} has another size than its bytes")
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Sketch(Storage(name, KINDS[kind], items), tuple(shape), strides, 0), tuple(place)


def _sizes(value: Any) -> bool:
    """Whether `value` is a list of sizes, none of them absurd."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _digest(file: IO[bytes], found: Header) -> str:
    digest = hashlib.sha256()
    file.seek(min(found.starts.values(), default=0))
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()
