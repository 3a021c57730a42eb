"""Norms of convolutions against the same convolutions written out as matrices, and iterated."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv_transpose2d

from ganctl.insight.operator_norms import (
    circular_norm,
    largest_norm,
    reshaped_factor,
    reshaped_norm,
    singular_values,
    zero_padded_norm,
)

CASES = [  # C_out, C_in, kernel, size, stride
    (4, 3, (3, 3), 6, 1), (3, 4, (5, 5), 6, 1), (2, 3, (5, 5), 4, 1), (4, 3, (4, 4), 8, 2),
    (5, 2, (3, 3), 9, 3), (2, 2, (3, 3), 6, 2), (3, 2, (2, 3), 6, 2), (3, 5, (1, 1), 4, 1), (4, 1, (1, 1), 4, 2),
    (2, 1, (5, 5), 12, 2),
]  # fmt: skip


def kernel_of(c_out: int, c_in: int, kernel: tuple[int, int]) -> Tensor:
    torch.manual_seed(c_out + 10 * c_in)
    return torch.randn(c_out, c_in, *kernel, dtype=torch.float64)


def wrap(maps: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The maps with as much of them repeated at two edges as a kernel reaches over."""
    size = maps.shape[-1]
    tiled = maps.repeat(1, 1, 3, 3)
    return tiled[:, :, : size + kernel[0] - 1, : size + kernel[1] - 1]


def units(channels: int, size: int) -> Tensor:
    """All images with a single 1."""
    return torch.eye(channels * size**2, dtype=torch.float64).view(-1, channels, size, size)


def dense_norm(outputs: Tensor) -> float:
    """The norm of the map that sends `units` to these outputs."""
    return torch.linalg.svdvals(outputs.flatten(1))[0].item()


@pytest.mark.parametrize(("c_out", "c_in", "kernel", "size", "stride"), CASES)
def test_circular_norms_are_those_of_the_written_out_matrix(
    c_out: int, c_in: int, kernel: tuple[int, int], size: int, stride: int
) -> None:
    weight = kernel_of(c_out, c_in, kernel)
    images = wrap(units(c_in, size), kernel)
    expected = dense_norm(conv2d(images, weight, stride=stride))
    assert circular_norm(weight, size, stride) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize(("c_out", "c_in"), [(4, 3), (2, 4), (3, 3)])
