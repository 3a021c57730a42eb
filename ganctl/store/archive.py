"""Reading a checkpoint's zip archive without believing it, and without torch.

Safe loading (`weights_only=True`) runs no code, but believes sizes: a file of 400 bytes can make it
allocate gigabytes or read past its end. And two readers of one zip archive can see two different
files in it. So this is the only reader: it checks the members, and interprets the few operations of
pickle's that `torch.save` writes for plain values and whole tensors. It makes no tensors itself.
"""

import math
import pickletools
import stat
import zipfile
from typing import IO, Any, NamedTuple

ROOT = "archive/"  # torch.save's for what it writes into an open file; else it is the file's name
PICKLE = "data.pkl"
MAX_PICKLE_BYTES = 4 * 1024**2
MAX_DEPTH = 10  # of nested dicts and lists
MAX_VALUES = 200_000  # in all of them together, counting what is shared each time
MAX_OPERATIONS = 500_000  # of a pickle, each of which makes one value or moves a few
MAX_KEY = 2**20  # a number among keys: larger ones can be chosen so that all hash alike
MAX_MEMBERS = 100_000
MAX_SHOWN = 100  # letters of a name from a file
TOO_MUCH = "values nested deeper, or more of them, than any checkpoint"
MAX_DIMENSIONS = 64  # of a tensor
FOLDER_BIT = 0x10  # of a member's attributes: torch then returns memory it never filled

ITEM_BYTES = {
    "FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2,
    "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
    "BoolStorage": 1,
}  # fmt: skip
PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}  # with their argument
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
REBUILD, ORDERED_DICT = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
MARK = object()


class BadArchiveError(Exception):
    """Why an archive is not opened, as the end of a sentence: "it has ..."."""


class Code(NamedTuple):
    """One of the few names that a pickle may mention; never called."""

    name: str


class Storage(NamedTuple):
    """The bytes of a tensor: a member of the archive."""

    member: str
    kind: str  # a key of ITEM_BYTES
    items: int


class Sketch(NamedTuple):
    """A tensor that is still in the archive: a view of its storage."""

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def check_members(file: IO[bytes], size: int, root: str = ROOT) -> None:
    """BadArchiveError unless the members are plain, stored, below `root`, and fit in `size` bytes.

    Raises zipfile.BadZipFile if it is no zip archive.
    """
    members = zipfile.ZipFile(file).infolist()
    names = [member.filename for member in members]
    if len(names) > MAX_MEMBERS:
        raise BadArchiveError("more members than any checkpoint")
    if len(set(names)) != len(names):
        raise BadArchiveError("two members of one name")
    for member in members:
        check_member(member, root)
    if sum(member.file_size for member in members) > size:
        raise BadArchiveError("members that overlap")
    if root + PICKLE not in names:
        raise BadArchiveError("no data.pkl")


def check_member(member: zipfile.ZipInfo, root: str = ROOT) -> None:
    """BadArchiveError unless it is a plain, stored file below `root`."""
    parts = member.filename.split("/")
    if not member.filename.startswith(root) or ".." in parts or "" in parts:
        raise BadArchiveError(f"a member called {member.filename[:MAX_SHOWN]!r}")
    if member.flag_bits & 1:
        raise BadArchiveError("an encrypted member")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise BadArchiveError("a compressed member")
    mode = member.external_attr >> 16
    if member.external_attr & FOLDER_BIT or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise BadArchiveError("a member that is no file")


