"""The safetensors format: what is written is read back, by the official library too; lies are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganctl.errors import CheckpointError
from ganctl.store import safetensors

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(7),
    "c": torch.ones(3, dtype=torch.float16),
    "d": torch.empty(0, 4),
    "e": torch.tensor([True, False]),
    "f": torch.tensor([[1.5]], dtype=torch.bfloat16),
}


def raw(header: object, content: bytes = b"", length: int | None = None) -> bytes:
    document = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(document) if length is None else length).to_bytes(8, "little") + document + content


def entry(shape: Any = (1,), offsets: Any = (0, 4), kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in expected.items()
    )


def test_what_is_written_is_read_back_with_its_kinds_shapes_and_texts() -> None:
    path = Path("x.safetensors")
    safetensors.write(path, TENSORS, {"note": "é\n"})
    found, texts = safetensors.read(path)
    assert same(found, TENSORS)
    assert texts["note"] == "é\n"
    assert safetensors.looks_like_one(path)


def test_the_official_library_reads_what_we_write_and_we_what_it_writes() -> None:
    official = pytest.importorskip("safetensors.torch")
    safetensors.write(Path("ours.safetensors"), TENSORS, {"note": "x"})
    assert same(official.load_file("ours.safetensors"), TENSORS)
    official.save_file(TENSORS, "theirs.safetensors", {"format": "pt"})
    found, texts = safetensors.read(Path("theirs.safetensors"))
    assert same(found, TENSORS)
    assert texts == {"format": "pt"}


def test_each_number_begins_at_a_multiple_of_its_size() -> None:
    safetensors.write(Path("x.safetensors"), TENSORS, {})
    with Path("x.safetensors").open("rb") as file:
        header = safetensors.header(file, Path("x.safetensors"))
    for name, start in header.starts.items():
        assert start % TENSORS[name].element_size() == 0


LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is cut short"),
    "a length alone": ((5).to_bytes(8, "little"), "is cut short, or no safetensors file: its header ends 5 bytes after"),
    "an endless header": (raw({}, length=2**63), "is cut short"),
    "an oversized header": (raw(b" " * (4 * 2**20 + 1)), "its header has 4,194,305 bytes, at most 4,194,304"),
    "no JSON": (raw(b"{'a'"), "its header is no JSON"),
    "nested without end": (raw(b"[" * 100_000), "its header is no JSON"),
    "a huge number": (raw(b'{"a":' + b"1" * 10_000 + b"}"), "its header is no JSON"),
    "a list": (raw([]), "its header is no list of tensors"),
    "a name twice": (raw(b'{"a":{},"a":{}}'), "a name twice"),
    "texts that are none": (raw({"__metadata__": {"a": 1}}), "its metadata are no texts"),
    "no entry": (raw({"a": 1}), "its entry 'a' is no tensor's"),
    "an unknown kind": (raw({"a": entry(kind="F8_E4M3")}, bytes(4)), "numbers of the unknown kind 'F8_E4M3'"),
    "a kind that is a list": (raw({"a": entry(kind=[])}, bytes(4)), "unknown kind"),
    "a negative size": (raw({"a": entry(shape=[-1])}, bytes(4)), "no size that a tensor can have"),
    "a size that is true": (raw({"a": entry(shape=[True])}, bytes(4)), "no size that a tensor can have"),
    "an absurd size": (raw({"a": entry(shape=[2**60])}, bytes(4)), "no size that a tensor can have"),
    "65 dimensions": (raw({"a": entry(shape=[1] * 65)}, bytes(4)), "no size that a tensor can have"),
    "more than its bytes": (raw({"a": entry(shape=[2])}, bytes(4)), "another size than its bytes"),
    "overlap": (raw({"a": entry(), "b": entry()}, bytes(4)), "overlap"),
    "a gap": (raw({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)), "gaps"),
    "half of its bytes": (raw({"a": entry()}, bytes(2)), "its tensors have 4 bytes, but 2 are there"),
    "something added": (raw({"a": entry()}, bytes(9)), "its tensors have 4 bytes, but 9 are there"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies_is_refused_in_one_sentence(kind: str) -> None:
    content, message = LIES[kind]
    Path("x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors") as caught:
        safetensors.read(Path("x.safetensors"))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3


def test_every_truncation_and_every_flipped_bit_is_refused_or_harmless() -> None:
    path = Path("x.safetensors")
    safetensors.write(path, {"a": torch.arange(4.0), "b": torch.ones(2)}, {})
    whole = path.read_bytes()
    expected, _ = safetensors.read(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            safetensors.read(path)
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found, texts = safetensors.read(path)
        except CheckpointError:
            continue
        renamed = set(found) != set(expected) or safetensors.DIGEST not in texts
        assert renamed or all(found[n].shape == expected[n].shape for n in expected)
        assert bit < 8 * (len(whole) - 24)  # no bit of the tensors themselves


def test_a_failed_write_leaves_the_file_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("x.safetensors")
    safetensors.write(path, TENSORS, {})
    before = path.read_bytes()
    fails: Callable[..., object] = lambda *_: (_ for _ in ()).throw(OSError("full"))  # noqa: E731
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="full"):
        safetensors.write(path, {}, {})
    assert path.read_bytes() == before
    assert [found.name for found in Path().iterdir()] == ["x.safetensors"]
