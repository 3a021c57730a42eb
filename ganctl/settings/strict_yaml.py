"""A YAML reader for settings: plain values only, every surprise refused with its line.

PyYAML's own loader reads `1e-4` as text, `no` as False, `012` as 10 and `1:30` as 90, and lets a
repeated key win silently. This reader composes the document with PyYAML's safe loader, which runs
nothing, and turns its nodes into values itself, by the rules of YAML 1.2.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from ganctl.errors import ConfigError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16

Value = bool | int | float | str | list["Value"] | dict[str, "Value"] | None
KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | float | None] = {
    "": None, "~": None, "null": None, "true": True, "false": False,
    ".inf": math.inf, "-.inf": -math.inf, ".nan": math.nan,
}  # fmt: skip
_TAGS_OF_PLAIN_YAML = re.compile(
    r"tag:yaml\.org,2002:(null|bool|int|float|str|timestamp|map|seq|value)"
)


@dataclass(frozen=True)
class Document:
    """The settings of one file, and where each was written ("file.yaml:7")."""

    settings: dict[str, Value]
    origins: dict[KeyPath, str]


def read_file(path: Path) -> Document:
    """The settings in `path`; ConfigError names file, line and reason."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES // 1024} KiB, so it is not a preset")
    try:
        return read_text(content.decode("utf-8"), name=str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error


def read_text(text: str, name: str) -> Document:
    """The settings in `text`; `name` stands for the file in messages."""
    try:
        root = _Loader(text, name).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = "indent with spaces, write `key: value`"
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem}", hint) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if root is None:
        raise ConfigError(f"{name} is empty", hint="`ganctl presets celeba64` prints an example")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}:{root.start_mark.line + 1}: expected `key: value` lines")
    origins: dict[KeyPath, str] = {}
    settings = _value(root, (), name, origins)
    assert isinstance(settings, dict)
    return Document(settings, origins)


def read_value(text: str) -> Value:
    """The value in one `key=value` of the command line, for example 1e-4 or [32, 16]."""
    try:
        return read_text(f"value: {text}", name="--set").settings["value"]
    except ConfigError as error:
        raise ConfigError(f"--set: cannot read the value {text!r}") from error


class _Loader(yaml.SafeLoader):
    """Refuses what would make composing expensive or ambiguous, before it is composed."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self._file, self._depth, self._documents = name, 0, 0

    def get_event(self) -> yaml.Event:
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call]
        where = f"{self._file}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}: aliases (*name) are not allowed")
        self._depth += isinstance(event, yaml.CollectionStartEvent)
        self._depth -= isinstance(event, yaml.CollectionEndEvent)
        if self._depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested more than {MAX_DEPTH} levels deep")
        self._documents += isinstance(event, yaml.DocumentStartEvent)
        if self._documents > 1:
            raise ConfigError(f"{where}: a second document; one file holds one preset")
        return event


def _value(node: yaml.Node, path: KeyPath, name: str, origins: dict[KeyPath, str]) -> Value:
    where = f"{name}:{node.start_mark.line + 1}"
    if not _TAGS_OF_PLAIN_YAML.fullmatch(node.tag):
        raise ConfigError(f"{where}: the tag {node.tag!r} is not allowed; use plain values")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), name, origins) for i, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    mapping: dict[str, Value] = {}
    for key_node, value_node in node.value:
        where = f"{name}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{where}: a key must be a plain word")
        key = key_node.value
        if key in mapping:
            first = origins[(*path, key)]
            raise ConfigError(f"{where}: {key} is given twice", hint=f"the first is at {first}")
        origins[(*path, key)] = where
        mapping[key] = _value(value_node, (*path, key), name, origins)
    return mapping


def _scalar(text: str) -> bool | int | float | str | None:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
