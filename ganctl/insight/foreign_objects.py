"""What other programs save beside their weights: recognised by name, and left out.

A file may hold the options of a script, a date, a NumPy number. Nothing of it is run or made: where
such an object would be, there is None. Everything else is refused, as in our own checkpoints.
"""

from typing import Any

import torch

from ganctl.store import state_dicts
from ganctl.store.archive import BadArchiveError, Code

DICTS = {"collections defaultdict"}  # that items follow for
HARMLESS = frozenset(
    f"{module} {name}"
    for module, names in {
        "argparse": "Namespace",
        "types": "SimpleNamespace",
        "datetime": "datetime date time timedelta timezone",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray": "scalar _reconstruct",  # of NumPy 1 ...
        "numpy._core.multiarray": "scalar _reconstruct",  # ... and 2
        "pathlib": "PosixPath WindowsPath PurePosixPath PureWindowsPath",
        "pathlib._local": "PosixPath WindowsPath PurePosixPath PureWindowsPath",  # of Python 3.13
        "torch": "device Size",
        "collections": "Counter",  # a learning rate's milestones
        "decimal": "Decimal",
        "fractions": "Fraction",
        "uuid": "UUID",
        "__builtin__": "set frozenset complex list dict bytearray slice xrange",
        "_codecs": "encode",
    }.items()
    for name in names.split()
)


class WholeModuleError(BadArchiveError):
    """The file is an object of a class of its own, whose name is the message."""


class Interpreter(state_dicts.Interpreter):
    """The reader of state dictionaries, with None for objects that are known to be harmless."""

    def _global(self, name: str) -> None:
        module, _, kind = name.partition(" ")
        if module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype):
            self.stack.append(None)
        elif name in HARMLESS | DICTS:
            self.stack.append(Code(name))
        elif not self.stack and module.startswith(("torch.nn.", "__main__", "models", "networks")):
            raise WholeModuleError(f"{module}.{kind}")
        else:
            super()._global(name)

    def _reduce(self, _: None) -> None:
        code = self.stack[-2]
        if isinstance(code, Code) and code.name in HARMLESS | DICTS:
            self.stack[-2:] = [{} if code.name in DICTS else None]
        else:
            super()._reduce(None)

    def _newobj(self, _: None) -> None:
        _arguments, code = self.stack.pop(), self.stack.pop()
        if not isinstance(code, Code) or code.name not in HARMLESS:
            raise BadArchiveError("an object in it")
        self.stack.append(None)

    def _build(self, _: None) -> None:
        if self.stack[-2] is None:
            self.stack.pop()
        else:
            super()._build(None)

    def _short_binstring(self, text: Any) -> None:
        self.stack.append(None)  # bytes, which no weight is

    _short_binbytes, _binbytes, _binstring = (_short_binstring,) * 3
