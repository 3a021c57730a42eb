"""What may have happened to a file: by accident, or by somebody who means it."""

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from ganctl.errors import CheckpointError
from ganctl.store import checkpoint
from tests.fuzz.world import OUTSIDE

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**9, 10**30, -(2**63), 0.5, 1e308, 1e999, -0.0, "", "x", "../../x", "\x1b[31m",
    "\ud800", "é" * 300, "x" * 5000, [], [1], [[]], {}, {"x": 1}, {"step": 1},
]  # fmt: skip
TEXTS = [
    "",
    "\0",
    "{",
    "[" * 3000,
    "null",
    "1e999",
    "- 1",
    "a: *a",
    "&a [*a]",
    "\ufeff",
    "extends: mine.yaml\n",
]


def damage(path: Path, chance: Random) -> str:
    """Do something to `path`; in words."""
    kinds: list[Callable[[Path, Random], str]] = [_bytes, _bytes, _bytes, _kind, _text]
    if path.suffix == ".pt":
        kinds += [_sealed, _sealed, _contents, _contents, _contents]
    if path.suffix in (".json", ".jsonl"):
        kinds += [_json, _json, _json]
    if path.suffix == ".yaml":
        kinds += [_line, _line, _line]
    if path.suffix == ".zip":
        kinds += [_members, _members]
    kind = chance.choice(kinds)
    return f"{path}: {kind(path, chance)}"


def _changed(content: bytes, chance: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(7):
            case 0 if changed:
                changed[at - 1] ^= 1 << chance.randrange(8)
            case 1 if changed:
                changed[at - 1] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + chance.randrange(1, 64)]
            case 4:
                changed[at:at] = bytes(chance.randrange(1, 64))
            case 5:
                changed += bytes(chance.choice([1, 78, 999]))
            case _:
                start = chance.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + chance.randrange(1, 200)]
    return bytes(changed)


def _bytes(path: Path, chance: Random) -> str:
    path.write_bytes(_changed(path.read_bytes(), chance))
    return "bytes changed"


def _sealed(path: Path, chance: Random) -> str:
    content = _changed(path.read_bytes()[: -checkpoint.DIGEST_BYTES], chance)
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    return "bytes changed under a right digest"


def _contents(path: Path, chance: Random) -> str:
    """Another value somewhere in the metadata or the payload, whole and under a right digest."""
    try:
        payload, metadata = checkpoint.read(path)
    except CheckpointError:
        return "nothing, it was damaged before"
    del payload["metadata"]
    metadata.pop("sections", None)
    where = _replace_one({"payload": payload, "metadata": metadata}, chance)
    made = io.BytesIO()
    try:
        checkpoint._write_archive(made, payload, checkpoint._complete(metadata, payload))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        return f"nothing, {where} cannot be written: {error}"
    path.write_bytes(made.getvalue())
    return f"another value at {where}"


def _replace_one(tree: Any, chance: Random) -> str:
    """Put another value at a random place, or take one away, or add one."""
    names: list[str] = []
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = chance.choice(keys) if keys else None
        inner = tree[key] if key is not None else None
        if len(names) > 0 and (not isinstance(inner, dict | list) or chance.random() < 0.2):
            break
        if not isinstance(inner, dict | list):
            break
        names.append(str(key))
        tree = inner
    value, how = chance.choice(VALUES), chance.randrange(4)
    if how == 0 and key is not None:
        del tree[key]
    elif how == 1 and isinstance(tree, dict):
        tree[chance.choice(["x", "step", "", "id", "é"])] = value
    elif key is not None:
        tree[key] = value
    return ".".join([*names, str(key)])


def _json(path: Path, chance: Random) -> str:
    lines = path.read_text(errors="replace").splitlines() or [""]
    at = chance.randrange(len(lines))
    try:
        value: Any = {"value": json.loads(lines[at])}
        _replace_one(value, chance)
        lines[at] = json.dumps(value.get("value")).replace("Infinity", "1e999")
    except ValueError:
        lines[at] = chance.choice(TEXTS)
    path.write_text("\n".join([*lines, ""]), errors="surrogatepass")
    return "another value"


def _line(path: Path, chance: Random) -> str:
    lines = path.read_text(errors="replace").splitlines() or [""]
    at = chance.randrange(len(lines))
    name, colon, _ = lines[at].partition(":")
    spoken = [
        "",
        "-1",
        "0",
        "1",
        "1e999",
        "1e-4",
        ".nan",
        "yes",
        "[]",
        "[32, 16]",
        "{}",
        "'x'",
        '"\\0"',
        '"\\ud800"',
        "|",
        "*a",
        "!!x 1",
        "9" * 30,
    ]
    match chance.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[chance.randrange(len(lines))])
        case 2:
            lines[at] = f"{name[: chance.randrange(len(name) + 1)]}{chance.choice(TEXTS)}"
        case _:
            lines[at] = f"{name}{colon or ':'} {chance.choice(spoken)}"
    path.write_text("\n".join([*lines, ""]), errors="surrogatepass")
    return f"line {at + 1} changed"


def _text(path: Path, chance: Random) -> str:
    path.write_text(chance.choice(TEXTS), errors="surrogatepass")
    return "another text"


def _members(path: Path, chance: Random) -> str:
    names = [
        "../x.png",
        "/x.png",
        "a\\b.png",
        "c/d/e.png",
        "x.png",
        "__MACOSX/x.png",
        "n" * 200 + ".png",
    ]
    try:
        with zipfile.ZipFile(
            path, "a", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        ) as made:
            made.writestr(chance.choice(names), bytes(chance.choice([0, 9, 10**6])))
    except (zipfile.BadZipFile, ValueError):
        return "nothing, it was damaged before"
    return "another member"


def _kind(path: Path, chance: Random) -> str:
    """Something else in its place, or nothing."""
    path.unlink()
    outside = os.path.relpath(Path("..") / OUTSIDE, path.parent)
    match chance.randrange(7):
        case 0:
            return "gone"
        case 1:
            os.mkfifo(path)
            return "a pipe"
        case 2:
            path.mkdir()
            return "a folder"
        case 3:
            path.symlink_to(path.name)
            return "a link to itself"
        case 4:
            path.symlink_to("/dev/zero")
            return "a link to a device"
        case 5:
            path.symlink_to(f"{outside}/victim")
            return "a link that leads outside"
        case _:
            if path.parent.name in ("checkpoints", "samples"):
                folder = path.parent
                shutil.rmtree(folder)
                folder.symlink_to(os.path.relpath(Path("..") / OUTSIDE / "run", folder.parent))
                return "its folder a link that leads outside"
            path.write_bytes(b"")
            return "empty"
