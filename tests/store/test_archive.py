"""Hostile checkpoint files: refused before torch sees them, quickly, with nothing run or allocated."""

import hashlib
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganctl.errors import CheckpointError
from ganctl.store import archive, checkpoint

METADATA = json.dumps({"format": "ganctl.ckpt", "version": 1, "sections": {}})
STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor(items: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of a tensor that says it has `items` numbers in the member data/0."""

    def ints(values: tuple[int, ...]) -> bytes:
        numbers = b"".join(
            b"\x8a\x08" + value.to_bytes(8, "little", signed=True) for value in values
        )
        return b"(" + numbers + b"t"

    text = [b"X" + struct.pack("<I", len(word)) + word for word in (b"storage", b"0", b"cpu")]
    pid = b"(" + text[0] + STORAGE + text[1] + text[2] + ints((items,))[1:-1] + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        REBUILD
        + b"("
        + pid
        + ints((offset,))[1:-1]
        + ints(shape)
        + ints(strides)
        + b"\x89"
        + hooks
        + b"tR"
    )


def document(value: bytes) -> bytes:
    """The pickle of {"g": value}."""
    return b"\x80\x02}X\x01\x00\x00\x00g" + value + b"s."


def forge(
    path: Path,
    content: bytes,
    members: dict[str, bytes] | None = None,
    change: Callable[[zipfile.ZipInfo], None] = lambda member: None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A file with our marks, metadata and a right digest around any pickle."""
    named = {
        "archive/data.pkl": content,
        "archive/version": b"3\n",
        "archive/ganctl.json": METADATA.encode(),
    }
    with zipfile.ZipFile(path, "w") as made:
        for name, data in {**named, **(members or {})}.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = compression
            change(member)
            made.writestr(member, data)
        made.comment = checkpoint.MARK + b"0" * 64
    body = path.read_bytes()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    return path


FOUR = {"archive/data/0": bytes(4)}
DEEP = b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."
LAUGHS = b"\x80\x02(]q\x00" + b"".join(
    b"]q" + bytes([n + 1]) + b"(" + (b"h" + bytes([n])) * 10 + b"e" for n in range(9)
) + b"t."  # fmt: skip
KEYS = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns."  # a key whose hash takes 2^60 steps
ONES = document(tensor(1, (1,) * 40_000, (1,) * 40_000))
CALLS = (
    b"\x80\x02(]("
    + b"K\x01" * 1000
    + b"eq\x00"
    + b"ccollections\nOrderedDict\nh\x00\x85R" * 900
    + b"t."
)


WIDE = b"\x80\x02(]q\x00" + b"".join(
    b"]q" + bytes([n + 1]) + b"(" + (b"h" + bytes([n])) * 100_000 + b"e" for n in range(9)
) + b"t."  # fmt: skip

# Multiples of 2^61 - 1 all hash alike, so that each key would be compared with all before it.
COLLIDING = b"\x80\x02}(" + b"".join(
    b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(200_000)
) + b"u."  # fmt: skip
ONE_TENSOR = (
    b"\x80\x02]q\x00(" + tensor(1024, (1024,), (1,)) + b"q\x01" + b"h\x01" * 150_000 + b"e."
)
NAMED_BY_LAUGHS = (
    b"\x80\x02}X\x01\x00\x00\x00a" + LAUGHS[2:-1] + b"sX\x01\x00\x00\x00b"
    + b"(X\x07\x00\x00\x00storage" + STORAGE + b"h\x09X\x03\x00\x00\x00cpuK\x01tQs."
)  # fmt: skip

HOSTILE: dict[str, tuple[bytes, dict[str, bytes], str]] = {
    "a command": (b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00touch\x85R.", {}, "code in it"),
    "eval": (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", {}, "code in it"),
    "a bytearray of 20 GB": (b"\x80\x05\x96" + struct.pack("<Q", 20 * 10**9) + b".", {}, "malformed"),
    "a bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", {}, "operation BYTEARRAY8"),
    "an object": (b"\x80\x02ccollections\nOrderedDict\n)\x81}b.", {}, "operation NEWOBJ"),
    "5e9 numbers in 4 bytes": (document(tensor(5 * 10**9, (5 * 10**9,), (1,))), FOUR, "another size"),
    "a million by a million of one": (document(tensor(1, (10**6, 10**6), (0, 0))), FOUR, "not stored whole"),
    "a part of a storage": (document(tensor(1, (0,), (1,), offset=1)), FOUR, "not stored whole"),
    "half of its storage": (document(tensor(2, (1,), (1,))), {"archive/data/0": bytes(8)}, "not stored whole"),
    "more than its storage": (document(tensor(1, (2,), (1,))), FOUR, "not stored whole"),
    "a negative size": (document(tensor(1, (-1, -1), (1, 1))), FOUR, "not stored whole"),
    "a missing member": (document(tensor(1, (1,), (1,))), {}, "malformed"),
    "lists 5,000 deep": (DEEP, {}, "nested deeper"),
    "a thousand million laughs": (LAUGHS, {}, "more of them"),
    "a memo of 200,000,000 places": (b"\x80\x02Nr" + struct.pack("<I", 2 * 10**8) + b"}b.", {}, "operation BUILD"),
    "a key that takes for ever": (KEYS, {}, "a key"),
    "40,000 dimensions": (ONES, FOUR, "not stored whole"),
    "900 calls": (CALLS, {}, "a call"),
    "a million lists": (b"\x80\x02" + b"]" * 5_000_000 + b".", {}, "a data.pkl larger"),
    "two values": (b"\x80\x02NN.", {}, "malformed"),
    "an item for no list": (b"\x80\x02NNa.", {}, "malformed"),
    "a key without a value": (b"\x80\x02}(K\x01u.", {}, "malformed"),
    "no mark": (b"\x80\x02Nt.", {}, "malformed"),
    "a storage by itself": (b"\x80\x02(X\x07\x00\x00\x00storage" + STORAGE + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.", FOUR, "a Storage in it"),
    "wide lists of one another": (WIDE, {}, "more of them"),
    "cut short": (b"\x80\x02}X", {}, "malformed"),
    "nothing": (b"", {}, "malformed"),
    "a key that is a tuple": (b"\x80\x02})Ns.", {}, "a key"),
    "a member outside": (document(b"N"), {"archive/../../x": b""}, "a member called"),
    "a second root": (document(b"N"), {"other/data.pkl": b""}, "a member called"),
    "keys that all hash alike": (COLLIDING, {}, "a small number"),
    "a number for a key that no network has": (b"\x80\x02}J\x00\x00\x10\x00Ns.", {}, "a small number"),
    "a negative key": (b"\x80\x02}J\xff\xff\xff\xffNs.", {}, "a small number"),
    "a million lists in two megabytes": (b"\x80\x02" + b"]" * 2_000_000 + b".", {}, "more of them"),
    "one tensor 150,000 times": (ONE_TENSOR, {"archive/data/0": bytes(4096)}, "larger than the file"),
    "a storage named by a list of lists": (NAMED_BY_LAUGHS, {}, "without a name"),
    "a name of a megabyte": (b"\x80\x02c" + b"x" * 2**20 + b"\ny\n.", {}, "code in it"),
    "an absolute member": (document(b"N"), {"/etc/passwd": b""}, "a member called"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_before_torch_sees_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, members, reason = HOSTILE[kind]
    path = forge(tmp_path / "evil.pt", content, members)
    for makes_tensors in ("load", "empty", "frombuffer"):
        monkeypatch.setattr(torch, makes_tensors, lambda *_, **__: pytest.fail("torch saw it"))
    tracemalloc.start()
    with pytest.raises(
        CheckpointError, match=f"cannot be loaded safely: it has .*{reason}"
    ) as caught:
        checkpoint.read(path)
    assert len(caught.value.message) < 500
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert allocated < 60e6


def test_limits_of_a_pickle_hold_while_it_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made of an operation beyond the limit, however small the pickle is."""
    monkeypatch.setattr(archive, "MAX_OPERATIONS", 10)
    made = archive.Interpreter({}, archive.ROOT)
    with pytest.raises(archive.BadArchiveError, match="more of them"):
        made.run(b"\x80\x02" + b"]" * 20 + b".")
    assert len(made.stack) <= 10


def test_an_archive_with_more_members_than_any_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    path = forge(tmp_path / "e.pt", document(b"N"), {"archive/data/0": b""})
    with pytest.raises(CheckpointError, match="more members"):
        checkpoint.read(path)


CHANGES: dict[str, tuple[Callable[[zipfile.ZipInfo], None], str]] = {
    "the folder bit": (lambda member: setattr(member, "external_attr", 0x10), "no file"),
    "a symbolic link": (lambda member: setattr(member, "external_attr", 0o120777 << 16), "no file"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_odd_members_are_refused(kind: str, tmp_path: Path) -> None:
    change, reason = CHANGES[kind]
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.read(forge(tmp_path / "evil.pt", document(b"N"), change=change))


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    bomb = {"archive/data/0": bytes(50_000_000)}
    path = forge(tmp_path / "e.pt", document(b"N"), bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="a compressed member"):
        checkpoint.read(path)


def test_encrypted_and_doubled_members_are_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "e.pt", document(b"N"))
    body = path.read_bytes()
    encrypted = body.replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    )
    assert encrypted != body
    doubled = body.replace(b"archive/version", b"archive/data.pk")
    doubled = doubled.replace(b"archive/data.pkl", b"archive/data.pk/")
    for content, reason in ((encrypted, "an encrypted member"), (doubled, "a member called")):
        content = content[:-64]
        path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
        with pytest.raises(CheckpointError, match=reason):
            checkpoint.read(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", "")
        made.writestr("archive/data.pkl", "")
    with path.open("rb") as file, pytest.raises(archive.BadArchiveError, match="one name"):
        archive.check_members(file, 10**6)


def test_a_sketch_has_the_shapes_of_what_was_saved(tmp_path: Path) -> None:
    payload = {
        "a": torch.zeros(2, 3), "b": [torch.tensor(1), torch.zeros(0, 5), torch.zeros(3, 1, 2).bool()],
        "c": {0: (1, 2.5, None, True, "text", 2**70, -1)}, "d": torch.zeros(4, dtype=torch.bfloat16),
    }  # fmt: skip
    path = tmp_path / "x.pt"
    checkpoint.write(path, payload, {})
    with path.open("rb") as file:
        found = archive.sketch(file)
    shapes = [found["a"], *found["b"], found["d"]]
    assert [s.shape for s in shapes] == [(2, 3), (), (0, 5), (3, 1, 2), (4,)]
    assert found["c"] == {0: (1, 2.5, None, True, "text", 2**70, -1)}


def test_what_another_reader_would_see_in_the_archive_does_not_count(tmp_path: Path) -> None:
    """torch's zip reader ignores case and so can take another member; here there is one reader."""
    payload = {"w": torch.ones(3)}
    path = tmp_path / "x.pt"
    checkpoint.write(path, payload, {})
    with zipfile.ZipFile(path, "a") as made:
        made.writestr("archive/DATA.pkl", HOSTILE["a command"][0])
        made.comment = checkpoint.MARK + b"0" * 64
    body = path.read_bytes()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    assert torch.equal(checkpoint.read(path)[0]["w"], payload["w"])


def test_no_pickle_of_python_itself_gets_past(tmp_path: Path) -> None:
    """Whatever pickle can write of our own classes and functions is code to us."""
    for value in (Path("x"), {1}, b"bytes", object(), len, range(3), 1j):
        for protocol in range(6):
            try:
                content = pickle.dumps(value, protocol)
            except TypeError:
                continue
            with pytest.raises(CheckpointError, match="cannot be loaded safely"):
                checkpoint.read(forge(tmp_path / "p.pt", content))
