"""What inspect-sn finds, asked for from Python; and on a GPU, where there is one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganctl.errors import CheckpointError
from ganctl.insight import snapshots
from ganctl.insight.spectra import layer_spectra, map_sides
from ganctl.models import build_networks
from ganctl.runtime import random_stream
from ganctl.settings.config import Config
from ganctl.store import checkpoint
from ganctl.training import state

CPU = torch.device("cpu")


@pytest.fixture
def saved(tiny: Callable[..., Config]) -> list[Path]:
    """Two checkpoints of one tiny run before its first step."""
    config = tiny()
    created = state.create(config, CPU)
    data = {"source": "faces", "n": 1, "fingerprint": "c"}
    metadata = {"run": {"id": "a", "name": "b"}, **state.describe(created, config, CPU, data)}
    paths = [Path("first.pt"), Path("second.pt")]
    for path in paths:
        checkpoint.write(path, created.payload(), metadata)
    return paths


def test_a_checkpoint_is_looked_at_layer_by_layer(saved: list[Path]) -> None:
    counted: list[tuple[int, int]] = []
    snapshot = snapshots.of_checkpoint(
        saved[0], ["g", "d"], averaged=False, as_maps=True, progress=lambda *c: counted.append(c)
    )
    total = len(snapshot.layers)
    assert counted == [(number, total) for number in range(1, total + 1)]
    assert list(dict.fromkeys(layer.network for layer in snapshot.layers)) == ["g", "d"]
    assert snapshot.chains.keys() == {"g", "d"}
    document = json.loads(json.dumps(snapshots.plain_values(snapshot)))
    assert (document["checkpoint"], document["step"]) == ("first.pt", 0)
    assert len(document["layers"]) == total


def test_without_maps_a_network_has_no_bound(saved: list[Path]) -> None:
    snapshot = snapshots.of_checkpoint(
        saved[0], ["d"], averaged=False, as_maps=False, progress=lambda *_: None
    )
    assert snapshot.chains == {}
    assert {layer.network for layer in snapshot.layers} == {"d"}
    assert all(layer.side is None for layer in snapshot.layers)


def test_a_history_leaves_out_what_is_deleted_but_not_what_is_damaged(saved: list[Path]) -> None:
    def look() -> list[snapshots.Snapshot]:
        counted: list[tuple[int, int]] = []
        found = snapshots.of_run(
            saved, ["d"], averaged=False, progress=lambda *c: counted.append(c)
        )
        assert counted == [(1, 2), (2, 2)]
        return found

    assert [snapshot.path for snapshot in look()] == ["first.pt", "second.pt"]
    whole = saved[0].read_bytes()
    saved[0].unlink()
    assert [snapshot.path for snapshot in look()] == ["second.pt"]
    saved[0].write_bytes(whole[:-1])
    with pytest.raises(CheckpointError):
        look()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_network_on_a_gpu_has_the_spectra_that_it_has_on_the_cpu(
    tiny: Callable[..., Config],
) -> None:
    config = tiny()
    _, discriminator = build_networks(config.model, config.data, random_stream(1, "init"))
    sides = map_sides(discriminator, config.data.resolution)
    expected = list(layer_spectra(discriminator.eval(), "d", sides))
    found = list(layer_spectra(discriminator.cuda(), "d", sides))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.layer == theirs.layer
        assert ours.singular_values == pytest.approx(theirs.singular_values)
        assert ours.sigma_in_use == pytest.approx(theirs.sigma_in_use, rel=1e-4)
        assert ours.norm == pytest.approx(theirs.norm, rel=1e-4)