def test_zero_padded_bounds_hold_the_written_out_norm(
    kernel: int, size: int, c_out: int, c_in: int
) -> None:
    weight = kernel_of(c_out, c_in, (kernel, kernel))
    expected = dense_norm(conv2d(units(c_in, size), weight, padding=kernel // 2))
    bounds = zero_padded_norm(weight, size)
    assert bounds.lower <= expected * (1 + 1e-12)
    assert bounds.upper >= expected * (1 - 1e-12)
    assert bounds.lower == pytest.approx(expected, rel=0.05)
    if size == 8:
        assert bounds.upper == pytest.approx(expected, rel=0.25)


def test_zero_padded_bounds_hold_power_iteration_on_a_larger_convolution() -> None:
    weight = kernel_of(16, 8, (5, 5))
    x = torch.randn(1, 8, 24, 24, dtype=torch.float64)
    for _ in range(300):
        x = conv_transpose2d(conv2d(x, weight, padding=2), weight, padding=2)
        x = x / x.norm()
    expected = conv2d(x, weight, padding=2).norm().item()
    bounds = zero_padded_norm(weight.float(), 24)
    assert bounds.lower * (1 - 1e-6) <= expected <= bounds.upper
    assert bounds.upper / bounds.lower < 1.02


def test_the_circular_norm_of_the_same_size_would_not_be_a_bound() -> None:
    """Differences over two pixels: a matrix of bands whose norm is known, 2 cos(pi / (n + 1))."""
    difference = torch.zeros(1, 1, 3, 3)
    difference[0, 0, 1] = torch.tensor([1.0, 0.0, -1.0])
    expected = 2 * math.cos(math.pi / 7)
    assert circular_norm(difference, 6) < 0.97 * expected  # it has no frequency near pi / 2
    bounds = zero_padded_norm(difference, 6)
    assert bounds.lower <= expected * (1 + 1e-12)
    assert expected <= bounds.upper <= 2


def test_strided_circular_norm_against_power_iteration() -> None:
    weight = kernel_of(6, 4, (4, 4))
    x = torch.randn(1, 4, 16, 16, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        y = conv2d(wrap(x, (4, 4)), weight, stride=2)
        (x,) = torch.autograd.grad(y.square().sum() / 2, x)  # the transpose, applied to y
        x = (x / x.norm()).detach().requires_grad_()
    norm = conv2d(wrap(x, (4, 4)), weight, stride=2).norm().item()
    assert circular_norm(weight, 16, 2) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (2, 5)])
def test_the_bound_for_any_size_holds_for_all_sizes_strides_paddings_and_groups(
    kernel: tuple[int, int],
) -> None:
    weight = kernel_of(4, 2, kernel)
    bound = largest_norm(weight)
    norms = [circular_norm(weight, size) for size in (5, 7, 8, 12, 30, 61)]
    assert max(norms) <= bound <= 1.05 * max(norms)
    for stride in (1, 2, 3):
        for padding in (0, 1, 2):
            norms.append(dense_norm(conv2d(units(2, 7), weight, padding=padding, stride=stride)))
    norms.append(dense_norm(conv_transpose2d(units(4, 6), weight, stride=2)))
    norms.append(dense_norm(conv2d(units(4, 6), weight, groups=2)))
    assert max(norms) <= bound * (1 + 1e-12)


def test_in_one_and_three_dimensions_the_bound_is_above_that_of_the_patches() -> None:
    torch.manual_seed(0)
    taps = torch.randn(3, 2, 5, dtype=torch.float64)
    along = torch.eye(2 * 40, dtype=torch.float64).view(-1, 2, 40)
    norm = dense_norm(conv1d(along, taps, padding=2))
    assert norm <= largest_norm(taps) <= 1.1 * norm
    cube = torch.ones(1, 1, 3, 3, 3, dtype=torch.float64)
    assert reshaped_norm(cube) == pytest.approx(27**0.5)
    assert largest_norm(cube) == pytest.approx(27)  # of maps that are large: all taps add up


def test_the_grid_alone_would_not_be_a_bound() -> None:
    """Three taps whose largest frequency, 3 pi / 16, lies between two of the grid's 16 points."""
    taps = torch.tensor([1.5, 3 * math.cos(3 * math.pi / 16), -0.5], dtype=torch.float64)

    def largest(points: int) -> float:
        angles = torch.arange(points) * (2 * math.pi / points)
        waves = torch.exp(-1j * angles[:, None] * torch.arange(3))
        return (waves @ taps.to(waves.dtype)).abs().max().item()

    assert largest(16) < 0.999 * largest(32)
    for weight in (taps.view(1, 1, 1, 3), taps.view(1, 1, 3, 1)):
        assert largest(32) <= largest_norm(weight) <= largest(16) * 1.02


def test_known_factors_between_reshaped_and_true_norm() -> None:
    equal_taps = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    assert reshaped_norm(equal_taps) == pytest.approx(3)
    assert circular_norm(equal_taps, 8) == pytest.approx(9)  # at frequency 0: the whole factor
    assert [reshaped_factor(torch.empty(1, 1, k, k)) for k in (1, 3, 5)] == [1, 3, 5]
    assert reshaped_factor(torch.empty(1, 1, 4, 4), stride=2) == 2
    assert circular_norm(torch.ones(1, 1, 4, 4), 8, stride=2) == pytest.approx(2 * 4)
    one_tap = torch.zeros(2, 2, 5, 5)
    one_tap[0, 1, 1, 3] = -2.5
    assert circular_norm(one_tap, 8) == pytest.approx(2.5)  # a shift of the map
    assert zero_padded_norm(one_tap, 8) == pytest.approx((2.5, 2.5))


def test_singular_values_agree_with_a_decomposition() -> None:
    torch.manual_seed(0)
    for shape in ((4, 3, 3, 3), (30, 2, 1, 1), (1, 50), (7, 7)):
        weight = torch.randn(shape)
        expected = torch.linalg.svdvals(weight.flatten(1).double())
        torch.testing.assert_close(singular_values(weight), expected, rtol=1e-9, atol=1e-9)
    low_rank = torch.ones(4, 2, 3, 3)
    assert singular_values(low_rank)[1] < 1e-6


def test_a_kernel_of_zeros_has_norm_zero() -> None:
    zeros = torch.zeros(2, 3, 3, 3)
    assert zero_padded_norm(zeros, 8) == (0, 0)
    assert circular_norm(zeros, 8) == 0
    assert largest_norm(zeros) == 0


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of the stride 2"):
        circular_norm(torch.ones(1, 1, 3, 3), 9, stride=2)
    for kernel in ((4, 4), (3, 5)):
        with pytest.raises(ValueError, match="square and odd"):
            zero_padded_norm(torch.ones(1, 1, *kernel), 8)
