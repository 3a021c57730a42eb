"""The stream of real images as a pure function of seed and position."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import batches_of
from hypothesis import given
from hypothesis import strategies as st

from ganctl.data.batches import Batches
from ganctl.settings.config import Config


def stream(n: int, seed: int = 0, *, flip: bool = False, dequantize: bool = False) -> Batches:
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return Batches(images, seed=seed, flip=flip, dequantize=dequantize, device=torch.device("cpu"))


@given(n=st.integers(1, 30), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_each_epoch_has_each_image_once(n: int, seed: int, epoch: int) -> None:
    order, _ = stream(n, seed).drawn(epoch * n, n)
    assert sorted(order) == list(range(n))


@given(n=st.integers(1, 20), start=st.integers(0, 50), cut=st.integers(1, 39))
def test_the_stream_is_the_same_however_it_is_cut(n: int, start: int, cut: int) -> None:
    whole = stream(n).drawn(start, 40)
    parts = [stream(n).drawn(start, cut), stream(n).drawn(start + cut, 40 - cut)]
    for piece in range(2):
        assert np.array_equal(whole[piece], np.concatenate([part[piece] for part in parts]))


def test_epochs_and_seeds_differ() -> None:
    orders = [stream(50, seed).drawn(start, 50)[0].tolist() for seed in (0, 1) for start in (0, 50)]
    assert len({tuple(order) for order in orders}) == 4


def test_pixels_are_scaled_to_minus_one_to_one(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    batches = batches_of(faces, tiny())
    images = batches.at(3, 5)
    expected = faces[batches.drawn(3, 5)[0]].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    assert np.array_equal(images.numpy(), expected)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_flipping_mirrors_about_half_of_the_images(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    plain = batches_of(faces, tiny()).at(0, 200)
    flipped = batches_of(faces, tiny(data__flip=True)).at(0, 200)
    mirrored = [torch.equal(f, p.flip(2)) for f, p in zip(flipped, plain, strict=True)]
    same = [torch.equal(f, p) for f, p in zip(flipped, plain, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 60 < sum(mirrored) < 140


def test_dequantisation_stays_within_one_grey_level() -> None:
    noisy, plain = stream(200, dequantize=True).at(0, 200), stream(200).at(0, 200)
    levels = (noisy + 1) * 128 - ((plain + 1) * 127.5).round()
    assert levels.min() >= 0
    assert levels.max() <= 1
    assert levels.mean().item() == pytest.approx(0.5, abs=0.05)
