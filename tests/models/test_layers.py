"""Convolutions joined with up-sampling or pooling against the plain formula."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from ganctl.models.layers import conv, conv_pool, linear, upsample_conv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 5)])
def test_upsample_conv_equals_upsampling_then_convolving(
    size: tuple[int, int], kernel: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = upsample_conv(3, 4, kernel, bias=bias, spectral_norm=False).double()
    if bias:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = conv2d(interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=kernel // 2)
    direction = torch.randn_like(plain)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(
        torch.autograd.grad((layer(x) * direction).sum(), inputs),
        torch.autograd.grad((plain * direction).sum(), inputs),
    )


@pytest.mark.parametrize("size", [(2, 4), (4, 8), (6, 2)])
def test_conv_pool_equals_convolving_then_pooling(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = conv_pool(3, 4, spectral_norm=False).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = avg_pool2d(conv2d(x, layer.weight, layer.bias, padding=1), 2)
    direction = torch.randn_like(plain)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(
        torch.autograd.grad((layer(x) * direction).sum(), inputs),
        torch.autograd.grad((plain * direction).sum(), inputs),
    )


def test_weights_start_glorot_uniform_and_biases_at_zero() -> None:
    for layer, fan_in, fan_out in ((conv(30, 50, 3), 270, 450), (linear(400, 100), 400, 100)):
        raw = layer.parametrizations["weight"].original
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.98 * bound < raw.abs().max() <= bound
        torch.testing.assert_close(raw.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
        assert not layer.bias.any()


def test_a_gain_widens_glorots_weights_and_orthogonal_ones_have_unit_singular_values() -> None:
    torch.manual_seed(0)
    plain, wide = (conv(30, 50, 3, gain=gain, spectral_norm=False).weight for gain in (1.0, 2.0))
    torch.testing.assert_close((wide.std() / plain.std()).item(), 2.0, rtol=0.05, atol=0)
    weight = conv(30, 50, 3, orthogonal=True, spectral_norm=False).weight.flatten(1)
    torch.testing.assert_close(torch.linalg.svdvals(weight), torch.ones(50))
