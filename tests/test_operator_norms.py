"""Norms of convolutions against the matrices that they are, made from unit images."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ganctl.operator_norms import circular_norm, largest_norm, zero_padded_bounds


def dense(weight: Tensor, size: int, mode: str, stride: int = 1) -> Tensor:
    """The convolution as a matrix: its columns are what it makes of images of one bright pixel."""
    c_in, k_h, k_w = weight.shape[1:]
    images = torch.eye(c_in * size * size, dtype=weight.dtype).reshape(-1, c_in, size, size)
    before, after = (k_h // 2, k_w // 2), ((k_h - 1) // 2, (k_w - 1) // 2)
    padded = pad(images, (before[1], after[1], before[0], after[0]), mode)
    return conv2d(padded, weight, stride=stride).flatten(1).mT


def kernel(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectral(matrix: Tensor) -> float:
    return torch.linalg.matrix_norm(matrix, 2).item()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 5, 3, 3), (4, 3, 5, 5), (3, 3, 4, 4), (2, 3, 1, 1)])  # fmt: skip
@pytest.mark.parametrize("size", [6, 8])
def test_with_circular_padding_the_norm_is_exact(
    size: int, shape: tuple[int, ...], stride: int
) -> None:
    weight = kernel(*shape)
    exact = spectral(dense(weight, size, "circular", stride))
    assert circular_norm(weight, size, stride) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 4, 7])
@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 5, 3, 3), (4, 3, 5, 5), (2, 3, 1, 1)])
def test_with_zero_padding_the_norm_lies_between_the_bounds(
    size: int, shape: tuple[int, ...]
) -> None:
    for seed in range(4):
        weight = kernel(*shape, seed=seed)
        sigma = spectral(weight.flatten(1))
        exact = spectral(dense(weight, size, "constant"))
        lower, upper = zero_padded_bounds(weight, size, sigma)
        assert lower <= exact * (1 + 1e-9)
        assert exact <= upper * (1 + 1e-9)
        assert lower > 0.99 * exact  # and is nearly reached
        assert upper <= math.sqrt(shape[2] * shape[3]) * sigma * (1 + 1e-9)
        assert exact <= largest_norm(weight) * (1 + 1e-9)


def test_the_bounds_come_together_on_large_maps() -> None:
    weight = kernel(4, 3, 3, 3)
    lower, upper = zero_padded_bounds(weight, 48, spectral(weight.flatten(1)))
    assert upper / lower < 1.01


def test_the_norm_at_any_resolution_is_hardly_above_that_on_a_large_map() -> None:
    for shape in ((4, 3, 3, 3), (4, 3, 5, 5), (4, 3, 4, 4)):
        weight = kernel(*shape)
        on_large = circular_norm(weight, 257)
        assert on_large <= largest_norm(weight) <= 1.15 * on_large


def test_equal_taps_reach_the_largest_factor_between_the_two_norms() -> None:
    """Every pixel is copied nine times, and nothing cancels: 3 times the reshaped norm."""
    weight = kernel(4, 3, 1, 1).expand(4, 3, 3, 3)
    factor = circular_norm(weight, 8) / spectral(weight.flatten(1))
    assert factor == pytest.approx(3, rel=1e-9)


def test_the_frequency_with_the_largest_norm_is_found_wherever_it_is() -> None:
    """A kernel that passes one frequency only: no early guess is right by luck."""
    for row, column in ((0, 0), (3, 1), (5, 4), (2, 0)):
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        wave = torch.cos(2 * math.pi * (row * y + column * x) / 8).double()
        weight = 1e-3 * kernel(2, 2, 8, 8) + wave / 32
        exact = spectral(dense(weight, 8, "circular"))
        assert circular_norm(weight, 8) == pytest.approx(exact, rel=1e-9)


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="size 7 must be a multiple of 2"):
        circular_norm(kernel(2, 2, 3, 3), 7, stride=2)
