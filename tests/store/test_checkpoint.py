"""One file: plain, self-verifying, atomic; any damage is found before anything is used."""

import hashlib
import io
import json
import math
import os
import random
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganctl.errors import CheckpointError, StorageError
from ganctl.store import checkpoint
from ganctl.store.checkpoint import Payload

PAYLOAD: Payload = {
    "generator": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
    "g_optimizer": {
        "state": {0: {"step": torch.tensor(2.0)}},
        "param_groups": [{"betas": [0, 0.9]}],
    },
    "step": 7,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "step-000000007.pt"
    checkpoint.write(path, PAYLOAD, {"step": 7, "config": {"a": [1, 0.5, None]}})
    return path


def test_what_was_written_is_read_back(saved: Path) -> None:
    payload, metadata = checkpoint.read(saved)
    for name, section in PAYLOAD.items():
        assert checkpoint.digest_of(payload[name]) == checkpoint.digest_of(section)
        assert metadata["sections"][name]["sha256"] == checkpoint.digest_of(section)
    assert (metadata["format"], metadata["version"]) == ("ganctl.ckpt", 1)
    assert metadata["config"] == {"a": [1, 0.5, None]}


def test_bare_torch_opens_it_with_safe_loading(saved: Path) -> None:
    payload = torch.load(saved, weights_only=True)
    assert torch.equal(payload["generator"]["a.weight"], PAYLOAD["generator"]["a.weight"])
    assert payload["metadata"]["step"] == 7


def test_the_metadata_is_readable_without_torch(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert json.loads(archive.read("archive/ganctl.json")) == checkpoint.read(saved)[1]


def test_equal_contents_are_equal_bytes(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.pt"
    checkpoint.write(other, PAYLOAD, {"step": 7, "config": {"a": [1, 0.5, None]}})
    assert other.read_bytes() == saved.read_bytes()


def test_every_truncation_is_found(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            checkpoint.verify(saved)


def test_every_flipped_bit_is_found(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    for bit in range(8 * len(content)):
        position, mask = bit // 8, 1 << bit % 8
        content[position] ^= mask
        saved.write_bytes(content)
        with pytest.raises(CheckpointError):
            checkpoint.read(saved)
        content[position] ^= mask


def test_what_lost_its_mark_or_something_after_it_is_still_known_as_ours(saved: Path) -> None:
    """Each bit of the mark flipped, each cut of the digest, and zeros at the end."""
    whole = saved.read_bytes()
    start = len(whole) - checkpoint.DIGEST_BYTES - len(checkpoint.MARK)
    damaged = [whole[:length] for length in range(start, len(whole))] + [whole + bytes(999)]
    for bit in range(8 * len(checkpoint.MARK)):
        content = bytearray(whole)
        content[start + bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(content))
    for content in damaged:
        saved.write_bytes(content)
        assert checkpoint.is_ours(saved)
        with pytest.raises(CheckpointError, match="is damaged: its SHA-256"):
            checkpoint.read(saved)


def test_a_published_file_is_never_overwritten(saved: Path) -> None:
    with pytest.raises(StorageError, match="never overwritten"):
        checkpoint.write(saved, PAYLOAD, {})


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failed_save_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail) if call == "fsync" else monkeypatch.setattr(
        Path, "rename", fail
    )
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoint.write(tmp_path / "new.pt", PAYLOAD, {})
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob(".ganctl-*"))


def test_the_order_is_write_sync_verify_rename_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def spy(owner: object, name: str, label: str) -> None:
        original: Callable[..., object] = getattr(owner, name)

        def call(*arguments: object, **options: object) -> object:
            events.append(label)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    spy(torch, "save", "write")
    spy(os, "fsync", "sync")
    spy(checkpoint, "read", "verify")
    spy(Path, "rename", "rename")
    checkpoint.write(tmp_path / "new.pt", PAYLOAD, {})
    assert events == ["write", "sync", "verify", "rename", "sync"]


def test_values_that_safe_loading_refuses_are_never_published(tmp_path: Path) -> None:
    for value in (Path("x"), {1, 2}, torch.ones(4)[::2], torch.ones(100)[:2]):
        with pytest.raises(StorageError):
            checkpoint.write(tmp_path / "new.pt", {"odd": value}, {})
        assert not (tmp_path / "new.pt").exists()


def foreign_files() -> dict[str, bytes]:
    plain, code = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2)}, plain)
    torch.save({"a": torch.ones(2)}, code, _use_new_zipfile_serialization=False)
    return {
        "empty": b"", "one byte": b"P", "text": b"hello\n", "png": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "plain state": plain.getvalue(), "legacy pickle": code.getvalue(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", foreign_files())
def test_foreign_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(foreign_files()[kind])
    with pytest.raises(CheckpointError, match="is not a ganctl checkpoint"):
        checkpoint.read(path)


def test_things_that_are_no_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "not a regular file"), (".", "folder"), ("none", "No such file")):
        with pytest.raises(CheckpointError, match=reason):
            checkpoint.read(tmp_path / name)


def test_code_is_never_run(saved: Path, tmp_path: Path) -> None:
    """A pickle that would run a command, dressed up with our metadata and a right digest."""
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {canary}",)

    path = tmp_path / "evil.pt"
    with path.open("x+b") as file:
        checkpoint._write_archive(file, {"generator": Evil()}, checkpoint.read(saved)[1])
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        checkpoint.read(path)
    assert not canary.exists()


def test_damage_under_a_right_digest_is_one_kind_of_error(saved: Path) -> None:
    """Random changes by someone who computes the digest anew: refused, or harmless."""
    chance, content = random.Random(0), saved.read_bytes()[:-64]
    outcomes = Counter[str]()
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(chance.choice([1, 1, 2, 4])):
            position = chance.randrange(len(changed))
            if chance.random() < 0.8:
                changed[position] = chance.choice(
                    [changed[position] ^ 1 << chance.randrange(8), 0, 255]
                )
            else:
                del changed[position : position + chance.randrange(1, 9)]
        saved.write_bytes(changed + hashlib.sha256(changed).hexdigest().encode())
        try:
            payload, _ = checkpoint.read(saved)
            outcomes["loaded"] += 1
            checkpoint.digest_of(payload)  # every value can be reached
        except CheckpointError:
            outcomes["refused"] += 1
    print(f"changed files with a right digest: {dict(outcomes)}")
    assert outcomes["refused"] > 1000


def test_a_file_that_cannot_be_read_says_why(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(checkpoint, "_sha256", broken)
    with pytest.raises(CheckpointError, match=r"cannot read .*: Input/output error"):
        checkpoint.read(saved)


def test_a_newer_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    path = tmp_path / "new.pt"
    checkpoint.write(path, PAYLOAD, {})
    monkeypatch.setattr(checkpoint, "VERSION", 1)
    with pytest.raises(CheckpointError, match=r"newer ganctl \(format 99; this one reads 1\)"):
        checkpoint.read(path)


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
]
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(DTYPES),
)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), TENSORS)
TREES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=9), TREES, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_plain_tree_comes_back_as_it_was(tree: Payload) -> None:
    tree.pop("metadata", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pt"
        checkpoint.write(path, tree, {"step": 1})
        payload, metadata = checkpoint.read(path)
    for name, section in tree.items():
        assert checkpoint.digest_of(payload[name]) == checkpoint.digest_of(section)
        assert metadata["sections"][name]["sha256"] == checkpoint.digest_of(section)
