"""A generator as a list of a few kinds of operations, which a page's script carries out.

Maps have their channels last: (side * side, channels). The kinds:

    dense      a vector -> a vector, with LeakyReLU: a layer of the mapping network
    linear     a vector -> a map; rows of the matrix are ordered as the map is
    conv       for each parity of the output (four after up-sampling, else one) the sum over taps,
               displacements of the input, of a matrix times the pixel there; zeros are around
    norm       batch norm in eval mode: a factor and a summand for each channel, of each class
    modulate   batch norm whose factors and summands are affine functions of the remembered vector
    keep       remember the map for a shortcut, or the vector that modulates
    shortcut   add to the map a matrix times the remembered one, up-sampled by repetition
    attention  a self-attention block
    tanh       the end: an image

`relu` says that negative values become zero after an operation.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.errors import ConfigError
from ganctl.models import Generator, convnet, resnet
from ganctl.models.attention import SelfAttention
from ganctl.models.convnet import UpStage
from ganctl.models.folding import folded_linear, folded_upsampling
from ganctl.models.layers import Conv2d, UpsampleConv2d
from ganctl.models.residual_blocks import ConditionalBatchNorm2d, UpBlock
from ganctl.models.self_modulation import SLOPE, ModulatedBatchNorm2d

START = 4  # the first map is 4 x 4
PARITIES = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the row and the column of a pixel
# Of a row of three taps on an up-sampled map: which fall on the source pixels a displacement away.
SOURCES = (((-1, (0,)), (0, (1, 2))), ((0, (0, 1)), (1, (2,))))  # for even and odd output pixels


@dataclass
class Program:
    """Operations, and their numbers one after the other; an operation names where its own begin."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    matrices: list[Tensor] = field(default_factory=list)  # flat
    vectors: list[Tensor] = field(default_factory=list)  # flat: summands, factors

    def add(self, kind: str, **numbers: object) -> None:
        """One more operation; tensors of two dimensions are matrices, of one vectors."""
        plain = {name: self._kept(value) for name, value in numbers.items()}
        self.operations.append({"kind": kind, **plain})

    def _kept(self, value: object) -> object:
        if isinstance(value, list):
            return [self._kept(item) for item in value]
        if isinstance(value, dict):
            return {name: self._kept(item) for name, item in value.items()}
        if not isinstance(value, Tensor):
            return value
        kept = self.matrices if value.dim() == 2 else self.vectors
        begin = sum(len(each) for each in kept)
        kept.append(value.detach().float().flatten())
        return begin


@torch.no_grad()
def program_of(generator: Generator) -> Program:
    """What `generator` computes in eval mode; ConfigError for an architecture it does not know."""
    program = Program()
    if isinstance(generator, convnet.Generator):
        _convnet(generator, program)
    elif isinstance(generator, resnet.Generator):
        _resnet(generator, program)
    else:
        raise ConfigError(f"there is no page for {type(generator).__name__} networks")
    program.add("tanh")
    return program


def _convnet(generator: convnet.Generator, program: Program) -> None:
    norm = generator.stem_norm[0]
    if generator.mapping is not None:
        for layer in generator.mapping.layers:
            assert isinstance(layer, nn.Linear)
            numbers = {"matrix": layer.weight, "bias": layer.bias}
            program.add("dense", outputs=layer.out_features, slope=SLOPE, **numbers)
        program.add("keep")
    if isinstance(norm, ModulatedBatchNorm2d):
        _linear(generator.stem, program, relu=False)
        _modulation(norm, program)
    else:
        assert isinstance(norm, nn.BatchNorm2d)
        _linear(folded_linear(generator.stem, norm), program, relu=True)
    for stage in generator.stages:
        assert isinstance(stage, UpStage)
        if isinstance(stage.norm, ModulatedBatchNorm2d):
            _phases(folded_upsampling(stage.conv, None)[0], program, relu=False)
            _modulation(stage.norm, program)
        else:
            assert isinstance(stage.norm, nn.BatchNorm2d)
            _phases(folded_upsampling(stage.conv, stage.norm)[0], program, relu=True)
        if stage.attention is not None:
            _attention(stage.attention, program)
    _phases(folded_upsampling(generator.to_rgb, None)[0], program, relu=False)


