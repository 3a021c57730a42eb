"""Poolings with their own backward passes against the library's."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, leaky_relu

from ganctl.models import pooling

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(layout: torch.memory_format) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 4, dtype=torch.float64)
    return x.to(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_leaky_relu_pool_equals_the_librarys_two_steps(layout: torch.memory_format) -> None:
    x = maps(layout)
    plain = avg_pool2d(leaky_relu(x, 0.2), 2)
    fused = pooling.leaky_relu_pool(x, 0.2)
    assert_same_gradient(fused, plain, x, layout)
    assert torch.autograd.gradgradcheck(lambda x: pooling.leaky_relu_pool(x, 0.2), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [0, 1])
def test_window_means_equal_the_librarys(padding: int, layout: torch.memory_format) -> None:
    x = maps(layout)
    plain = avg_pool2d(x, 2, stride=1, padding=padding)
    ours = pooling.window_means(x, padding)
    assert ours.shape[2:] == (5 + 2 * padding, 3 + 2 * padding)
    assert_same_gradient(ours, plain, x, layout)
    assert torch.autograd.gradgradcheck(lambda x: pooling.window_means(x, padding), x)


def assert_same_gradient(
    ours: Tensor, plain: Tensor, x: Tensor, layout: torch.memory_format
) -> None:
    assert torch.equal(ours, plain)
    direction = torch.randn_like(plain)
    first = [torch.autograd.grad(y, x, direction, create_graph=True)[0] for y in (ours, plain)]
    torch.testing.assert_close(*first)
    assert first[0].is_contiguous(memory_format=layout)
