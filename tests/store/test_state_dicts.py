"""Other programs' state dictionaries, in both formats that torch has written."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from ganctl.errors import CheckpointError
from ganctl.store import state_dicts


def saved(path: Path, state: object, *, old: bool) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("old", [True, False])
def test_a_state_dictionary_comes_back(tmp_path: Path, old: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1))
    shared = torch.arange(6.0)
    state = {**module.state_dict(), "view": shared.view(2, 3).T, "empty": torch.empty(0, 3)}
    found = state_dicts.read(saved(tmp_path / "x.pth", state, old=old))
    assert list(found) == list(state)
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("state", [{"a": [1]}, [torch.ones(2)], {"a": {"b": torch.ones(2)}}])
def test_what_is_more_than_named_tensors_is_refused(
    tmp_path: Path, state: object, old: bool
) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        state_dicts.read(saved(tmp_path / "x.pth", state, old=old))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)  # type: ignore[return-value]


@pytest.mark.parametrize("old", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, old: bool) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded safely: it has"):
        state_dicts.read(saved(tmp_path / "x.pth", {"a": Evil()}, old=old))
    assert not Path("touched").exists()


def test_every_old_file_that_is_cut_or_changed_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x.pth", {"a": torch.arange(3.0)}, old=True).read_bytes()
    path = tmp_path / "y.pth"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            state_dicts.read(path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            found = state_dicts.read(path)
        except CheckpointError:
            continue
        assert all(tensor.numel() <= 3 for tensor in found.values())


def test_a_storage_that_claims_more_than_the_file_has_allocates_nothing(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x.pth", {"a": torch.arange(3.0)}, old=True).read_bytes()
    claimed = pickle.dumps(2**31 - 1, 2)[2:-1]  # BININT, as the count is written once it is large
    changed = whole.replace(b"K\x03", claimed).replace(
        b"\x03" + bytes(7), b"\xff\xff\xff\x7f" + bytes(4)
    )
    assert changed != whole
    (tmp_path / "y.pth").write_bytes(changed)
    with pytest.raises(CheckpointError, match="of another size than its bytes"):
        state_dicts.read(tmp_path / "y.pth")


def old_file(state: bytes, keys: bytes = b"]") -> bytes:
    """A file of PyTorch's old format with any pickles in it, and no storage."""
    facts = b"\x80\x02}X\r\x00\x00\x00little_endian\x88s."
    parts = (state_dicts.OLD_TORCH, b"\x80\x02M\xe9\x03.", facts, b"\x80\x02" + state + b".")
    return b"".join(parts) + b"\x80\x02" + keys + b"."


FOREVER = b")" + b"q\x00h\x00\x86" * 60  # a tuple whose hash takes 2^60 steps
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%bX\x03\x00\x00\x00cpuK\x01NtQ"
OLD = {
    "a storage whose name takes for ever": old_file(STORAGE % FOREVER),
    "keys of two kinds": old_file(b"}", b"]K\x01aX\x01\x00\x00\x00aa"),
    "keys that are none": old_file(b"}", b"K\x01"),
    "a storage that is not there": old_file(
        b"}X\x01\x00\x00\x00a" + STORAGE % b"X\x01\x00\x00\x000" + b"s", b"]X\x01\x00\x00\x000a"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OLD)
def test_pickles_of_the_old_format_are_refused_as_quickly(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(OLD[kind])
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        state_dicts.read(tmp_path / "x.pth")