def _resnet(generator: resnet.Generator, program: Program) -> None:
    _linear(generator.stem, program, relu=False)
    for index, block in enumerate(generator.blocks):
        assert isinstance(block, UpBlock)
        program.add("keep")
        _norm(block.norm1, program)
        _upsampled(block.conv1, program)
        _norm(block.norm2, program)
        _conv(block.conv2, program)
        shortcut: Any = block.shortcut
        program.add("shortcut", matrix=shortcut.weight.flatten(1), bias=shortcut.bias)
        if str(index) in generator.attention:
            _attention(generator.attention[str(index)], program)
    _norm(generator.norm, program)
    _conv(generator.to_rgb, program)


def _linear(layer: nn.Linear, program: Program, *, relu: bool) -> None:
    channels = layer.out_features // START**2
    order = torch.arange(layer.out_features).view(channels, START**2).T.flatten()
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    program.add(
        "linear", channels=channels, side=START,
        matrix=layer.weight[order], bias=bias[order], relu=relu,
    )  # fmt: skip


def _phases(layer: nn.Module, program: Program, *, relu: bool) -> None:
    """A 3 x 3 convolution with four times the channels, and the pixel shuffle after it."""
    assert isinstance(layer, Conv2d) and layer.bias is not None
    taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    parts = [
        {"at": at, "taps": taps, "matrix": _matrix(layer.weight[n::4]), "bias": layer.bias[n::4]}
        for n, at in enumerate(PARITIES)
    ]
    channels = (layer.in_channels, layer.out_channels // 4)
    program.add("conv", channels=channels, up=2, parts=parts, relu=relu)


def _upsampled(layer: nn.Module, program: Program) -> None:
    """A 3 x 3 convolution of the up-sampled map: 2 x 2 source pixels for each output pixel."""
    assert isinstance(layer, UpsampleConv2d) and layer.bias is not None
    parts = []
    for row, column in PARITIES:
        taps, columns = [], []
        for dy, rows_in in SOURCES[row]:
            for dx, columns_in in SOURCES[column]:
                taps.append((dy, dx))
                columns.append(layer.weight[:, :, rows_in][:, :, :, columns_in].sum((2, 3)))
        parts.append(
            {"at": (row, column), "taps": taps, "matrix": torch.cat(columns, 1), "bias": layer.bias}
        )
    channels = (layer.in_channels, layer.out_channels)
    program.add("conv", channels=channels, up=2, parts=parts, relu=False)


def _conv(layer: nn.Module, program: Program) -> None:
    assert isinstance(layer, Conv2d) and layer.bias is not None
    taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    part = {"at": (0, 0), "taps": taps, "matrix": _matrix(layer.weight), "bias": layer.bias}
    channels = (layer.in_channels, layer.out_channels)
    program.add("conv", channels=channels, up=1, parts=[part], relu=False)


def _matrix(kernels: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) -> (C_out, 9 * C_in), tap by tap."""
    return kernels.permute(0, 2, 3, 1).flatten(1)


def _norm(norm: nn.Module, program: Program) -> None:
    """Followed by ReLU, as all of a residual network's are."""
    inner: Any = norm.norm if isinstance(norm, ConditionalBatchNorm2d) else norm
    each = 1 / (inner.running_var + inner.eps).sqrt()
    if isinstance(norm, ConditionalBatchNorm2d):
        factors, summands = norm.scale.weight, norm.shift.weight
    else:
        factors, summands = inner.weight[None], inner.bias[None]
    scale = factors * each
    shift = summands - scale * inner.running_mean
    rows, channels = scale.shape
    numbers = {"scale": scale.flatten(), "shift": shift.flatten()}
    program.add("norm", rows=rows, channels=channels, relu=True, **numbers)


def _modulation(norm: ModulatedBatchNorm2d, program: Program) -> None:
    """Followed by ReLU. What batch norm divides by and subtracts goes into the affine functions."""
    inner: Any = norm.norm
    each = 1 / (inner.running_var + inner.eps).sqrt()
    scale, scale_bias = each[:, None] * norm.scale.weight, each * norm.scale.bias
    shift = norm.shift.weight - inner.running_mean[:, None] * scale
    shift_bias = norm.shift.bias - inner.running_mean * scale_bias
    numbers = {
        "scale": scale, "scale_bias": scale_bias, "shift": shift, "shift_bias": shift_bias,
    }  # fmt: skip
    program.add("modulate", channels=len(each), relu=True, **numbers)


def _attention(block: nn.Module, program: Program) -> None:
    assert isinstance(block, SelfAttention)
    names = ("query", "key", "value", "output")
    matrices = {name: getattr(block, name).weight.flatten(1) for name in names}
    program.add(
        "attention", channels=block.query.in_channels, pooled=block.pooled, factor=block.scale,
        gamma=block.gamma.item(), **matrices,
    )  # fmt: skip
