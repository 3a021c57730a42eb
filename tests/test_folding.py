"""The folded generator draws what the generator draws."""

import copy

import pytest
import torch
from torch import nn

from ganctl.models.convnet import Generator
from ganctl.models.folding import fold


@pytest.mark.parametrize("spectral_norm", [True, False])
@pytest.mark.parametrize("resolution", [32, 128])
def test_folding_changes_no_image(resolution: int, spectral_norm: bool) -> None:
    torch.manual_seed(0)
    generator = Generator(
        resolution=resolution, width=16, latent_dim=12, attention_at=[8, 16], attention_scaled=False,
        attention_pooled=True, spectral_norm=spectral_norm,
    )  # fmt: skip
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-0.5, 0.5)
            elif hasattr(module, "gamma"):
                module.gamma.fill_(0.7)
        generator.to_rgb.bias.uniform_(-0.5, 0.5)
        generator.train()(torch.randn(32, 12))
    before = copy.deepcopy(generator.state_dict())
    z = torch.randn(5, 12)
    with torch.no_grad():
        expected = generator.eval()(z)
        folded = fold(generator)(z)
    assert expected.std() > 0.1
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
