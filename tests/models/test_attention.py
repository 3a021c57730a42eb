"""The attention block against loops written from the paper."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention

from ganctl.models import attention as module
from ganctl.models.attention import SelfAttention, chunked_attention, plain_attention
from ganctl.models.convnet import Discriminator
from ganctl.training.losses import gradient_penalty, r1_penalty


def block(channels: int = 16, *, scaled: bool = False, pooled: bool = True) -> SelfAttention:
    torch.manual_seed(3)
    made = SelfAttention(channels, scaled=scaled, pooled=pooled).double()
    torch.nn.init.constant_(made.gamma, 0.7)
    return made


def loops(attention: SelfAttention, x: torch.Tensor, scaled: bool, pooled: bool) -> torch.Tensor:
    """Eq. 1 to 3 for one image (C, H, W), position by position."""
    q, k, v, o = (
        layer.weight[:, :, 0, 0]
        for layer in (attention.query, attention.key, attention.value, attention.output)
    )
    height, width = x.shape[1:]
    places = [(i, j) for i in range(height) for j in range(width)]
    if pooled:
        corners = [(i, j) for i in range(0, height - 1, 2) for j in range(0, width - 1, 2)]
        window = [(0, 0), (0, 1), (1, 0), (1, 1)]
        regions = [[(i + a, j + b) for a, b in window] for i, j in corners]
    else:
        regions = [[place] for place in places]
    keys = [torch.stack([k @ x[:, i, j] for i, j in region]).amax(0) for region in regions]
    values = [torch.stack([v @ x[:, i, j] for i, j in region]).amax(0) for region in regions]
    y = x.clone()
    for i, j in places:
        logits = torch.stack([(q @ x[:, i, j]) @ key for key in keys])
        if scaled:
            logits = logits / math.sqrt(len(keys[0]))
        share = logits.exp() / logits.exp().sum()
        mixed = sum(s * value for s, value in zip(share, values, strict=True))
        y[:, i, j] += attention.gamma * (o @ mixed)
    return y


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_attention_equals_loops_written_from_the_paper(scaled: bool, pooled: bool) -> None:
    attention = block(scaled=scaled, pooled=pooled)
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    expected = torch.stack([loops(attention, image, scaled, pooled) for image in x])
    torch.testing.assert_close(attention(x), expected)


def test_new_attention_is_the_identity() -> None:
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(SelfAttention(16, scaled=True, pooled=True)(x), x)


def test_the_map_has_a_distribution_in_each_row() -> None:
    shares = block().attention_map(torch.randn(2, 16, 6, 4, dtype=torch.float64))
    assert shares.shape == (2, 24, 6)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 24, dtype=torch.float64))


def test_without_pooling_moving_pixels_moves_the_output() -> None:
    attention = block(pooled=False)
    x = torch.randn(1, 16, 3, 4, dtype=torch.float64)
    order = torch.randperm(12)
    moved = x.flatten(2)[:, :, order].unflatten(2, (3, 4))
    torch.testing.assert_close(attention(moved).flatten(2), attention(x).flatten(2)[:, :, order])


@pytest.mark.parametrize(("channels", "count"), [(64, 5_121), (128, 20_481), (256, 81_921)])
def test_parameters_are_those_of_the_official_block(channels: int, count: int) -> None:
    attention = SelfAttention(channels, scaled=False, pooled=True)
    assert sum(p.numel() for p in attention.parameters()) == count


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        SelfAttention(12, scaled=True, pooled=True)


def projections(images: int = 5) -> list[Tensor]:
    """Queries, keys and values of 24 and 6 positions."""
    stream = torch.Generator().manual_seed(0)
    shapes = ((images, 24, 2), (images, 6, 2), (images, 6, 8))
    return [
        torch.randn(shape, generator=stream, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def test_the_fused_kernel_is_given_rows_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the joined maps values are a slice, whose rows would not be aligned for a GPU's kernels."""
    given: list[Tensor] = []

    def note(*heads: Tensor, scale: float) -> Tensor:
        given.extend(heads)
        return scaled_dot_product_attention(*heads, scale=scale)

    monkeypatch.setattr(module, "scaled_dot_product_attention", note)
    attention = SelfAttention(32, scaled=True, pooled=True)
    attention(torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last))
    assert [each.is_contiguous() and each.storage_offset() == 0 for each in given] == [True] * 3


A_MAP = 24 * 6 * 8  # bytes


@pytest.mark.parametrize("kept", [0, 2**20])
@pytest.mark.parametrize("chunk", [1, 2 * A_MAP, 2**20])
def test_in_chunks_value_and_gradients_are_the_same(
    chunk: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(module, "KEPT_BYTES", kept)
    inputs = projections()
    plain, chunked = (attend(*inputs, 0.7) for attend in (plain_attention, chunked_attention))
    torch.testing.assert_close(chunked, plain)
    direction = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(chunked, inputs, direction),
        torch.autograd.grad(plain, inputs, direction),
    )


@pytest.mark.parametrize(("images", "are_kept"), [(3, True), (4, False)])
def test_more_maps_than_may_be_kept_are_not(
    images: int, are_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", A_MAP)
    monkeypatch.setattr(module, "KEPT_BYTES", 3 * A_MAP)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        chunked_attention(*projections(images=images), 0.7)
    assert (max(kept, default=0) >= 24 * 6) == are_kept


@pytest.mark.parametrize("kept", [0, 2**20])
def test_gradient_penalties_go_through_chunks(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "KEPT_BYTES", kept)
    torch.manual_seed(0)
    critic = Discriminator(
        resolution=16, width=8, attention_at=[8], attention_scaled=True, attention_pooled=True
    ).double()
    attention = critic.stages[0].attention
    assert isinstance(attention, SelfAttention)
    torch.nn.init.constant_(attention.gamma, 0.7)
    real, fake = torch.randn(2, 3, 3, 16, 16, dtype=torch.float64)
    mix = torch.full((3, 1, 1, 1), 0.3, dtype=torch.float64)
    weights = [*attention.parameters(), critic.stages[0].conv.bias]
    results = []
    for attend in (plain_attention, chunked_attention):
        attention.attend = attend
        penalty = r1_penalty(critic, real) + gradient_penalty(critic, real, fake, mix)
        results.append((penalty, torch.autograd.grad(penalty, weights)))
    torch.testing.assert_close(results[1], results[0])
