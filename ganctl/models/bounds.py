"""How much a network may stretch the difference of two inputs: a bound, piece by piece.

The bound of a chain is the product of its pieces' bounds, that of a residual block the sum of its
shortcut's and its branch's. It holds for networks in eval mode, with the weights in use. Attention
has no such bound on unbounded inputs (Kim, Papamakarios and Mnih 2021,
https://arxiv.org/abs/2006.04710, theorem 3.1), nor have maps that the latent vector
scales: where there are such pieces, the bound is that of the others.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

POOLING = 0.5  # the mean of 2 x 2 pixels
UPSAMPLING = 2.0  # each pixel four times


class Piece(NamedTuple):
    """One link of the chain."""

    name: str
    bound: float | None  # None: attention and self-modulation have none


def product(chain: Iterable[Piece]) -> float:
    """The bound of the whole, without its pieces that have none."""
    return math.prod(piece.bound for piece in chain if piece.bound is not None)


def batch_norm_bound(norm: nn.Module, scale: Tensor | None = None) -> float:
    """In eval mode batch norm multiplies each channel by a number; the largest counts.

    `scale`: the channels' factors, of all classes if there are some, if they are not the norm's.
    """
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    factors = norm.weight if scale is None else scale
    return (factors.abs() / (norm.running_var + norm.eps).sqrt()).max().item()
