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
