"""What a checkpoint's zip archive may contain, checked before torch sees a byte of it.

Safe loading (`weights_only=True`) runs no code, but believes sizes: a file of 400 bytes can make it
allocate gigabytes or read past its end. So the directory of the archive is checked first, and its
pickle is read once by a reader that builds sketches of tensors instead of tensors.
"""

import io
import math
import pickle
import pickletools
import stat
import zipfile
from typing import IO, Any, NamedTuple

ROOT = "archive/"
PICKLE = "archive/data.pkl"
MAX_PICKLE_BYTES = 16 * 1024**2
MAX_DEPTH = 10  # of nested dicts and lists
MAX_VALUES = 1_000_000  # in all of them together, counting what is shared each time
FOLDER_BIT = 0x10  # of a member's attributes: torch then returns memory it never filled

ITEM_BYTES = {
    "FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2,
    "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
    "BoolStorage": 1,
}  # fmt: skip
OPCODES = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT",
    "BINGET", "LONG_BINGET", "GLOBAL", "BINPERSID", "REDUCE",
}  # fmt: skip


class BadArchiveError(Exception):
    """Why an archive is not opened, as the end of a sentence: "it has ..."."""


class Storage(NamedTuple):
    """The bytes of a tensor: a member of the archive."""

    items: int
    item_bytes: int


class Sketch(NamedTuple):
    """A whole, dense tensor, known by its shape alone."""

    shape: tuple[int, ...]


def check_members(file: IO[bytes], size: int) -> None:
    """BadArchiveError unless the members are plain, stored, of one root, and fit in `size` bytes.

    Raises zipfile.BadZipFile if it is no zip archive.
    """
    members = zipfile.ZipFile(file).infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise BadArchiveError("two members of one name")
    for member in members:
        parts = member.filename.split("/")
        if not member.filename.startswith(ROOT) or ".." in parts or "" in parts:
            raise BadArchiveError(f"a member called {member.filename!r}")
        if member.flag_bits & 1:
            raise BadArchiveError("an encrypted member")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise BadArchiveError("a compressed member")
        mode = member.external_attr >> 16
        if member.external_attr & FOLDER_BIT or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BadArchiveError("a member that is no file")
    if sum(member.file_size for member in members) > size:
        raise BadArchiveError("members that overlap")
    if PICKLE not in names:
        raise BadArchiveError("no data.pkl")


def sketch(file: IO[bytes]) -> Any:
    """The payload with a Sketch for each tensor, after `check_members`.

    BadArchiveError for anything but dicts, lists and tuples of plain values and whole tensors.
    """
    archive = zipfile.ZipFile(file)
    if archive.getinfo(PICKLE).file_size > MAX_PICKLE_BYTES:
        raise BadArchiveError("a data.pkl larger than any checkpoint's")
    try:
        content = archive.read(PICKLE)
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in OPCODES:
                raise BadArchiveError(f"the pickle operation {opcode.name}")
            if opcode.name == "GLOBAL" and not _allowed(*str(argument).split(" ", 1)):
                raise BadArchiveError(f"code in it ({str(argument)!r})")
        payload = _Sketcher(archive, content).load()
    except BadArchiveError:
        raise
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise BadArchiveError("a malformed pickle") from error
    _check_values(payload)
    return payload


class _Sketcher(pickle.Unpickler):
    """Reads torch's pickle without torch; what it may call are the functions below."""

    def __init__(self, archive: zipfile.ZipFile, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch":
            return ITEM_BYTES[name]
        return {"_rebuild_tensor_v2": _sketch_tensor, "OrderedDict": dict}[name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, item_bytes, key, device, items = pid
        if kind != "storage" or device != "cpu" or type(items) is not int:
            raise BadArchiveError("a tensor that is not stored for the CPU")
        if self.archive.getinfo(f"{ROOT}data/{key}").file_size != items * item_bytes:
            raise BadArchiveError("a tensor of another size than its bytes")
        return Storage(items, item_bytes)


def _sketch_tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Sketch:
    """What torch._utils._rebuild_tensor_v2 would build, if that is the whole storage in order."""
    if not isinstance(storage, Storage) or min((*shape, *strides, 0)) < 0 or offset != 0:
        raise BadArchiveError("a tensor that is not stored whole")
    dense = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    in_order = all(n == 1 or a == b for n, a, b in zip(shape, strides, dense, strict=True))
    if math.prod(shape) != storage.items or (storage.items and not in_order):
        raise BadArchiveError("a tensor that is not stored whole")
    return Sketch(tuple(shape))


def _allowed(module: str, name: str) -> bool:
    if module == "torch":
        return name in ITEM_BYTES
    return (module, name) in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("collections", "OrderedDict"),
    )


def _check_values(payload: object) -> None:
    """Plain values only, not too deep, not too many."""
    waiting, seen = [(payload, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_VALUES:
            raise BadArchiveError("values nested deeper, or more of them, than any checkpoint")
        if isinstance(value, dict):
            if not all(isinstance(key, str | int) for key in value):
                raise BadArchiveError("a key that is neither text nor a number")
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, Sketch):
            continue
        elif isinstance(value, list | tuple):
            waiting += [(item, depth + 1) for item in value]
        elif not isinstance(value, str | int | float | None):
            raise BadArchiveError(f"a {type(value).__name__} in it")
