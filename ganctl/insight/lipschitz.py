"""How much a network may stretch the difference of two inputs: a bound, piece by piece.

The bound of a chain is the product of its pieces' bounds, that of a residual block the sum of its
shortcut's and its branch's. It holds for networks in eval mode, with the weights in use. Attention
has no such bound on unbounded inputs (Kim, Papamakarios and Mnih 2021,
https://arxiv.org/abs/2006.04710, theorem 3.1): with attention blocks it is that of the network
without them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganctl.models import Discriminator, Generator, convnet, resnet
from ganctl.models.attention import SelfAttention
from ganctl.models.convnet import DownStage, UpStage
from ganctl.models.resnet import ConditionalBatchNorm2d, DownBlock, FirstBlock, UpBlock

POOLING = 0.5  # the mean of 2 x 2 pixels
UPSAMPLING = 2.0  # each pixel four times

Norms = Mapping[str, float]


class Piece(NamedTuple):
    """One link of the chain."""

    name: str
    bound: float | None  # None: attention has none


@torch.no_grad()
def pieces(
    network: Generator | Discriminator, norms: Norms, sides: Mapping[str, int]
) -> list[Piece]:
    """The chain of `network`.

    `norms`: what each layer's map stretches at most; `sides`: of the maps that it works on.
    """
    if isinstance(network, convnet.Generator):
        return list(_article_generator(network, norms))
    if isinstance(network, convnet.Discriminator):
        return list(_article_discriminator(network, norms))
    if isinstance(network, resnet.Generator):
        return list(_residual_generator(network, norms))
    return list(_residual_discriminator(network, norms, sides))


def product(chain: list[Piece]) -> float:
    """The bound of the whole, without its attention blocks."""
    return math.prod(piece.bound for piece in chain if piece.bound is not None)


def _article_generator(generator: convnet.Generator, norms: Norms) -> Iterator[Piece]:
    yield Piece("stem", norms["stem"])
    yield Piece("stem_norm", _batch_norm(generator.stem_norm[0]))
    for index, stage in enumerate(generator.stages):
        assert isinstance(stage, UpStage)
        name = f"stages.{index}"
        yield Piece(f"{name} up-sampling", UPSAMPLING)
        yield Piece(f"{name}.conv", norms[f"{name}.conv"])
        yield Piece(f"{name}.norm", _batch_norm(stage.norm))
        yield from _attention(f"{name}.attention", stage.attention)
    yield Piece("to_rgb up-sampling", UPSAMPLING)
    yield Piece("to_rgb", norms["to_rgb"])


def _article_discriminator(discriminator: convnet.Discriminator, norms: Norms) -> Iterator[Piece]:
    for index, stage in enumerate(discriminator.stages):
        assert isinstance(stage, DownStage)
        name = f"stages.{index}"
        yield Piece(f"{name}.conv", norms[f"{name}.conv"])
        yield Piece(f"{name} pooling", POOLING)
        yield from _attention(f"{name}.attention", stage.attention)
    yield Piece("score", norms["score"])


def _residual_generator(generator: resnet.Generator, norms: Norms) -> Iterator[Piece]:
    yield Piece("stem", norms["stem"])
    for index, block in enumerate(generator.blocks):
        assert isinstance(block, UpBlock)
        name = f"blocks.{index}"
        convs = norms[f"{name}.conv1"] * norms[f"{name}.conv2"]
        branch = _batch_norm(block.norm1) * _batch_norm(block.norm2) * UPSAMPLING * convs
        yield Piece(name, norms[f"{name}.shortcut"] * UPSAMPLING + branch)
        yield from _attention_of(generator.attention, index)
    yield Piece("norm", _batch_norm(generator.norm))
    yield Piece("to_rgb", norms["to_rgb"])


def _residual_discriminator(
    discriminator: resnet.Discriminator, norms: Norms, sides: Mapping[str, int]
) -> Iterator[Piece]:
    for index, block in enumerate(discriminator.blocks):
        assert isinstance(block, FirstBlock | DownBlock)
        name = f"blocks.{index}"
        pooling = POOLING if isinstance(block, FirstBlock) or block.halve else 1.0
        shortcut = 1.0 if block.shortcut is None else norms[f"{name}.shortcut"]
        branch = norms[f"{name}.conv1"] * norms[f"{name}.conv2"]
        yield Piece(name, pooling * (shortcut + branch))
        yield from _attention_of(discriminator.attention, index)
    last = len(discriminator.blocks) - 1
    side = sides[f"blocks.{last}.conv2"] // (2 if discriminator.blocks[last].halve else 1)
    yield Piece("sum pooling", side)
    # For a given class the score is one inner product: with the row of `score` plus the class's.
    row: Tensor = discriminator.score.weight
    if discriminator.projection is not None:
        row = row + discriminator.projection.weight
    yield Piece("score and projection", row.norm(dim=1).max().item())


def _attention_of(blocks: nn.ModuleDict, index: int) -> Iterator[Piece]:
    if str(index) in blocks:
        yield from _attention(f"attention.{index}", blocks[str(index)])


def _attention(name: str, block: nn.Module | None) -> Iterator[Piece]:
    if isinstance(block, SelfAttention):
        yield Piece(name, None)


def _batch_norm(norm: nn.Module) -> float:
    """In eval mode it multiplies each channel by a number; of all classes the largest counts."""
    plain = norm.norm if isinstance(norm, ConditionalBatchNorm2d) else norm
    assert isinstance(plain, nn.BatchNorm2d) and plain.running_var is not None
    scale = norm.scale.weight if isinstance(norm, ConditionalBatchNorm2d) else plain.weight
    return (scale.abs() / (plain.running_var + plain.eps).sqrt()).max().item()
