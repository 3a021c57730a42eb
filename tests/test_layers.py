"""The up-sampling convolution against the plain formula."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, interpolate, leaky_relu

from ganctl.models.layers import LeakyReLUPool, conv, linear, upsample_conv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 5)])
def test_upsample_conv_equals_upsampling_then_convolving(size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    layer = upsample_conv(3, 4, bias=bias, spectral_norm=False).double()
    if bias:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = conv2d(interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=2)
    direction = torch.randn_like(plain)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(
        torch.autograd.grad((layer(x) * direction).sum(), inputs),
        torch.autograd.grad((plain * direction).sum(), inputs),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_leaky_relu_pool_equals_the_librarys_two_steps(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    plain = avg_pool2d(leaky_relu(x, 0.2), 2)
    fused = LeakyReLUPool(0.2)(x)
    direction = torch.randn_like(plain)
    torch.testing.assert_close(fused, plain)
    first = [torch.autograd.grad(y, x, direction, create_graph=True)[0] for y in (fused, plain)]
    torch.testing.assert_close(*first)
    assert first[0].is_contiguous(memory_format=layout)
    assert torch.autograd.gradgradcheck(LeakyReLUPool(0.2), x)


def test_weights_start_glorot_uniform_and_biases_at_zero() -> None:
    for layer, fan_in, fan_out in ((conv(30, 50, 3), 270, 450), (linear(400, 100), 400, 100)):
        raw = layer.parametrizations["weight"].original
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.98 * bound < raw.abs().max() <= bound
        torch.testing.assert_close(raw.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
        assert not layer.bias.any()
