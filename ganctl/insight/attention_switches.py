"""An attention block for a while without its effect, or without a say in where it looks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ganctl.models.attention import SelfAttention


@contextmanager
def switched_off(block: SelfAttention) -> Iterator[None]:
    """With gamma = 0, so that the block is the identity."""
    gamma = block.gamma.detach().clone()
    with torch.no_grad():
        block.gamma.zero_()
        try:
            yield
        finally:
            block.gamma.copy_(gamma)


@contextmanager
def evened(block: SelfAttention) -> Iterator[None]:
    """With a uniform map in the place of its own: each position gets the mean of all values."""

    def uniform(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return value.mean(1, keepdim=True).expand(-1, query.shape[1], -1)

    attend = block.attend
    block.attend = uniform
    try:
        yield
    finally:
        block.attend = attend
