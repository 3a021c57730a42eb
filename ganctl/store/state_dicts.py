"""The tensors in other programs' files of `torch.save(module.state_dict(), path)`, read safely.

The reader is `archive.py`'s, as strict here as with our own checkpoints, but for what such a file
has besides: see `Interpreter`. Files of PyTorch before 1.6 are no zip archives but a few pickles in
a row, then the bytes of each storage behind the number of its items.
"""

import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ganctl.errors import CheckpointError
from ganctl.store import archive
from ganctl.store.archive import ITEM_BYTES, BadArchiveError, Sketch, Storage
from ganctl.store.checkpoint import DTYPES, MALFORMED, regular_file

Loader = Callable[[Sketch], Tensor]

OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of PyTorch before 1.6 begin
PARAMETER = "torch._utils _rebuild_parameter"


class Interpreter(archive.Interpreter):
    """Knows besides: parameters, attributes of dicts, any device, and tensors that share a storage.

    Attributes (`_metadata`) and devices are dropped.
    """

    names = archive.Interpreter.names | {PARAMETER}
    copies = 4  # weights may be tied, or views of one flat tensor

    def _reduce(self, _: None) -> None:
        if self.stack[-2] == archive.Code(PARAMETER):
            self.stack[-2:] = [self.stack[-1][0]]  # of the tensor, requires_grad, hooks
        else:
            super()._reduce(None)

    def _build(self, _: None) -> None:
        attributes = self.stack.pop()
        if type(attributes) is not dict or type(self.stack[-1]) is not dict:
            raise BadArchiveError("an object in it")

    def _binpersid(self, _: None) -> None:
        what, code, key, _device, items = self.stack.pop()
        self.stack.append((what, code, key, "cpu", items))
        super()._binpersid(None)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Sketch:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise BadArchiveError("a malformed tensor")
        if len(shape) != len(strides) or len(shape) > archive.MAX_DIMENSIONS:
            raise BadArchiveError("a malformed tensor")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        count = math.prod(shape)
        if count > storage.items or (count and last >= storage.items):
            raise BadArchiveError("a tensor that is larger than its bytes")
        return Sketch(storage, tuple(shape), tuple(strides), offset)


class _OldInterpreter(Interpreter):
    """Where storages follow later: what it collects must be found there."""

    def __init__(self) -> None:
        super().__init__({}, "")
        self.storages: dict[str, Storage] = {}

    def _binpersid(self, _: None) -> None:
        what, code, key, _device, items, view = self.stack.pop()
        kind = code.name.removeprefix("torch ")
        if what != "storage" or view is not None or type(items) is not int or items < 0:
            raise BadArchiveError("a malformed tensor")
        if type(key) is not str:  # to hash anything else could take for ever
            raise BadArchiveError("a tensor without a name")
        storage = Storage(key, kind, items)
        if self.storages.setdefault(key, storage) != storage:
            raise BadArchiveError("two storages of one name")
        self.stack.append(storage)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in `path` by their names, on the CPU; CheckpointError if it holds anything else.

    No code in the file is run, and no more is allocated than it holds.
    """
    try:
        with regular_file(path) as file:
            old = file.read(len(OLD_TORCH)) == OLD_TORCH
            file.seek(0)
            tensors = _read_old(file) if old else _read_zip(file)
    except BadArchiveError as error:
        raise CheckpointError(f"{path} cannot be loaded safely: it has {error}") from error
    except MALFORMED as error:
        raise CheckpointError(f"{path} is damaged or cut short") from error
    return tensors


def loader(content_of: Callable[[Storage], bytearray]) -> Loader:
    """From sketches to tensors; what shares a storage in the file shares it in memory."""
    storages: dict[Storage, Tensor] = {}

    def load(sketch: Sketch) -> Tensor:
        storage = sketch.storage
        if storage not in storages:
            dtype, content = DTYPES[storage.kind], content_of(storage)
            empty = torch.empty(0, dtype=dtype)
            storages[storage] = torch.frombuffer(content, dtype=dtype) if content else empty
        return storages[storage].as_strided(sketch.shape, sketch.strides, sketch.offset)

    return load


def zip_loader(members: zipfile.ZipFile) -> Loader:
    """From sketches to tensors, of an archive that was checked."""
    return loader(lambda storage: bytearray(members.read(storage.member)))


def _read_zip(file: IO[bytes]) -> dict[str, Tensor]:
    with zipfile.ZipFile(file) as members:
        names = members.namelist()
        root = names[0].partition("/")[0] + "/" if names else ""
        archive.check_members(file, file.seek(0, os.SEEK_END), root)
        return _loaded(archive.sketch(file, root, Interpreter), zip_loader(members))


def _read_old(file: IO[bytes]) -> dict[str, Tensor]:
    """A magic number, a version, facts of the machine, the state, the storages' keys; the bytes."""
    interpreter = _OldInterpreter()
    try:
        for _ in range(2):
            archive.Interpreter({}, "").run(file)
        if archive.Interpreter({}, "").run(file)["little_endian"] is not True:
            raise BadArchiveError("numbers in the byte order of another machine")
        state = interpreter.run(file)
        keys = archive.Interpreter({}, "").run(file)
        if sorted(keys) != sorted(interpreter.storages):
            raise BadArchiveError("other storages than tensors")
    except BadArchiveError:
        raise
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise BadArchiveError("a malformed pickle") from error
    left = os.fstat(file.fileno()).st_size - file.tell()
    contents = {}
    for storage in (interpreter.storages[key] for key in keys):
        size = storage.items * ITEM_BYTES[storage.kind]
        left -= 8 + size
        if left < 0 or file.read(8) != struct.pack("<q", storage.items):
            raise BadArchiveError("a tensor of another size than its bytes")
        contents[storage] = bytearray(file.read(size))
    return _loaded(state, loader(contents.__getitem__))


def _loaded(state: object, load: Loader) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(s, Sketch) for s in state.values()):
        raise BadArchiveError("more in it than named tensors")
    return {str(name): load(sketch) for name, sketch in state.items()}
