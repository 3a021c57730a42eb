"""The self-attention block of SAGAN: Zhang et al. 2019, https://arxiv.org/abs/1805.08318.

Where the paper's text and its authors' code differ, this is the code
(brain-research/self-attention-gan, non_local.py): values have C/2 channels, keys and values are
max-pooled 2 x 2, and a last 1 x 1 convolution leads back to C channels.
"""

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ganctl.models.layers import LayerOptions, conv

# queries (B, N, D), keys (B, M, D), values (B, M, E), scale -> (B, N, E)
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]

CHUNK_BYTES = 4 * 2**20  # of maps that are made at once, so that they stay in the cache
KEPT_BYTES = 64 * 2**20  # of all maps of a pass, up to which they are kept for going back


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale * query key') value (eq. 2): (B, N, D), (B, M, D), (B, M, E) -> (B, N, E).

    Queries and keys are padded with zeros to the width of the values, which changes nothing and
    lets the fused kernels run; they keep no (N, M) map for the backward pass. They also want a
    dimension for heads, of which there is one, and on a GPU rows that lie close to one another:
    values are a slice of wider maps.
    """
    wider = (0, value.shape[-1] - query.shape[-1])
    heads = (pad(query, wider)[:, None], pad(key, wider)[:, None], value.contiguous()[:, None])
    return scaled_dot_product_attention(*heads, scale=scale)[:, 0]


def chunked_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same by plain products, for a few images at a time, whose maps stay in the cache.

    Where all its maps together are more than KEPT_BYTES, the backward pass makes them again.
    """
    a_map = query.shape[1] * key.shape[1] * query.element_size()
    size = max(1, CHUNK_BYTES // a_map)
    attend = _attention if len(query) * a_map <= KEPT_BYTES else _recomputed
    chunks = zip(query.split(size), key.split(size), value.split(size), strict=True)
    return torch.cat([attend(*chunk, scale) for chunk in chunks])


def _recomputed(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    arguments = (query, key, value, scale)
    attended: Tensor = checkpoint(
        _attention, *arguments, use_reentrant=False, preserve_rng_state=False
    )
    return attended


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (scale * query @ key.mT).softmax(dim=-1) @ value


class SelfAttention(nn.Module):
    """x -> x + gamma * attention(x), with gamma = 0 at the start: a new block is the identity.

    `scaled` divides the logits by sqrt(C/8), as the article does and the paper does not.
    `pooled` max-pools keys and values, as the authors' code does and the paper's text does not.
    """

    JOINED = ("query", "key", "value")  # layers that are computed as one convolution
    attend: Attend = staticmethod(plain_attention)

    def __init__(
        self, channels: int, *, scaled: bool, pooled: bool, **options: Unpack[LayerOptions]
    ) -> None:
        """`channels` must be a multiple of 8; the four 1 x 1 convolutions have no bias."""
        super().__init__()
        if channels % 8:
            raise ValueError(f"attention needs a multiple of 8 channels, got {channels}")
        narrow, half = channels // 8, channels // 2
        self.query = conv(channels, narrow, 1, bias=False, **options)
        self.key = conv(channels, narrow, 1, bias=False, **options)
        self.value = conv(channels, half, 1, bias=False, **options)
        self.output = conv(half, channels, 1, bias=False, **options)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.scaled, self.pooled = scaled, pooled
        self.scale = 1 / math.sqrt(narrow) if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), eq. 2 and 3."""
        query, key, value = self._projections(x)
        attended = self.attend(query, key, value, self.scale)  # (B, N, C/2)
        attended = attended.mT.unflatten(2, x.shape[2:])  # (B, C/2, H, W)
        return x + self.gamma * self.output(attended)

    def attention_map(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, M); row j says where position j looks, and sums to 1 (eq. 1).

        N = H * W; M = N / 4 with pooled keys, else N.
        """
        query, key, _ = self._projections(x)
        return (self.scale * query @ key.mT).softmax(dim=-1)

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, C/8), keys (B, M, C/8) and values (B, M, C/2), by one convolution."""
        maps = conv2d(x, torch.cat([getattr(self, name).weight for name in self.JOINED]))
        narrow, half = self.query.out_channels, self.value.out_channels
        queries, looked_at = maps.split([narrow, narrow + half], 1)
        if self.pooled:
            looked_at = max_pool2d(looked_at, 2)
        key, value = looked_at.flatten(2).mT.split([narrow, half], 2)
        return queries.flatten(2).mT, key, value
