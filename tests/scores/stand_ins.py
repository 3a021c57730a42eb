"""What tests of scores share: features without weights to download."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ganctl.scores.features import Features


def plain(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 12): means of quarters of the image."""
    means = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2)
    return means.flatten(1)


@pytest.fixture
def plain_features() -> Features:
    """Features that anybody can compute."""
    return Features("plain", "0" * 64, "averaged to 2 px", 12, plain, torch.device("cpu"))


@pytest.fixture
def pictures() -> np.ndarray:
    """(400, 8, 8, 3) uint8: two modes, dark and light."""
    draw = np.random.default_rng(0)
    base = (
        draw.integers(0, 60, (400, 1, 1, 3))
        + np.where(np.arange(400) % 2, 160, 20)[:, None, None, None]
    )
    return (base + draw.integers(0, 20, (400, 8, 8, 3))).astype(np.uint8)


@pytest.fixture
def inception_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of torch-fidelity's network, which pass for those of Inception."""
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed"
    )

    class Unfilled(module.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        def load_state_dict(self, *_: object) -> None:
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Unfilled("random", ["2048"], nothing)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(layer.weight, 3.0)  # else all fades to nothing
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("ganctl.scores.features.INCEPTION_DIGEST", digest)
    return path
