"""What is kept of real images: found again by content, refused for another protocol, made anew if damaged."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.errors import DataError
from ganctl.scores import protocol, statistics
from ganctl.scores.features import Features
from ganctl.store import checkpoint

EVERY = np.arange(400)


def ignore(done: int, total: int) -> None:
    pass


def files() -> list[Path]:
    return sorted(Path(os.environ["GANCTL_CACHE"], "scores").glob("*"))


def counted(features: Features) -> tuple[Features, list[int]]:
    """The same features, and how many images they were asked for, batch by batch."""
    calls: list[int] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return features.network(images)

    return Features(
        features.name, features.digest, "", features.width, network, features.device
    ), calls


def test_statistics_are_those_of_the_features(
    plain_features: Features, pictures: np.ndarray
) -> None:
    found = statistics.of_images(pictures, EVERY, plain_features, ignore)
    expected = plain_features.of(pictures).numpy()
    assert found.count == 400
    np.testing.assert_allclose(found.gaussian.mean, expected.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.gaussian.covariance, np.cov(expected, rowvar=False), rtol=1e-4)
    np.testing.assert_allclose(found.kept, expected)


def test_only_the_first_features_are_kept(
    plain_features: Features, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "KEPT", 100)
    found = statistics.of_images(pictures, EVERY, plain_features, ignore)
    assert (found.count, len(found.kept)) == (400, 100)
    np.testing.assert_allclose(
        found.gaussian.mean, plain_features.of(pictures).mean(dim=0), rtol=1e-5
    )


def test_they_are_measured_once_wherever_the_images_lie(
    plain_features: Features, pictures: np.ndarray
) -> None:
    features, calls = counted(plain_features)
    first = statistics.of_images(pictures, EVERY, features, ignore)
    asked = len(calls)
    again = statistics.of_images(pictures.copy()[::-1], EVERY[::-1], features, ignore)
    assert len(calls) == asked
    assert torch.equal(first.gaussian.covariance, again.gaussian.covariance)
    assert torch.equal(first.kept, again.kept)
    assert len(files()) == 1


@pytest.mark.parametrize("change", ["pixel", "count", "weights", "name", "shape"])
def test_what_differs_has_statistics_of_its_own(
    plain_features: Features, pictures: np.ndarray, change: str
) -> None:
    statistics.of_images(pictures, EVERY, plain_features, ignore)
    images, order, features = pictures.copy(), EVERY, plain_features
    if change == "pixel":
        images[7, 0, 0, 0] ^= 1
    elif change == "count":
        order = EVERY[:399]
    elif change == "shape":
        images = images.reshape(400, 4, 16, 3)
    else:
        name, weights = (
            ("other", features.digest) if change == "name" else (features.name, "1" * 64)
        )
        features = Features(name, weights, "", features.width, features.network, features.device)
    statistics.of_images(images, order, features, ignore)
    assert len(files()) == 2


def test_a_damaged_file_is_measured_anew(
    plain_features: Features, pictures: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    expected = statistics.of_images(pictures, EVERY, plain_features, ignore)
    (path,) = files()
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:], b""):
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ganctl"):
            found = statistics.of_images(pictures, EVERY, plain_features, ignore)
        assert "are damaged, and measured anew" in caplog.text
        assert torch.equal(found.gaussian.mean, expected.gaussian.mean)
        checkpoint.verify(path)


def test_a_file_of_another_protocol_is_refused(
    plain_features: Features, pictures: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """It is whole, and has the name of what is asked for; but it says of itself that it is not."""
    statistics.of_images(pictures[:200], EVERY[:200], plain_features, ignore)
    (other,) = files()
    features, calls = counted(plain_features)
    statistics.of_images(pictures, EVERY, features, ignore)
    (asked_for,) = set(files()) - {other}
    other.replace(asked_for)
    calls.clear()
    with caplog.at_level(logging.WARNING, "ganctl"):
        found = statistics.of_images(pictures, EVERY, features, ignore)
    assert "are of another protocol, and are not used" in caplog.text
    assert found.count == sum(calls) == 400


def test_a_cache_that_cannot_be_written_is_a_warning(
    plain_features: Features, pictures: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    Path(os.environ["GANCTL_CACHE"]).mkdir()
    Path(os.environ["GANCTL_CACHE"], "scores").write_text("a file in its place")
    with caplog.at_level(logging.WARNING, "ganctl"):
        assert statistics.of_images(pictures, EVERY, plain_features, ignore).count == 400
    assert "the statistics of real images were not kept" in caplog.text


def test_one_image_is_one_sentence() -> None:
    with pytest.raises(DataError) as error:
        statistics.check_count(1, 40, "images of x")
    message = "scores need 40 images of each kind or more, not 1 (images of x)"
    assert error.value.message == message


def test_fid_is_of_inception_only() -> None:
    assert protocol.distance_name("Inception") == "FID"
    assert protocol.distance_name("EfficientNet-Lite0") == "FD (EfficientNet-Lite0)"
    assert protocol.kernel_name("EfficientNet-Lite0") == "KID (EfficientNet-Lite0)"
