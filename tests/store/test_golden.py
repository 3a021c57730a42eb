"""Checkpoints of every format version stay in the repository, and every ganctl reads them.

golden/v1.pt.xz: faces32 with width 8, no attention and latents of 2, after one step on drawn faces;
then every tensor was filled with a short pattern, so that it compresses. Made once; never again.
"""

import hashlib
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import given

from ganctl.cli.app import main
from ganctl.store import checkpoint, contents
from ganctl.training import state
from ganctl.training.step import train_step

GOLDEN = Path(__file__).parent / "golden"
V1 = "b60befd9063cab08fa6e82f2a48bf08480e412488d958e94613c994b4e709c1b"  # SHA-256 of the file that was put here


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(lzma.decompress((GOLDEN / "v1.pt.xz").read_bytes()))
    return path


def test_version_1_is_read_as_it_was_written(v1: Path) -> None:
    assert hashlib.sha256(v1.read_bytes()).hexdigest() == V1
    payload, metadata = checkpoint.read(v1)
    assert metadata["version"] == 1
    assert set(payload) - {"metadata"} == {
        "generator", "discriminator", "generator_ema", "g_optimizer", "d_optimizer", "g_scaler",
        "d_scaler", "step", "rollbacks",
    }  # fmt: skip
    for name, section in metadata["sections"].items():
        assert checkpoint.digest_of(payload[name]) == section["sha256"]
    assert payload["generator"]["to_rgb.bias"].tolist() == [0.25, 0.5, 0.75]
    networks, saved = contents.load_networks(v1)
    assert saved.config.model.width == 8
    assert saved.streams == 1
    images = networks.generator_ema(torch.ones(1, 2))
    assert images.shape == (1, 3, 32, 32)


def test_version_1_is_sampled_and_inspected(v1: Path) -> None:
    assert main(["sample", str(v1), "-n", "2", "--out", "x.npz"]) == 0
    assert np.load("x.npz")["images"].std() > 0
    assert main(["inspect-sn", str(v1)]) == 0


def test_version_1_is_trained_on(v1: Path, faces: np.ndarray) -> None:
    config = contents.load_networks(v1)[1].config
    trained = state.create(config, torch.device("cpu"))
    trained.load(checkpoint.read(v1)[0], v1)
    metrics = train_step(trained, given(faces, config, 3), config)
    assert (trained.step, trained.rollbacks) == (2, 0)
    assert metrics.g.loss.isfinite()