class Interpreter:
    """A stack machine for the part of pickle's protocol 2 that a checkpoint needs."""

    names = frozenset({REBUILD, ORDERED_DICT})  # that a pickle may mention, besides storages
    copies = 1  # how many times the file's bytes all tensors together may have, each as if alone

    def __init__(self, sizes: dict[str, int], root: str) -> None:
        self.sizes = sizes  # bytes of each member
        self.root = root
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes | IO[bytes]) -> Any:
        for done, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if done > MAX_OPERATIONS:
                raise BadArchiveError(TOO_MUCH)
            if opcode.name in PUSHED:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            elif opcode.name in TUPLES:
                count = TUPLES[opcode.name]
                self.stack[-count:] = [tuple(self.stack[-count:])]
            elif opcode.name != "PROTO":
                operation = getattr(self, f"_{opcode.name.lower()}", None)
                if operation is None:
                    raise BadArchiveError(f"the pickle operation {opcode.name}")
                operation(argument)
        return self.stack.pop()

    def _stop(self, _: None) -> None:
        if len(self.stack) != 1:
            raise BadArchiveError("a malformed pickle")

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    def _mark(self, _: None) -> None:
        self.stack.append(MARK)

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _append(self, _: None) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def _appends(self, _: None) -> None:
        items = self._since_mark()
        self.stack[-1].extend(items)

    def _setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _long_binput, _long_binget = _binput, _binget

    def _global(self, name: str) -> None:
        module, _, kind = name.partition(" ")
        if name not in self.names and not (module == "torch" and kind in ITEM_BYTES):
            raise BadArchiveError(f"code in it ({name[:MAX_SHOWN]!r})")
        self.stack.append(Code(name))

    def _binpersid(self, _: None) -> None:
        what, code, key, device, items = self.stack.pop()
        if type(key) is not str:  # to spell out anything else could take for ever
            raise BadArchiveError("a tensor without a name")
        kind, member = code.name.removeprefix("torch "), f"{self.root}data/{key}"
        if what != "storage" or device != "cpu" or type(items) is not int:
            raise BadArchiveError("a tensor that is not stored for the CPU")
        if self.sizes[member] != items * ITEM_BYTES[kind]:
            raise BadArchiveError("a tensor of another size than its bytes")
        self.stack.append(Storage(member, kind, items))

    def _reduce(self, _: None) -> None:
        arguments, code = self.stack.pop(), self.stack.pop()
        if code == Code(ORDERED_DICT) and arguments == ():
            self.stack.append({})
        elif code == Code(REBUILD):
            self.stack.append(self._tensor(*arguments[:4]))
        else:
            raise BadArchiveError("a call in it")

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Sketch:
        """What _rebuild_tensor_v2 would build, if that is the whole storage in order."""
        numbers = (*shape, *strides)
        if not isinstance(storage, Storage) or len(shape) != len(strides) or offset != 0:
            raise BadArchiveError("a tensor that is not stored whole")
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
            raise BadArchiveError("a tensor that is not stored whole")
        dense = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        in_order = all(n == 1 or a == b for n, a, b in zip(shape, strides, dense, strict=True))
        if math.prod(shape) != storage.items or (storage.items and not in_order):
            raise BadArchiveError("a tensor that is not stored whole")
        return Sketch(storage, tuple(shape), tuple(strides), 0)

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1  # from 0 on to -1: an IndexError comes in the end
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if not all(type(key) is str or (type(key) is int and 0 <= key < MAX_KEY) for key in keys):
            raise BadArchiveError("a key that is neither text nor a small number")
        self.stack[-1].update(zip(keys, values, strict=True))


def sketch(file: IO[bytes], root: str = ROOT, interpreter: type[Interpreter] = Interpreter) -> Any:
    """The payload with a Sketch for each tensor, after `check_members`.

    BadArchiveError for anything but dicts, lists and tuples of plain values and tensors.
    """
    members = zipfile.ZipFile(file)
    if members.getinfo(root + PICKLE).file_size > MAX_PICKLE_BYTES:
        raise BadArchiveError("a data.pkl larger than any checkpoint's")
    sizes = {member.filename: member.file_size for member in members.infolist()}
    try:
        payload = interpreter(sizes, root).run(members.read(root + PICKLE))
    except BadArchiveError:
        raise
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise BadArchiveError("a malformed pickle") from error
    _check_values(payload, interpreter.copies * sum(sizes.values()))
    return payload


def _check_values(payload: object, most: int) -> None:
    """Plain values only, not too deep, not too many, with tensors of at most so many bytes."""
    waiting, seen = [(payload, 0)], 1
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Sketch):
            most -= math.prod(value.shape) * ITEM_BYTES[value.storage.kind]
            if most < 0:
                raise BadArchiveError("tensors that are larger than the file")
            continue
        if value is None or isinstance(value, str | int | float):
            continue
        if type(value) not in (dict, list, tuple):
            raise BadArchiveError(f"a {type(value).__name__} in it")
        assert isinstance(value, dict | list | tuple)
        items = value.values() if isinstance(value, dict) else value
        seen += len(items)
        if depth == MAX_DEPTH or seen > MAX_VALUES:
            raise BadArchiveError(TOO_MUCH)
        waiting += [(item, depth + 1) for item in items]
