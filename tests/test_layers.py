"""The up-sampling convolution against the plain formula."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from ganctl.models.layers import conv, linear, upsample_conv


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


def test_weights_start_glorot_uniform_and_biases_at_zero() -> None:
    for layer, fan_in, fan_out in ((conv(30, 50, 3), 270, 450), (linear(400, 100), 400, 100)):
        raw = layer.parametrizations["weight"].original
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.98 * bound < raw.abs().max() <= bound
        torch.testing.assert_close(raw.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
        assert not layer.bias.any()
