"""Winograd's convolution against the library's, and its matrices against published ones."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ganctl.models import winograd

DOUBLE = torch.float64


def maps(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the channels, and in parts of one image at a time."""
    monkeypatch.setattr(winograd, "WORTH", 0)
    monkeypatch.setattr(winograd, "CACHE_BYTES", 1)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_value_and_gradients_equal_conv2d(kernel: int, size: tuple[int, int], bias: bool) -> None:
    x = maps(5, 3, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = maps(4, 3, kernel, kernel, seed=1).requires_grad_()
    shift = maps(4, seed=2).requires_grad_() if bias else None
    plain = conv2d(x, weight, shift, padding=kernel // 2)
    ours = winograd.convolve(x, weight, shift)
    assert ours.grad_fn is not None and "Convolution" not in ours.grad_fn.name()
    assert ours.is_contiguous(memory_format=torch.channels_last)
    inputs = [t for t in (x, weight, shift) if t is not None]
    direction = maps(*plain.shape, seed=3)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(plain, inputs, direction),
        rtol=0,
        atol=1e-11,
    )


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kernel", [3, 5])
def test_it_can_be_derived_twice(kernel: int) -> None:
    x = maps(1, 2, 4, 8).requires_grad_()
    weight = maps(3, 2, kernel, kernel, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(winograd.convolve, (x, weight, None), fast_mode=True)
    assert torch.autograd.gradgradcheck(winograd.convolve, (x, weight, None), fast_mode=True)


@pytest.mark.parametrize(("kernel", "bound"), [(3, 4e-6), (5, 8e-6)])
def test_in_fp32_the_error_is_ten_roundings_not_a_thousand(kernel: int, bound: float) -> None:
    x, weight = maps(2, 256, 8, 8), maps(512, 256, kernel, kernel, seed=1)
    exact = conv2d(x, weight, padding=kernel // 2)
    ours = winograd.convolve(x.float(), weight.float(), None)
    assert 1e-7 < (ours - exact).norm() / exact.norm() < bound


def test_the_matrices_give_winograds_products_by_hand() -> None:
    """One tile in one dimension: four sums of three taps from six products."""
    matrices = winograd.transforms(3, DOUBLE)
    d, g = maps(6, 6), maps(3, 3, seed=1)
    products = (matrices.kernel @ g.flatten()) * (matrices.input @ d.flatten())
    for row in range(4):
        for column in range(4):
            by_hand = (d[row : row + 3, column : column + 3] * g).sum()
            found = matrices.output[4 * row + column] @ products
            torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize(
    ("x", "weight", "why"),
    [
        (maps(1, 512, 6, 8), maps(512, 512, 3, 3), "maps that are not made of 4 x 4 tiles"),
        (maps(1, 16, 8, 8), maps(512, 16, 3, 3), "few channels"),
        (maps(1, 512, 8, 8), maps(512, 512, 1, 1), "1 x 1"),
        (maps(1, 512, 8, 8).bfloat16(), maps(512, 512, 3, 3).bfloat16(), "bf16"),
    ],
)
def test_where_it_does_not_pay_the_library_convolves(x: Tensor, weight: Tensor, why: str) -> None:
    plain = conv2d(x, weight, padding=weight.shape[-1] // 2)
    assert torch.equal(winograd.convolve(x, weight, None), plain), why


def test_under_autocast_the_library_convolves_in_bf16() -> None:
    x, weight = maps(1, 256, 8, 8).float(), maps(256, 256, 3, 3, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert winograd.convolve(x, weight, None).dtype == torch.bfloat16
