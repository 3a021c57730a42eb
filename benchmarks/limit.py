"""The limit of a step: its own convolutions and matrix products, alone and back to back."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ganctl.runtime import synchronize

PRODUCTS = {
    torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default,
    torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}  # fmt: skip
ROUNDS = 3


class Recorder(TorchDispatchMode):
    """Keeps the shapes, strides and types of every product's arguments, not their values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS:
            self.calls.append((func, *tree_map_only(Tensor, _described, (args, kwargs))))
        return func(*args, **kwargs)


class _Described:
    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.stride = tensor.shape, tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device

    def make(self) -> Tensor:
        made = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return made.fill_(0.5) if made.is_floating_point() else made.zero_()


def _described(tensor: Tensor) -> _Described:
    return _Described(tensor)


def products_alone(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that the products of one `step` take with nothing between them."""
    with Recorder() as recorder:
        step()
    total = 0.0
    for func, args, kwargs in recorder.calls:
        args, kwargs = tree_map_only(_Described, _Described.make, (args, kwargs))
        seconds = []
        for _ in range(ROUNDS):
            synchronize(device)
            started_at = time.perf_counter()
            func(*args, **kwargs)
            synchronize(device)
            seconds.append(time.perf_counter() - started_at)
        total += min(seconds)
    return total
