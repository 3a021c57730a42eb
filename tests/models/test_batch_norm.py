"""Batch norm over the images of several processes is that of one."""

import pytest
import torch
from crew import together
from torch import Tensor, nn

from ganctl import distributed
from ganctl.models.batch_norm import BatchNorm2d

CHANNELS, BATCH = 3, 8


def passed(
    norm: nn.BatchNorm2d, dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, Tensor]:
    """Two passes of this process's share, forwards and backwards; all that came of it."""
    stream = torch.Generator().manual_seed(1)
    kept = {}
    for number in range(2):
        x, to = (torch.randn(BATCH, CHANNELS, 4, 4, generator=stream) * 3 + 5 for _ in range(2))
        first, count = distributed.share(0, BATCH)
        own = x[first : first + count].to(dtype).contiguous(memory_format=layout).requires_grad_()
        y = norm(own)
        ((y.float() - to[first : first + count]).pow(3).mean()).backward()
        assert own.grad is not None
        kept |= {f"y{number}": y.detach(), f"gradient of x{number}": own.grad / distributed.size()}
    if norm.affine:
        distributed.average_gradients(norm, torch.zeros(()))
    kept |= {
        f"gradient of {name}": p.grad.clone()
        for name, p in norm.named_parameters()
        if p.grad is not None
    }
    return kept | norm.state_dict()


def in_processes(
    affine: bool, dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return passed(prepared(BatchNorm2d(CHANNELS, 1e-3, 0.2, affine=affine), dtype), dtype, layout)


def prepared(norm: nn.BatchNorm2d, dtype: torch.dtype) -> nn.BatchNorm2d:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.double() if dtype is torch.float64 else norm


@pytest.mark.parametrize(
    ("dtype", "affine", "layout", "size"),
    [
        (torch.float64, True, torch.contiguous_format, 2),
        (torch.float64, False, torch.channels_last, 4),
        (torch.float32, True, torch.channels_last, 2),
        (torch.bfloat16, True, torch.channels_last, 2),
    ],
)  # fmt: skip
def test_it_is_the_librarys_over_all_processes(
    dtype: torch.dtype, affine: bool, layout: torch.memory_format, size: int
) -> None:
    torch.manual_seed(0)
    expected = passed(
        prepared(nn.BatchNorm2d(CHANNELS, 1e-3, 0.2, affine=affine), dtype), dtype, layout
    )
    everywhere = together(size, in_processes, affine, dtype, layout)
    for name, tensor in expected.items():
        found = [each[name] for each in everywhere]
        # The loss' own gradients are rounded too where maps are in bf16.
        slack = {"rtol": 0.02, "atol": 0.01} if dtype is torch.bfloat16 else {}
        if name.startswith(("y", "gradient of x")):
            found = [torch.cat(found)]
        for each in found:
            torch.testing.assert_close(each, tensor, check_stride=False, **slack)
            assert torch.equal(each, found[0])


def test_alone_it_is_the_librarys_to_the_bit() -> None:
    for training in (True, False):
        torch.manual_seed(0)
        expected = prepared(nn.BatchNorm2d(CHANNELS), torch.float32).train(training)
        torch.manual_seed(0)
        ours = prepared(BatchNorm2d(CHANNELS), torch.float32).train(training)
        a, b = (passed(norm, torch.float32, torch.channels_last) for norm in (expected, ours))
        assert all(torch.equal(a[name], b[name]) for name in a)
