"""What a checkpoint says of itself is believed only as far as types and limits go."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganctl.errors import CheckpointError
from ganctl.settings.config import Config
from ganctl.store import contents
from ganctl.training import state

PATH = Path("x.pt")


def test_metadata_from_a_file_is_held_to_types_and_limits(tiny: Callable[..., Config]) -> None:
    config = tiny()
    good = {
        "run": {"id": "a", "name": "b"}, "step": 3, "config": config.model_dump(), "exactness": {},
        "data": {"source": "faces", "n": 1, "fingerprint": "c"}, "something newer": 1,
    }  # fmt: skip
    assert contents.described(good, PATH).config == config
    assert contents.described(good, PATH).streams == 1  # of files older than the number
    wide = config.model_dump()
    wide["model"]["width"] = 10**9
    for name, bad in {
        "step": {**good, "step": "3"}, "step: ": {**good, "step": -1}, "run": {**good, "run": 3},
        "config.model.width": {**good, "config": wide}, "config": {**good, "config": None},
        "streams": {**good, "streams": 0}, "data.fingerprint": {**good, "data": {"source": "x", "n": 1}},
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=f"its metadata is bad at {name}"):
            contents.described(bad, PATH)


def test_a_new_checkpoint_says_which_random_streams_its_run_draws_from(
    tiny: Callable[..., Config],
) -> None:
    config, cpu = tiny(), torch.device("cpu")
    data = {"source": "faces", "n": 1, "fingerprint": "c"}
    metadata = state.describe(state.create(config, cpu), config, cpu, data)
    said = contents.described({"run": {"id": "a", "name": "b"}, **metadata}, PATH)
    assert said.streams == state.STREAMS == 2
