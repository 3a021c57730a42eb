"""Scores as a whole: they grow worse with what makes images worse, and the floor is where it should be."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.errors import CheckpointError, ConfigError, DataError
from ganctl.models import build_networks
from ganctl.runtime import random_stream
from ganctl.sampling.draw import Point, draw
from ganctl.scores import comparison
from ganctl.scores.comparison import LEAST, RealImages, Scores, compare, fake_words, of_generator
from ganctl.scores.features import Features
from ganctl.scores.statistics import Statistics, measured
from ganctl.settings.config import Config

CPU = torch.device("cpu")


def ignore(done: int, total: int) -> None:
    pass


def statistics_of(images: np.ndarray, features: Features) -> Statistics:
    found = measured([(images, features.of(images).numpy())], features, len(images))
    assert found is not None
    return found


@pytest.fixture
def against(plain_features: Features, pictures: np.ndarray) -> Callable[[np.ndarray], Scores]:
    """The scores of images against the first half of the pictures."""
    real = statistics_of(pictures[:200], plain_features)
    return lambda images: compare(real, statistics_of(images, plain_features))


def worse(image: np.ndarray, how: str, amount: float) -> np.ndarray:
    """Images that are `amount` as bad as can be, in one way."""
    levels = image.astype(float)
    if how == "noise":
        levels += 120 * amount * np.random.default_rng(1).standard_normal((len(levels), 1, 1, 3))
    elif how == "blur":  # of all images into their mean
        levels += amount * (levels.mean(axis=0) - levels)
    else:  # dropped modes: the dark images turn light
        dark = np.arange(len(levels)) % 2 == 0
        dark[int(amount * len(levels)) :] = False
        levels[dark] = levels[np.roll(dark, 1)]
    return levels.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["noise", "blur", "modes"])
def test_distances_grow_with_what_makes_images_worse(
    against: Callable[[np.ndarray], Scores], pictures: np.ndarray, how: str
) -> None:
    found = [against(worse(pictures[200:], how, amount)) for amount in (0.0, 0.3, 0.6, 1.0)]
    for better, bad in itertools.pairwise(found):
        assert better.fd < bad.fd
        assert better.kid < bad.kid


def test_coverage_and_recall_fall_with_dropped_modes_and_precision_stays(
    against: Callable[[np.ndarray], Scores], pictures: np.ndarray
) -> None:
    whole = against(pictures[200:])
    half = against(pictures[200:][np.arange(200) % 2 == 1])
    assert half.coverage == pytest.approx(whole.coverage / 2, abs=0.1)
    assert half.recall == pytest.approx(whole.recall / 2, abs=0.1)
    assert half.precision > 0.9 * whole.precision


def test_the_floor_is_of_other_real_images(plain_features: Features, pictures: np.ndarray) -> None:
    real = RealImages(pictures, "pictures", 150)
    floor = real.floor(plain_features, ignore)
    assert floor is not None
    assert floor.images == 150
    assert abs(floor.scores.kid) < 3 * floor.scores.kid_error
    assert floor.scores.coverage > 0.9
    assert floor.scores.fd > 0


def test_where_all_images_are_compared_with_the_floor_is_of_halves(
    plain_features: Features, pictures: np.ndarray
) -> None:
    floor = RealImages(pictures, "pictures", 400).floor(plain_features, ignore)
    assert floor is not None
    assert floor.images == 200
    assert RealImages(pictures[:60], "pictures", 60).floor(plain_features, ignore) is None


def test_the_same_images_are_compared_with_each_time_and_never_those_left_out(
    plain_features: Features, pictures: np.ndarray
) -> None:
    numbers = np.arange(0, 400, 2)
    one, two = (RealImages(pictures, "x", 100, numbers) for _ in range(2))
    assert one.digest == two.digest
    found = one.statistics(plain_features, ignore)
    assert float(plain_features.of(pictures[1::2]).min()) > float(found.kept.max())
    assert one.which == "x, at random from 200"


@pytest.mark.parametrize("n", [200, 201])
def test_where_all_images_are_compared_with_each_is_measured_once_for_the_floor_too(
    plain_features: Features, pictures: np.ndarray, n: int
) -> None:
    asked: list[int] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return plain_features.network(images)

    real, told = RealImages(pictures[:n], "pictures", n), []
    features = replace(plain_features, network=network)
    found = real.statistics(features, lambda done, total: told.append((done, total)))
    assert real.floor(features, ignore).images == 100
    assert sum(asked) == n
    assert told == sorted(told)
    assert told[-1] == (n, n)
    expected = statistics_of(pictures[:n], plain_features)
    assert found.count == n
    torch.testing.assert_close(found.gaussian.mean, expected.gaussian.mean)
    torch.testing.assert_close(found.gaussian.covariance, expected.gaussian.covariance)
    torch.testing.assert_close(found.kept.unique(dim=0), expected.kept.unique(dim=0))


def test_more_images_than_there_are_is_one_sentence(pictures: np.ndarray) -> None:
    with pytest.raises(ConfigError) as error:
        RealImages(pictures, "x", 500)
    assert error.value.message == "500 images were asked for, but there are only 400 (x)"
    assert error.value.hint == "ask for 400 or fewer"


@pytest.mark.parametrize(("n", "count"), [(1, 1), (LEAST - 1, LEAST - 1)])
def test_too_few_images_are_one_sentence(pictures: np.ndarray, n: int, count: int) -> None:
    with pytest.raises(DataError, match="scores need 40 images of each kind or more"):
        RealImages(pictures[:n], "x", count)


def test_too_few_images_that_are_asked_for_are_one_sentence(pictures: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="39 images were asked for, but scores need 40 of each"):
        RealImages(pictures, "x", LEAST - 1)


def test_a_distance_that_cannot_be_computed_is_one_sentence(
    pictures: np.ndarray, plain_features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run that is scored goes on without this score."""

    def failing(*_: object) -> float:
        raise torch.linalg.LinAlgError("eigh did not converge")  # type: ignore[attr-defined]

    found = RealImages(pictures, "x", 200).statistics(plain_features, ignore)
    monkeypatch.setattr(comparison, "frechet_distance", failing)
    with pytest.raises(DataError, match="distance cannot be computed"):
        compare(found, found)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_generator_is_measured_on_each_seed_with_the_next_class(
    plain_features: Features,
    tiny: Callable[..., Config],
    tiny_resnet: Callable[..., Config],
    conditional: bool,
) -> None:
    config = tiny_resnet() if conditional else tiny()
    generator, _ = build_networks(config.model, config.data, random_stream(0, "x"), 3)
    before = {name: tensor.clone() for name, tensor in generator.eval().state_dict().items()}
    found = of_generator(generator, 70, plain_features, ignore)
    points = [Point(seed, seed % 3 if conditional else None) for seed in range(70)]
    drawn = np.concatenate(
        [batch.images for batch in draw(generator, points, batch_size=64, device=CPU)]
    )
    torch.testing.assert_close(found.kept, plain_features.of(drawn))
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_images_that_are_not_finite_are_one_sentence(
    plain_features: Features, tiny: Callable[..., Config]
) -> None:
    config = tiny()
    generator, _ = build_networks(config.model, config.data, random_stream(0, "x"))
    for parameter in generator.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="draws images that are not finite"):
        of_generator(generator.eval(), 40, plain_features, ignore)


def test_protocols_are_the_same_if_the_pixels_are(
    plain_features: Features, pictures: np.ndarray, tmp_path: Path
) -> None:
    def protocol(images: np.ndarray, which: str, count: int, **kind: object) -> str:
        words = fake_words(count, **kind)  # type: ignore[arg-type]
        return RealImages(images, which, count).protocol(plain_features, words, count).key()

    first = protocol(pictures, "images of a/", 100)
    assert protocol(pictures, "images of b/", 100) == first
    others = {
        protocol(pictures, "images of a/", 101),
        protocol(pictures ^ 1, "images of a/", 100),
        protocol(pictures, "images of a/", 100, raw=True),
        protocol(pictures, "images of a/", 100, truncation=0.7),
    }
    assert len(others | {first}) == 5
