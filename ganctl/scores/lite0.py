"""EfficientNet-Lite0, a small network that was trained to tell ImageNet's classes apart.

Its layers are those of EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1) in
the lite variant: no squeeze and excitation, ReLU6 for swish. Batch norm is folded into the
convolutions as weights are loaded, which changes nothing in eval mode and saves half the time.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

SIDE = 128  # pixels: images are resized to it
MEAN, SPREAD = 127.0, 128.0  # of grey levels, as it was trained (efficientnet_lite_builder.py)
BATCH_NORM_EPS = 1e-3
WIDTH = 1280  # features
STEM = 32  # channels


class Stage(NamedTuple):
    """Blocks of one width; the first of them has the stride, and widens."""

    repeats: int
    kernel: int
    stride: int
    expand: int  # channels inside a block, in units of those that come in
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip


class Convolution(nn.Module):
    """A convolution with its bias, padded as TensorFlow does, and ReLU6 if it is `active`."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1,
        *, active: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        # TensorFlow's "same" for even sides: with a stride one pixel less on the left and above.
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.uneven = (before, after, before, after) if before != after else None
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, 0 if self.uneven else before, groups=groups
        )
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        x = self.conv(x if self.uneven is None else pad(x, self.uneven))
        return x.clamp_(0, 6) if self.active else x


class Block(nn.Module):
    """A bottleneck turned inside out: widen, convolve each channel by itself, narrow."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = expand * c_in
        self.expand = Convolution(c_in, inner) if expand > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, c_out, active=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        inner = x if self.expand is None else self.expand(x)
        out = self.project(self.depthwise(inner))
        return out.add_(x) if self.residual else out


class Lite0(nn.Module):
    """From images to what the last convolution says of them, averaged over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        self.blocks = nn.ModuleList()
        width = STEM
        for stage in STAGES:
            for number in range(stage.repeats):
                stride = 1 if number else stage.stride
                self.blocks.append(Block(width, stage.channels, stage.kernel, stride, stage.expand))
                width = stage.channels
        self.head = Convolution(width, WIDTH)
        self.to(memory_format=torch.channels_last)

    def forward(self, levels: Tensor) -> Tensor:
        """(B, 3, H, W) grey levels 0 to 255, of any size and type -> (B, 1280) fp32."""
        x = interpolate(levels.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        x = ((x - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        means: Tensor = self.head(x).mean(dim=(2, 3))
        return means

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of `efficientnet-lite-pytorch`, each with its batch norm folded in.

        Raises KeyError or RuntimeError if `state` does not fit.
        """
        _fold(self.stem, state, "_conv_stem", "_bn0")
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            at = f"_blocks.{number}."
            if block.expand is not None:
                _fold(block.expand, state, f"{at}_expand_conv", f"{at}_bn0")
            _fold(block.depthwise, state, f"{at}_depthwise_conv", f"{at}_bn1")
            _fold(block.project, state, f"{at}_project_conv", f"{at}_bn2")
        _fold(self.head, state, "_conv_head", "_bn1")


def _fold(layer: Convolution, state: Mapping[str, Tensor], conv: str, norm: str) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    scale, shift, mean, variance = (state[f"{norm}.{name}"].double() for name in names)
    scale = scale / (variance + BATCH_NORM_EPS).sqrt()
    weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
    bias = shift - mean * scale
    layer.conv.load_state_dict({"weight": weight.float(), "bias": bias.float()})
